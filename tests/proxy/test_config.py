"""What a configuration means, where nothing is wrong with it."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
from pathlib import Path

import pytest
from entrepot.proxy.config import (
    Address,
    Config,
    ConfigError,
    Credential,
    Document,
    Overrides,
    Share,
    TagRule,
    changed_without_reload,
    find_file,
    overrides_from_flags,
    parse,
    read,
)
from entrepot.proxy.config import document as document_module

ENVIRON = {"HOME": "/home/u", "HUB_TOKEN": "dckr_pat_1", "HOST": "quay.example", "N": "3"}


def config(text: str, overrides: Overrides | None = None, base: Path = Path("/etc/entrepot")) -> Config:
    return parse(text, "upstreams.yaml", base, overrides, environ=ENVIRON)


def test_an_empty_file_means_the_defaults() -> None:
    found = config("# nothing\n")
    assert found.listen == Address("127.0.0.1", 5080)
    assert found.admin == Address("127.0.0.1", 5081)
    assert found.admin_token_file is None
    assert 1 <= found.workers <= 4
    assert found.drain == 25.0
    assert found.trusted_proxies == ()
    assert (found.log.format, found.log.level) == ("text", "info")
    assert found.offline is False
    assert found.cache.dir == Path("/home/u/.cache/entrepot")
    assert found.cache.max_size is None
    assert found.cache.min_free == Share(percent=5.0)
    assert found.warnings == ()
    assert list(found.upstreams) == [
        "docker.io",
        "quay.io",
        "ghcr.io",
        "registry.k8s.io",
        "public.ecr.aws",
        "mcr.microsoft.com",
    ]
    hub = found.upstreams["docker.io"]
    assert found.default_upstream() is hub
    assert hub.url == "https://registry-1.docker.io"
    assert hub.prefixes == ()
    assert hub.credential is None
    assert hub.ca_file is None
    assert hub.token_realms == ()
    assert hub.allow_private_hosts == ()
    assert hub.offline is False
    assert hub.tag_ttl.rules == (TagRule("*", 60.0),)
    assert hub.negative_ttl == 10.0
    assert hub.stale_if_error == math.inf
    assert dataclasses.astuple(hub.timeout) == (5.0, 15.0, 30.0, 20.0, 2.0)
    assert (hub.on_gone, hub.on_denied) == ("obey", "obey")
    assert found.upstreams["quay.io"].url == "https://quay.io"


def test_every_key_is_read(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t\n")
    found = config(
        """
listen: "[::1]:6000"
admin: localhost:6001
admin_token_file: token
workers: 2
drain: 1m30s
trusted_proxies: [10.0.0.0/8, "::1"]
offline: false
log: {format: json, level: debug}
cache: {dir: ./var, max_size: 1.5TiB, min_free: 10GB}
upstreams:
  registry.corp.example:5000:
    url: http://Harbor.Internal:80/dockerhub-proxy/
    prefix: [hub, other]
    default: true
    credentials: [{username: acme, password_env: HUB_TOKEN}]
    token_realms: [auth.corp.example, "http://auth:8080/token"]
    allow_private_hosts: CDN.internal
    offline: true
    tag_ttl: 0
    negative_ttl: 0s
    stale_if_error: 7d
    timeout: {connect: 1s, first_byte: 2s, idle: 3s, answer: 4s, revalidate: 500ms}
    on_gone: serve
    on_denied: serve
""",
        base=tmp_path,
    )
    assert found.listen == Address("::1", 6000)
    assert str(found.listen) == "[::1]:6000"
    assert found.admin == Address("localhost", 6001)
    assert found.admin_token_file == tmp_path / "token"
    assert found.workers == 2
    assert found.drain == 90.0
    assert found.trusted_proxies == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128"))
    assert (found.log.format, found.log.level) == ("json", "debug")
    assert found.cache.dir == tmp_path / "var"
    assert found.cache.max_size == 3 * 1024**4 // 2
    assert found.cache.min_free == Share(bytes=10**10)
    (upstream,) = found.upstreams.values()
    assert upstream.name == "registry.corp.example:5000"
    assert upstream.url == "http://harbor.internal/dockerhub-proxy"
    assert upstream.prefixes == ("hub", "other")
    assert upstream.default
    assert upstream.credential is not None
    assert upstream.credential.username == "acme"
    assert upstream.credential.password.read() == "dckr_pat_1"
    assert upstream.token_realms == ("https://auth.corp.example", "http://auth:8080/token")
    assert upstream.allow_private_hosts == ("cdn.internal",)
    assert upstream.offline
    assert upstream.tag_ttl.of("latest") == 0.0
    assert (upstream.negative_ttl, upstream.stale_if_error) == (0.0, 7 * 86400.0)
    assert dataclasses.astuple(upstream.timeout) == (1.0, 2.0, 3.0, 4.0, 0.5)
    assert (upstream.on_gone, upstream.on_denied) == ("serve", "serve")
    assert found.warnings == ()


def test_an_upstream_beats_defaults_and_defaults_beat_the_table() -> None:
    found = config(
        """
defaults:
  negative_ttl: 1m
  timeout: {connect: 1s, idle: 9s}
  tag_ttl: {"latest": 0s, "*": 5m}
upstreams:
  quay.io: {timeout: {idle: 2s}, tag_ttl: {"v*": 1h}}
  ghcr.io: {negative_ttl: 2s, tag_ttl: 3s}
"""
    )
    quay, ghcr = found.upstreams["quay.io"], found.upstreams["ghcr.io"]
    assert dataclasses.astuple(quay.timeout) == (1.0, 15.0, 2.0, 20.0, 2.0)
    assert dataclasses.astuple(ghcr.timeout) == (1.0, 15.0, 9.0, 20.0, 2.0)
    assert (quay.negative_ttl, ghcr.negative_ttl) == (60.0, 2.0)
    assert [quay.tag_ttl.of(tag) for tag in ("v1", "latest", "main")] == [3600.0, 0.0, 300.0]
    assert ghcr.tag_ttl.rules == (TagRule("*", 3.0),)


@pytest.mark.parametrize(
    ("tag", "seconds"),
    [
        ("latest", 0.0),
        ("web-snapshot", 0.0),
        ("1.27.0", 3600.0),
        ("1.27.0-alpine", 3600.0),
        ("v1.27.0", 60.0),
        ("latest2", 60.0),
        ("Latest", 60.0),
    ],
)
def test_tags_go_by_the_first_pattern_that_matches(tag: str, seconds: float) -> None:
    found = config('defaults: {tag_ttl: {"latest|main|*-snapshot": 0s, "[0-9]*.[0-9]*.[0-9]*": 1h, "*": 1m}}')
    assert found.upstreams["docker.io"].tag_ttl.of(tag) == seconds


def test_names_aliases_and_prefixes_find_their_upstream() -> None:
    found = config(
        """
upstreams:
  docker.io: {prefix: hub}
  localhost:5000: {url: "http://localhost:5000"}
"""
    )
    hub = found.upstreams["docker.io"]
    for name in ("docker.io", "index.docker.io", "registry-1.docker.io", "Docker.io", "hub"):
        assert found.upstream_for(name) is hub
    assert found.upstream_for("localhost:5000") is found.upstreams["localhost:5000"]
    for name in ("localhost", "quay.io", "", "docker.io.evil"):
        assert found.upstream_for(name) is None
    assert found.default_upstream() is None


def test_an_alias_as_a_key_is_the_upstream_itself() -> None:
    found = config("upstreams: {index.docker.io: {default: true}}")
    assert list(found.upstreams) == ["docker.io"]
    assert found.upstreams["docker.io"].url == "https://registry-1.docker.io"


def test_without_docker_hub_its_aliases_find_nothing() -> None:
    assert config("upstreams: {quay.io: {}}").upstream_for("index.docker.io") is None


def test_nothing_under_a_name_is_as_good_as_braces() -> None:
    assert config("upstreams:\n  quay.io:\n") == config("upstreams: {quay.io: {}}")


def test_the_environment_is_put_in() -> None:
    found = config(
        'workers: "${N}"\nupstreams: {quay.io: {url: "https://${HOST}", credentials: {username: "a$${b}", '
        'password: "${HUB_TOKEN}"}}}'
    )
    assert found.workers == 3
    assert found.upstreams["quay.io"].url == "https://quay.example"
    credential = found.upstreams["quay.io"].credential
    assert credential is not None
    assert credential.username == "a${b}"
    assert credential.password.read() == "dckr_pat_1"
    assert found.warnings == ()


def test_a_literal_password_is_taken_with_a_warning() -> None:
    found = config("upstreams:\n  quay.io:\n    credentials:\n      username: bot\n      password: 0123\n")
    credential = found.upstreams["quay.io"].credential
    assert credential is not None
    assert credential.password.read() == "0123"
    (warning,) = found.warnings
    assert (warning.line, warning.key) == (5, "upstreams.quay.io.credentials.password")
    assert "0123" not in str(warning)


def test_a_pattern_that_is_never_used_is_a_warning() -> None:
    (warning,) = config('defaults:\n  tag_ttl:\n    "*": 1m\n    latest: 0s\n').warnings
    assert (warning.line, warning.key) == (4, "defaults.tag_ttl.latest")


def test_offline_is_every_upstream_offline() -> None:
    found = config("offline: true\nupstreams: {quay.io: {offline: false}}")
    assert found.offline
    assert found.upstreams["quay.io"].offline


def test_flags_beat_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = overrides_from_flags(
        listen="0.0.0.0:80", admin="127.0.0.1:0", cache_dir="var", workers="7", offline=True
    )
    found = config(
        "listen: 127.0.0.1:1\nadmin: 127.0.0.1:2\nworkers: 1\noffline: false\ncache: {dir: /x}", overrides
    )
    assert found.listen == Address("0.0.0.0", 80)
    assert found.admin == Address("127.0.0.1", 0)
    assert found.cache.dir == tmp_path / "var"
    assert found.workers == 7
    assert found.upstreams["quay.io"].offline
    assert overrides_from_flags() == Overrides()


def test_mistakes_in_flags_name_the_flag() -> None:
    with pytest.raises(ConfigError) as raised:
        overrides_from_flags(listen="5080", workers="0", cache_dir="")
    assert str(raised.value).splitlines() == [
        "--listen: must be HOST:PORT, such as 127.0.0.1:5080, or 0.0.0.0:5080 for every interface "
        "(found: 5080)",
        "--cache-dir: must not be empty",
        "--workers: must be a whole number from 1 to 256 (found: 0)",
    ]


def test_the_file_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    system = tmp_path / "etc" / "upstreams.yaml"
    monkeypatch.setattr(document_module, "PLACES", (Path("upstreams.yaml"), system))
    assert find_file() is None
    system.parent.mkdir()
    system.write_text("")
    assert find_file() == system
    Path("upstreams.yaml").symlink_to("nowhere")
    assert find_file() == Path("upstreams.yaml"), "a broken link is a mistake to tell, not to pass over"
    assert find_file(Path("mine.yaml")) == Path("mine.yaml")


def test_without_a_file_the_built_in_configuration_is_read() -> None:
    found = read(None, environ={"XDG_CACHE_HOME": "/var/tmp/c"})
    assert found.source == "built-in"
    assert found.cache.dir == Path("/var/tmp/c/entrepot")


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "password").write_text("s3cret")
    file = tmp_path / "conf" / "upstreams.yaml"
    file.write_text(
        "cache: {dir: var}\nupstreams: {quay.io: {credentials: {username: a, password_file: password}}}"
    )
    monkeypatch.chdir(tmp_path)
    found = read(Path("conf/upstreams.yaml"))
    assert found.source == "conf/upstreams.yaml"
    assert found.cache.dir == tmp_path / "conf" / "var"
    credential = found.upstreams["quay.io"].credential
    assert credential is not None
    assert credential.password.read() == "s3cret"


def test_a_tilde_is_the_users_home() -> None:
    assert config("cache: {dir: ~/c}").cache.dir == Path("/home/u/c")


def test_a_document_can_be_parsed_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "u.yaml"
    file.write_bytes(b"\xef\xbb\xbfworkers: 2\n")
    document = Document.load(file)
    file.unlink()
    assert parse(document.text, document.source, document.base_dir).workers == 2
    assert "workers" not in repr(document)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listen: 127.0.0.1:9", ["listen"]),
        ("admin: 127.0.0.1:9\nworkers: 9", ["admin", "workers"]),
        ("cache: {dir: /elsewhere, max_size: 1GB}", ["cache.dir"]),
        ("drain: 9s\nlog: {level: debug}\nupstreams: {quay.io: {}}", []),
    ],
)
def test_what_a_reload_cannot_change_is_named(text: str, expected: list[str]) -> None:
    same = "" if "workers" in text else "\nworkers: 2"
    assert changed_without_reload(config("workers: 2"), config(text + same)) == expected


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("mirror.example", False),
    ],
)
def test_loopback_is_told(host: str, loopback: bool) -> None:
    assert Address(host, 1).is_loopback is loopback


def test_room_on_a_disk() -> None:
    assert Share(bytes=7).of(100) == 7
    assert Share(percent=5.0).of(1000) == 50
    assert Share(percent=0.0).of(1000) == 0


def test_a_configuration_is_a_value() -> None:
    text = "upstreams: {quay.io: {credentials: {username: a, password: b}}}"
    assert config(text) == config(text)
    assert config(text) != config(text.replace("b}", "c}"))
    assert dataclasses.asdict(config(text))["upstreams"]["quay.io"]["name"] == "quay.io"


def test_the_identity_of_a_credential_changes_with_the_password() -> None:
    def identity(username: str, password: str) -> str:
        text = f"upstreams: {{quay.io: {{credentials: {{username: {username}, password: {password}}}}}}}"
        credential = config(text).upstreams["quay.io"].credential
        assert isinstance(credential, Credential)
        return credential.identity()

    assert identity("a", "b") == identity("a", "b")
    assert len({identity("a", "b"), identity("a", "c"), identity("b", "b")}) == 3
