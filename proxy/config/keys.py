"""The one table of all keys of `upstreams.yaml`.

A new key is one row here and one field of the same name in `model`; the reader walks this table, and
`docs/configuration.md` is printed from it (`reference`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from . import surroundings, values
from .key import Key, NotBuilt, Place, Scalar, Section, Several, Single, TagDurations
from .model import CacheConfig, Credential, LogConfig, Timeouts


def _plain(form: str, read: Callable[[str], object]) -> Scalar:
    return Scalar(form, lambda text, around: read(text))


_ADDRESS: Final = _plain("HOST:PORT", values.address)
_TRUTH: Final = _plain("true or false", values.truth)
_DURATION: Final = _plain("duration", values.duration)
_SOME_DURATION: Final = _plain("duration", values.some_duration)
_VERDICT: Final = _plain("obey or serve", values.choice("obey", "serve"))

_TOP: Final[tuple[Place, ...]] = ("top",)
_EACH: Final[tuple[Place, ...]] = ("defaults", "upstream")
_UPSTREAM: Final[tuple[Place, ...]] = ("upstream",)
_CREDENTIALS: Final[tuple[Place, ...]] = ("credentials",)

KEYS: Final[tuple[Key, ...]] = (
    Key(
        "listen",
        _TOP,
        _ADDRESS,
        "127.0.0.1:5080",
        "Where clients pull. `0.0.0.0:5080` or `[::]:5080` for every interface; while it is not loopback, no "
        "upstream may have `credentials`.",
        reloadable=False,
    ),
    Key(
        "admin",
        _TOP,
        _ADDRESS,
        "127.0.0.1:5081",
        "Where people and monitoring look: `/metrics`, `/healthz`, `/readyz`, the admin API.",
        reloadable=False,
    ),
    Key(
        "admin_token_file",
        _TOP,
        Scalar("path", surroundings.secret_path),
        None,
        "A file with the token that the admin API asks for. Without one, only `control.sock` opens it.",
        shown="none",
    ),
    Key(
        "workers",
        _TOP,
        _plain("number", values.whole_number(1, 256)),
        surroundings.default_workers,
        "Processes that serve pulls.",
        shown="one for each core, at most 4",
        reloadable=False,
    ),
    Key(
        "drain",
        _TOP,
        _DURATION,
        "25s",
        "How long requests under way may go on after SIGTERM. Keep it below what your supervisor allows "
        "(Kubernetes: 30s).",
    ),
    Key(
        "trusted_proxies",
        _TOP,
        Several(_plain("network", values.network)),
        None,
        "Reverse proxies whose `X-Forwarded-For` is believed for the client's address in the log.",
        shown="none",
    ),
    Key(
        "offline",
        _TOP,
        _TRUTH,
        "false",
        "No upstream is ever asked; only what is here is served.",
    ),
    Key("log", _TOP, Section("log", LogConfig), None, "What the log on standard error looks like."),
    Key(
        "format",
        ("log",),
        _plain("text or json", values.choice("text", "json")),
        "text",
        "Lines for people, or one JSON object a line.",
    ),
    Key(
        "level",
        ("log",),
        _plain("debug, info, warning or error", values.choice("debug", "info", "warning", "error")),
        "info",
        "The least important line that is written. Requests are `info`.",
    ),
    Key("cache", _TOP, Section("cache", CacheConfig), None, "Where content is kept, and how much."),
    Key(
        "dir",
        ("cache",),
        Scalar("path", surroundings.directory),
        surroundings.cache_home,
        "The cache directory. One server has it at a time.",
        shown="`$XDG_CACHE_HOME/entrepot`, else `~/.cache/entrepot`",
        reloadable=False,
    ),
    Key(
        "max_size",
        ("cache",),
        _plain("size", values.some_size),
        None,
        "What is kept never takes more than this.",
        shown="80 % of the disk",
    ),
    Key(
        "min_free",
        ("cache",),
        _plain("size or percent", values.share),
        "5%",
        "Room that is left on the disk for others: of its size, or so many bytes.",
    ),
    Key(
        "defaults",
        _TOP,
        Section("defaults", None),
        None,
        "What holds for every upstream that does not say otherwise.",
    ),
    Key(
        "upstreams",
        _TOP,
        Section("upstreams", None),
        None,
        "The registries to mirror, by the name that image references begin with: `quay.io: {}`. No other is "
        "ever contacted.",
        shown="the six of `upstreams.yaml`",
    ),
    Key("*", ("upstreams",), NotBuilt()),
    Key(
        "url",
        _UPSTREAM,
        Single(_plain("URL", values.url)),
        None,
        "Where the registry really is. A path is put before every repository; `http://` is not encrypted.",
        shown="`https://NAME`; Docker Hub's own",
    ),
    Key(
        "default",
        _UPSTREAM,
        _TRUTH,
        "false",
        "Requests that name no upstream go here, as dockerd sends them. For one upstream at most.",
    ),
    Key(
        "prefix",
        _UPSTREAM,
        Several(_plain("path component", values.prefix)),
        None,
        "Another name for it in paths: with `prefix: hub`, `MIRROR/hub/library/nginx`.",
        shown="none",
        field="prefixes",
    ),
    Key(
        "credentials",
        _UPSTREAM,
        Section("credentials", Credential, listed=True),
        None,
        "What the upstream is asked with. Whatever it can read, all clients can pull: so only while `listen` "
        "is loopback.",
        shown="anonymous",
        field="credential",
    ),
    Key("username", _CREDENTIALS, _plain("text", values.username), None, "Must be given.", shown="–"),
    Key(
        "password_file",
        _CREDENTIALS,
        Scalar("path", surroundings.password_file),
        None,
        "A file that holds the password or token and nothing else. Read again when it changes.",
        shown="–",
        field="password",
    ),
    Key(
        "password_env",
        _CREDENTIALS,
        Scalar("variable", surroundings.password_env),
        None,
        "The environment variable that holds it.",
        shown="–",
        field="password",
    ),
    Key(
        "password",
        _CREDENTIALS,
        Scalar("text", surroundings.password, expanded=False),
        None,
        "The password itself. Only `${NAME}` should stand here; anything else gets a warning.",
        shown="–",
    ),
    Key(
        "ca_file",
        _UPSTREAM,
        Scalar("path", surroundings.certificates),
        None,
        "Certificates (PEM) to trust for this upstream, besides the system's.",
        shown="none",
    ),
    Key(
        "tag_ttl",
        _EACH,
        TagDurations(),
        "1m",
        "A tag confirmed less than this ago is answered without asking. Or a map of tag patterns, first "
        'match wins: `{"latest|main": 0s, "[0-9]*.[0-9]*.[0-9]*": 1h, "*": 1m}`; tags that match none go by '
        "the default. With `0s` all who ask at the same time share one HEAD.",
    ),
    Key("negative_ttl", _EACH, _DURATION, "10s", "How long a 404 is remembered."),
    Key(
        "stale_if_error",
        _EACH,
        _plain("duration or forever", values.duration_or_forever),
        "forever",
        "How long a stale tag may still be served while the upstream fails or limits the rate.",
    ),
    Key("timeout", _EACH, Section("timeout", Timeouts), None, "How long the upstream is waited for."),
    Key("connect", ("timeout",), _SOME_DURATION, "5s", "For a connection, TLS included."),
    Key("first_byte", ("timeout",), _SOME_DURATION, "15s", "For the headers of an answer."),
    Key("idle", ("timeout",), _SOME_DURATION, "30s", "Between two pieces of a download."),
    Key(
        "answer",
        ("timeout",),
        _SOME_DURATION,
        "20s",
        "Before our own headers, tokens and retries included. Keep it below 30s: then containerd gives up.",
    ),
    Key(
        "revalidate",
        ("timeout",),
        _SOME_DURATION,
        "2s",
        "After this a stale tag that can be served is served, and the asking goes on behind it.",
    ),
    Key(
        "offline",
        _EACH,
        _TRUTH,
        "false",
        "This upstream is never asked; only what is here is served.",
    ),
    Key(
        "on_gone",
        _EACH,
        _VERDICT,
        "obey",
        "When a tag that is held is gone upstream: `obey` answers 404, `serve` keeps serving it.",
    ),
    Key(
        "on_denied",
        _EACH,
        _VERDICT,
        "obey",
        "When the upstream refuses a repository of which something is held: `obey` answers 403, `serve` "
        "keeps serving it.",
    ),
    Key(
        "token_realms",
        _EACH,
        Several(_plain("host or URL", values.token_realm)),
        None,
        "Further token servers that the credential may go to, besides the registry's own host and those "
        "known for its kind. A host alone means https; a path covers what is under it.",
        shown="none",
    ),
    Key(
        "allow_private_hosts",
        _EACH,
        Several(_plain("host", values.host)),
        None,
        "Hosts that a public upstream may redirect to, or send for tokens, though their addresses are "
        "private.",
        shown="none",
    ),
    Key("access", _TOP, NotBuilt()),
    Key("tls", _TOP, NotBuilt()),
    Key("cluster", _TOP, NotBuilt()),
    Key("hosted", _UPSTREAM, NotBuilt()),
    Key("allow", _EACH, NotBuilt()),
    Key("deny", _EACH, NotBuilt()),
    Key("kind", _EACH, NotBuilt()),
    Key("parent", _EACH, NotBuilt()),
    Key("tag_policy", _EACH, NotBuilt()),
    Key("immutable_tags", _EACH, NotBuilt()),
    Key("foreign_layers", _EACH, NotBuilt()),
    Key("docker_config", _CREDENTIALS, NotBuilt()),
    Key("command", _CREDENTIALS, NotBuilt()),
    Key("role_arn", _CREDENTIALS, NotBuilt()),
    Key("external_id", _CREDENTIALS, NotBuilt()),
    Key("registry_ids", _CREDENTIALS, NotBuilt()),
    Key("endpoint_url", _CREDENTIALS, NotBuilt()),
)


def keys_of(place: Place) -> dict[str, Key]:
    """The keys that may stand in a place, by name, in the order of the table."""
    return {key.name: key for key in KEYS if place in key.where}
