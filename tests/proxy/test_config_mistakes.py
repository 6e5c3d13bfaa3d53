"""Each kind of mistake: the line it is told for, the key, and what is said."""

# ruff: noqa: E501  # a case is a line of the table

from __future__ import annotations

from pathlib import Path

import pytest
from entrepot.proxy.config import ConfigError, Overrides, parse, read
from entrepot.proxy.config.document import SIZE_LIMIT
from entrepot.proxy.config.values import address
from hypothesis import given, settings
from hypothesis import strategies as st

ENVIRON = {"HOME": "/home/u", "EMPTY": "", "USER_AND_PASSWORD": "https://u:hunter2@x"}


def mistakes(text: str, base: Path = Path("/nonexistent"), overrides: Overrides | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse(text, "u.yaml", base, overrides, environ=ENVIRON)
    assert "hunter2" not in str(raised.value), "a secret must not be shown"
    return str(raised.value).splitlines()


QUAY = "upstreams:\n  quay.io:\n    "

CASES = [
    # unknown and misplaced keys
    ("\nlissten: x", ["u.yaml:2: lissten: is no key; did you mean `listen`?"]),
    ("cache:\n  max-size: 1GB", ["u.yaml:2: cache.max-size: is no key; did you mean `max_size`?"]),
    (
        "log:\n  zzz: 1",
        ["u.yaml:2: log.zzz: is no key; under `log:` may stand: format, level"],
    ),
    ("negative_ttl: 1s", ["u.yaml:1: negative_ttl: stands under `defaults:` or under an upstream, not here"]),
    (
        "cache:\n  first_bite: 1s",
        ["u.yaml:2: cache.first_bite: is no key; did you mean `first_byte`? That stands under `timeout:`, not here"],
    ),
    ("quay.io: {}", ["u.yaml:1: quay.io: is no key; registries stand under `upstreams:`"]),
    (
        "upstreams:\n  ghcr.io: {}\n  offline: true",
        ["u.yaml:3: upstreams.offline: stands under `defaults:` or under an upstream, not here"],
    ),
    # keys of later work
    ("tls: {}", ["u.yaml:1: tls: is not built yet in this version"]),
    ("access:\n- x", ["u.yaml:1: access: is not built yet in this version"]),
    ("cluster: 1", ["u.yaml:1: cluster: is not built yet in this version"]),
    ("defaults:\n  parent: x", ["u.yaml:2: defaults.parent: is not built yet in this version"]),
    (QUAY + "hosted: true", ["u.yaml:3: upstreams.quay.io.hosted: is not built yet in this version"]),
    (QUAY + "allow: [a]", ["u.yaml:3: upstreams.quay.io.allow: is not built yet in this version"]),
    (
        QUAY + "credentials:\n      docker_config: ~/.docker/config.json",
        ["u.yaml:4: upstreams.quay.io.credentials.docker_config: is not built yet in this version"],
    ),
    ('upstreams:\n  "*": {}', ["u.yaml:2: upstreams.*: is not built yet in this version: name each registry"]),
    (
        QUAY + "url: [https://a, https://b]",
        [
            "u.yaml:3: upstreams.quay.io.url: must be one URL, not 2: more are not built yet in this version",
        ],
    ),
    (
        QUAY + "credentials: [{}, {}, {}]",
        [
            "u.yaml:3: upstreams.quay.io.credentials: must be one credential, not 3: more are not built yet in "
            "this version"
        ],
    ),
    # wrong types
    ("workers: many", ["u.yaml:1: workers: must be a whole number from 1 to 256 (found: many)"]),
    ("workers: 0", ["u.yaml:1: workers: must be a whole number from 1 to 256 (found: 0)"]),
    ("workers: [1]", ["u.yaml:1: workers: must be one value (number), not a list"]),
    ("drain:\n  x: 1", ["u.yaml:2: drain: must be one value (duration), not a mapping"]),
    ("offline: maybe", ["u.yaml:1: offline: must be true or false (found: maybe)"]),
    ("drain:", ["u.yaml:1: drain: has no value (duration): give it one, or leave the key out"]),
    ('drain: ""', ["u.yaml:1: drain: must not be empty"]),
    ("cache: ./var", ["u.yaml:1: cache: must hold keys, such as `dir:`, not a single value"]),
    ("log: [text]", ["u.yaml:1: log: must hold keys, such as `format:`, not a list"]),
    ("- a", ["u.yaml:1: must hold keys, such as `listen:`, not a list"]),
    ("word", ["u.yaml:1: must hold keys, such as `listen:`, not a single value"]),
    (
        "upstreams:\n- quay.io",
        ["u.yaml:2: upstreams: must hold registries, such as `quay.io: {}`, not a list"],
    ),
    ("upstreams:\n  quay.io: x", ["u.yaml:2: upstreams.quay.io: must hold keys, such as `url:`, not a single value"]),
    ("1: 2\n[a]: b", ["u.yaml:1: 1: is no key; at the top may stand: listen, admin, admin_token_file, workers, "
        "drain, trusted_proxies, offline, log, cache, defaults, upstreams", "u.yaml:2: holds a key that is no text"]),
    ("log:\n  format: xml", ["u.yaml:2: log.format: must be text or json (found: xml)"]),
    # sizes, durations, addresses, networks
    ("cache: {max_size: 50G}", ["u.yaml:1: cache.max_size: must say which unit it means: 50GiB (1024) or 50GB (1000) (found: 50G)"]),
    ("cache: {max_size: 50}", ["u.yaml:1: cache.max_size: must have a unit: 50GiB? 50MB? 50B? (found: 50)"]),
    ("cache: {max_size: 0}", ["u.yaml:1: cache.max_size: must be more than 0 (found: 0)"]),
    ("cache: {min_free: 100%}", ["u.yaml:1: cache.min_free: must be less than 100%: nothing could be kept (found: 100%)"]),
    ("drain: 30", ["u.yaml:1: drain: must have a unit: 30s? 30m? 30h? (found: 30)"]),
    ("drain: forever", ["u.yaml:1: drain: must be a duration such as 15m; `forever` is only for `stale_if_error` (found: forever)"]),
    ("defaults:\n  timeout:\n    idle: 0s", ["u.yaml:3: defaults.timeout.idle: must be more than 0s (found: 0s)"]),
    ("listen: :5080", ["u.yaml:1: listen: must be HOST:PORT, such as 127.0.0.1:5080, or 0.0.0.0:5080 for every interface (found: :5080)"]),
    ("listen: ::1:80", ["u.yaml:1: listen: must have its IPv6 address in brackets, such as [::1]:80 (found: ::1:80)"]),
    ("listen: localhost:70000", ["u.yaml:1: listen: must end with a port from 0 to 65535 (found: localhost:70000)"]),
    ("trusted_proxies:\n- 10.0.0.0/8\n- 10.0.0.1/8", ["u.yaml:3: trusted_proxies: must not have bits set behind the network's: 10.0.0.0/8, or the address alone (found: 10.0.0.1/8)"]),
    ("trusted_proxies: proxy", ["u.yaml:1: trusted_proxies: must be an address or a network such as 10.0.0.0/8 (found: proxy)"]),
    ("admin: 127.0.0.1:5080", ["u.yaml:1: admin: 127.0.0.1:5080 is taken by `listen` (127.0.0.1:5080): give it another port"]),
    ("listen: 0.0.0.0:5081", ["u.yaml: admin: 127.0.0.1:5081 is taken by `listen` (0.0.0.0:5081): give it another port"]),
    # patterns of tags
    ('defaults:\n  tag_ttl:\n    "^v": 1s', ["u.yaml:3: defaults.tag_ttl.^v: must be a pattern of tags: their characters, `*`, `?`, `[0-9]`, and `|` between alternatives"]),
    ('defaults:\n  tag_ttl:\n    "a|": 1s', ["u.yaml:3: defaults.tag_ttl.a|: must be a pattern of tags: their characters, `*`, `?`, `[0-9]`, and `|` between alternatives"]),
    ('defaults:\n  tag_ttl:\n    "*": soon', ["u.yaml:3: defaults.tag_ttl.*: must be a duration such as 15m, 1h30m or 0s (units: w, d, h, m, s, ms) (found: soon)"]),
    ("defaults:\n  tag_ttl: [1s]", ['u.yaml:2: defaults.tag_ttl: must hold patterns, such as `"latest": 0s`, not a list']),
    # names of upstreams
    ("upstreams: {}", ["u.yaml:1: upstreams: names no registry, so nothing is mirrored: name one, such as `quay.io: {}`, or leave the key out for the built-in ones"]),
    ("upstreams:", ["u.yaml:1: upstreams: names no registry, so nothing is mirrored: name one, such as `quay.io: {}`, or leave the key out for the built-in ones"]),
    ("upstreams:\n  Quay.io:", ["u.yaml:2: upstreams.Quay.io: must be in lower case: `quay.io`"]),
    ("upstreams:\n  https://quay.io:", ["u.yaml:2: upstreams.https://quay.io: must be the registry's name as in an image reference; its address goes under `url:`"]),
    ("upstreams:\n  ghcr.io/org:", ["u.yaml:2: upstreams.ghcr.io/org: must end before the first `/`: `ghcr.io` mirrors all that is there"]),
    ("upstreams:\n  hub:", ["u.yaml:2: upstreams.hub: has neither a dot nor a port, so that no client takes it for a registry; put the registry's own name here, and under it `prefix: hub`"]),
    ("upstreams:\n  a.b:99999:", ["u.yaml:2: upstreams.a.b:99999: must end with a port from 1 to 65535, or have none"]),
    ("upstreams:\n  -a.b:", ["u.yaml:2: upstreams.-a.b: must be a registry's host, such as quay.io or registry.corp.example:5000"]),
    ("upstreams:\n  docker.io:\n  index.docker.io:", ["u.yaml:3: upstreams.index.docker.io: is another name of docker.io, which is in line 2 already"]),
    # prefixes and defaults
    ("upstreams:\n  a.b:\n    prefix: x\n  c.d:\n    prefix: x", ["u.yaml:5: upstreams.c.d.prefix: `x` means a.b already: choose another"]),
    ("upstreams:\n  a.b:\n    prefix: c.d\n  c.d:", ["u.yaml:3: upstreams.a.b.prefix: `c.d` means c.d already: choose another"]),
    (QUAY + "prefix: quay.io", ["u.yaml:3: upstreams.quay.io.prefix: `quay.io` means this upstream already: leave it out"]),
    (QUAY + "prefix: [x, x]", ["u.yaml:3: upstreams.quay.io.prefix: `x` means this upstream already: leave it out"]),
    (QUAY + "prefix: index.docker.io", ["u.yaml:3: upstreams.quay.io.prefix: `index.docker.io` means docker.io already: choose another"]),
    (QUAY + "prefix: a/b", ["u.yaml:3: upstreams.quay.io.prefix: must be a single component of a path, without `/` (found: a/b)"]),
    (QUAY + "prefix: Hub", ["u.yaml:3: upstreams.quay.io.prefix: must be lower-case letters and digits, with single `.`, `_` or `-` between them (found: Hub)"]),
    ("upstreams:\n  a.b: {default: true}\n  c.d: {default: true}", ["u.yaml:3: upstreams.c.d.default: a.b is the default already (line 2): there can be only one"]),
    # URLs and hosts
    (QUAY + "url: quay.io", ["u.yaml:3: upstreams.quay.io.url: must begin with https:// or http://"]),
    (QUAY + "url: https://u:hunter2@quay.io", ["u.yaml:3: upstreams.quay.io.url: must hold no user name and no password: they go under `credentials:`"]),
    (QUAY + "url: ${USER_AND_PASSWORD}", ["u.yaml:3: upstreams.quay.io.url: must hold no user name and no password: they go under `credentials:`"]),
    (QUAY + "url: https://quay.io/?t=hunter2", ["u.yaml:3: upstreams.quay.io.url: must have no query and no fragment"]),
    (QUAY + 'url: "https://quay.io/#"', ["u.yaml:3: upstreams.quay.io.url: must have no query and no fragment"]),
    (QUAY + "url: https://quay.io/v2/", ["u.yaml:3: upstreams.quay.io.url: must not contain /v2: it is put there by itself"]),
    (QUAY + "url: https://quay.io/Proxy", ["u.yaml:3: upstreams.quay.io.url: must have a path that can stand before a repository's name: lower case, no empty parts"]),
    (QUAY + "url: https://quay.io:x", ["u.yaml:3: upstreams.quay.io.url: must be a URL such as https://registry.example"]),
    (QUAY + 'url: "https://quay io"', ["u.yaml:3: upstreams.quay.io.url: must hold no spaces and no control characters"]),
    (QUAY + "url: https://-", ["u.yaml:3: upstreams.quay.io.url: must name a host, in ASCII"]),
    (QUAY + "allow_private_hosts: cdn:80", ["u.yaml:3: upstreams.quay.io.allow_private_hosts: must be a host's name or address, without scheme, port and path (found: cdn:80)"]),
    (QUAY + "ca_file: none.pem", ["u.yaml:3: upstreams.quay.io.ca_file: names /nonexistent/none.pem, which cannot be used: No such file or directory"]),
    # credentials
    (QUAY + "credentials: {}", ["u.yaml:3: upstreams.quay.io.credentials: needs a `username`", "u.yaml:3: upstreams.quay.io.credentials: needs a `password_file`, `password_env` or `password`"]),
    (QUAY + "credentials: {username: a, password: hunter2, password_env: HOME}", ["u.yaml:3: upstreams.quay.io.credentials: has `password_env` and `password`: keep one"]),
    (QUAY + 'credentials: {username: "a:hunter2", password_env: HOME}', ["u.yaml:3: upstreams.quay.io.credentials.username: must contain neither a colon nor control characters"]),
    (QUAY + "credentials:\n      username: a\n      password_env: NOPE", ["u.yaml:5: upstreams.quay.io.credentials.password_env: names NOPE, which is not set in the environment"]),
    (QUAY + "credentials:\n      username: a\n      password_env: EMPTY", ["u.yaml:5: upstreams.quay.io.credentials.password_env: names EMPTY, which is empty in the environment"]),
    (QUAY + "credentials:\n      username: a\n      password_env: $hunter2!", ["u.yaml:5: upstreams.quay.io.credentials.password_env: must be the name of an environment variable, without `$`"]),
    (QUAY + "credentials:\n      username: a\n      password: ${NOPE}", ["u.yaml:5: upstreams.quay.io.credentials.password: names NOPE, which is not set in the environment"]),
    (QUAY + "credentials:\n      username: a\n      password: hunter2${", ["u.yaml:5: upstreams.quay.io.credentials.password: must have `${` only as part of `${NAME}`; write `$${` for the characters themselves"]),
    (QUAY + "credentials:\n      username: a\n      password_file: none", ["u.yaml:5: upstreams.quay.io.credentials.password_file: names /nonexistent/none, which cannot be used: No such file or directory"]),
    (QUAY + "credentials: []", ["u.yaml:3: upstreams.quay.io.credentials: must be one credential, not an empty list"]),
    ("admin_token_file: none", ["u.yaml:1: admin_token_file: names /nonexistent/none, which cannot be used: No such file or directory"]),
    # the environment
    ("drain: ${NOPE}", ["u.yaml:1: drain: needs NOPE, which is not set in the environment (found: ${NOPE})"]),
    ("drain: ${EMPTY}", ["u.yaml:1: drain: must not be empty (found: ${EMPTY})"]),
    ("drain: ${A:-1s}", ["u.yaml:1: drain: must have `${` only as part of `${NAME}`; write `$${` for the characters themselves (found: ${A:-1s})"]),
    # YAML itself
    ("drain: 1s\nlisten: 127.0.0.1:1\ndrain: 2s", ["u.yaml:3: drain: stands here a second time, after line 1: keep one"]),
    ("upstreams:\n  a.b:\n  a.b:", ["u.yaml:3: upstreams.a.b: stands here a second time, after line 2: keep one"]),
    ("drain: *x", ["u.yaml:1: drain: begins with `*`, a YAML alias, which is not read: put it in quotes, or write it out"]),
    ("drain: &x 1s", ["u.yaml:1: drain: begins with `&`, a YAML anchor, which is not read: put it in quotes, or leave the anchor out"]),
    ("drain: !hunter2 1s", ["u.yaml:1: drain: begins with `!`, a YAML tag, which is not read: put it in quotes, or leave the tag out"]),
    ("drain: !!python/object:os.system 1s", ["u.yaml:1: drain: begins with `!`, a YAML tag, which is not read: put it in quotes, or leave the tag out"]),
    ("cache: &c\n  max_sise: 1GB", ["u.yaml:1: cache: begins with `&`, a YAML anchor, which is not read: put it in quotes, or leave the anchor out", "u.yaml:2: cache.max_sise: is no key; did you mean `max_size`?"]),
    ("cache:\n  <<: *c", ["u.yaml:2: cache: holds `<<`: YAML's merging is not read; `defaults:` is for that"]),
    ("defaults:\n  *x : 1", ["u.yaml:2: defaults: holds a key that begins with `*`, a YAML alias, which is not read: put it in quotes, or write it out"]),
    ("trusted_proxies: [*x, 10.0.0.0/8]", ["u.yaml:1: trusted_proxies: begins with `*`, a YAML alias, which is not read: put it in quotes, or write it out"]),
    ("cache:\n\tdir: x", ["u.yaml:2: is not YAML: indent with spaces, not with tabs"]),
    ("defaults:\n  tag_ttl: {*: 1s}", ["u.yaml:2: is not YAML: what begins with `*` must stand in quotes"]),
    ("drain: @x", ["u.yaml:1: is not YAML: what begins with `@`, `%` or a backtick must stand in quotes"]),
    ("drain: !hunter2!x 1s", ["u.yaml:1: is not YAML: what begins with `!` must stand in quotes"]),
    ("cache: {dir: ${X}}", ["u.yaml:1: is not YAML: within braces or brackets `${NAME}` must stand in quotes"]),
    ("drain: 1s\n---\ndrain: 2s", ["u.yaml:2: holds a second document after `---`: put everything into one"]),
    ("drain: 1s: 2s", ["u.yaml:1: is not YAML: a second `: ` in a line, or a wrong indentation; a value with `: ` in it must stand in quotes"]),
    ('drain: "1s\n\nlisten: x', ["u.yaml:3: is not YAML: found unexpected end of stream (while scanning a quoted scalar, begun in line 1)"]),
    ("\n\ndrain: \x01", ["u.yaml:3: holds a control character"]),
    ("drain: " + "[" * 100, ["u.yaml:1: is not YAML: nested too deeply"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[text[:40] for text, _ in CASES])
def test_a_mistake_is_told(text: str, expected: list[str]) -> None:
    assert mistakes(text) == expected


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
listen: 0.0.0.0:5080
drain: soon
upstreams:
  quay.io:
    default: true
    credentials: {username: a, password: hunter2}
  ghcr.io:
    default: true
    url: ftp://x
cache: {dri: x}
"""
    assert [line.split(" ")[0] + " " + line.split(" ")[1] for line in mistakes(text, tmp_path)] == [
        "u.yaml:2: drain:",
        "u.yaml:6: upstreams.quay.io.credentials:",
        "u.yaml:8: upstreams.ghcr.io.default:",
        "u.yaml:9: upstreams.ghcr.io.url:",
        "u.yaml:10: cache.dri:",
    ]


def test_credentials_need_a_loopback_listener() -> None:
    text = "upstreams:\n  quay.io:\n    credentials: {username: a, password_env: HOME}\n"
    assert parse(text, "u.yaml", Path("/"), environ=ENVIRON).listen.is_loopback
    (line,) = mistakes(text, overrides=Overrides(listen=address("[::]:5080")))
    assert line.startswith(
        "u.yaml:3: upstreams.quay.io.credentials: anyone who reaches [::]:5080 could pull what"
    )


def test_files_that_are_no_secrets(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"hunter2\xff")
    (tmp_path / "long").write_bytes(b"x" * 70_000)
    (tmp_path / "directory").mkdir()
    for name, reason in {
        "empty": "it is empty",
        "binary": "it is not UTF-8 text",
        "long": "it is longer than 65536 bytes",
        "directory": "Is a directory",
    }.items():
        text = f"{QUAY}credentials: {{username: a, password_file: {name}}}"
        (line,) = mistakes(text, tmp_path)
        assert line.endswith(f"password_file: names {tmp_path / name}, which cannot be used: {reason}")


def test_a_file_without_certificates(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("-----BEGIN NOTHING-----")
    (line,) = mistakes(f"{QUAY}ca_file: ca.pem", tmp_path)
    assert line.endswith(f"names {tmp_path / 'ca.pem'}, which holds no certificate in PEM form")


def test_a_cache_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("")
    (line,) = mistakes("cache:\n  dir: var", tmp_path)
    assert line == f"u.yaml:2: cache.dir: names {tmp_path / 'var'}, which is no directory"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    with pytest.raises(ConfigError, match=f"^{missing}: cannot be read: there is no such file$"):
        read(missing)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe9")
    with pytest.raises(ConfigError, match=r"latin.yaml:2: is not UTF-8 text"):
        read(tmp_path / "latin.yaml")
    (tmp_path / "huge.yaml").write_bytes(b"#" * (SIZE_LIMIT + 1))
    with pytest.raises(ConfigError, match=f"is longer than {SIZE_LIMIT} bytes"):
        read(tmp_path / "huge.yaml")


def test_a_bomb_of_aliases_is_harmless() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    assert len(mistakes("\n".join(lines))) == 60


def test_an_error_of_yaml_does_not_carry_the_text() -> None:
    with pytest.raises(ConfigError) as raised:
        parse("password: hunter2\n\tx", "u.yaml", Path("/"))
    assert raised.value.__context__ is None
    assert raised.value.__cause__ is None


WHOLE = """\
listen: 127.0.0.1:5080
cache: {dir: var, max_size: 50GiB}
defaults:
  tag_ttl: {"latest|main": 0s, "*": 1m}
  timeout:
    connect: 5s
upstreams:
  docker.io:
    default: true
    credentials:
      - {username: acme, password_env: HOME}
  quay.io: {prefix: [q, r], url: "https://h/p"}
"""


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, len(WHOLE)),
    st.integers(0, 20),
    st.text("abc:{}[]-*&!|>'\"#%@`?,~<$ \t\n\x00\ud800é", max_size=8),
)
def test_any_damage_is_read_or_told(start: int, length: int, inserted: str) -> None:
    text = WHOLE[:start] + inserted + WHOLE[start + length :]
    try:
        problems = parse(text, "u.yaml", Path("/nonexistent"), environ=ENVIRON).warnings
    except ConfigError as error:
        problems = error.problems
        assert problems
    assert all(str(problem).isprintable() for problem in problems)
