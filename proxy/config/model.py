"""The configuration as values. Nothing here reads a file, but for a secret when it is asked."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path
from typing import Final, Literal

from .problem import Problem
from .secret import Secret

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Verdict = Literal["obey", "serve"]
"""What to do when an upstream says that content is gone, or refuses it: believe it, or serve what is held."""

ALIASES: Final[Mapping[str, str]] = {"index.docker.io": "docker.io", "registry-1.docker.io": "docker.io"}
"""Other names of an upstream. Docker itself writes Docker Hub in three ways."""


def canonical_name(name: str) -> str:
    """An upstream's one name, for any of the names that clients use for it; others only in lower case."""
    name = name.lower()
    return ALIASES.get(name, name)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener is bound."""

    host: str
    """A name or an address; IPv6 without brackets."""
    port: int
    """0: whichever is free."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Share:
    """Room on a disk: so many bytes, or so much of its size."""

    bytes: int = 0
    percent: float | None = None
    """Counts instead of `bytes`, where given."""

    def of(self, disk: int) -> int:
        """In bytes, on a disk of so many bytes."""
        return self.bytes if self.percent is None else int(disk * self.percent / 100)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long an upstream is waited for, in seconds."""

    connect: float
    """For a connection, TLS included."""
    first_byte: float
    """For the headers of an answer, once the request is sent."""
    idle: float
    """Between two pieces of a body."""
    answer: float
    """Before our own headers, tokens and retries included."""
    revalidate: float
    """Before a stale tag that can be served is served."""


@dataclass(frozen=True, slots=True)
class TagRule:
    """How long a tag of this form is taken as it is."""

    pattern: str
    """Alternatives with `|` between them, each with `*`, `?` and `[…]` as the shell has them."""
    ttl: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class TagTtl:
    """Rules for the age at which a tag is confirmed again. The last one is always for every tag."""

    rules: tuple[TagRule, ...]

    def of(self, tag: str) -> float:
        """Seconds. The first rule that matches wins; without one a tag is asked for each time."""
        for rule in self.rules:
            if rule.pattern == "*" or _tag_pattern(rule.pattern).match(tag) is not None:
                return rule.ttl
        return 0.0


@functools.lru_cache(maxsize=1024)
def _tag_pattern(pattern: str) -> re.Pattern[str]:
    return re.compile("|".join(translate(alternative) for alternative in pattern.split("|")))


@dataclass(frozen=True, slots=True)
class Credential:
    """What an upstream is asked with."""

    username: str
    password: Secret

    def identity(self) -> str:
        """Names this credential without giving it away, in logs and as a key. Changes when the password
        does. Reads the password: see `Secret.read`."""
        return self.password.fingerprint(self.username)


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """One registry that is mirrored. What `defaults:` says is already in it."""

    name: str
    """The registry as users write it in a reference, lower case, with its port if it has one."""
    url: str
    """Scheme, host, perhaps port and path; no slash at the end. The path is put before every repository."""
    prefixes: tuple[str, ...]
    """Other names for it as the first component of a path."""
    default: bool
    """Whether requests that name no upstream go here."""
    credential: Credential | None
    ca_file: Path | None
    """Certificates to trust for this upstream, besides the system's."""
    token_realms: tuple[str, ...]
    """URLs (`https://auth.example.com`, `https://git.example/jwt/auth`; a port only if it is not the
    scheme's own, no slash at the end) to which, and under which, this upstream's credential may also be
    sent when the upstream names them as its token server."""
    allow_private_hosts: tuple[str, ...]
    """Hosts, lower case, no port, that may have addresses which are not global though the upstream's has."""
    offline: bool
    """Never asked; also when the whole mirror is offline."""
    tag_ttl: TagTtl
    negative_ttl: float
    """Seconds that a 404 is remembered."""
    stale_if_error: float
    """Seconds that a stale tag may still be served while the upstream fails; infinite for `forever`."""
    timeout: Timeouts
    on_gone: Verdict
    on_denied: Verdict


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Where content is kept, and how much of it."""

    dir: Path
    max_size: int | None
    """Bytes; None for 80 % of the disk, which whoever opens the cache works out."""
    min_free: Share


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What the log looks like and how much it says."""

    format: Literal["text", "json"]
    level: Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration of a mirror, checked."""

    listen: Address
    admin: Address
    admin_token_file: Path | None
    workers: int
    drain: float
    """Seconds that requests under way are given when the server stops."""
    trusted_proxies: tuple[Network, ...]
    log: LogConfig
    offline: bool
    cache: CacheConfig
    upstreams: Mapping[str, UpstreamConfig]
    """By name, in the order of the file."""
    source: str
    """The file as it was named, or `built-in`."""
    warnings: tuple[Problem, ...] = ()
    """What works but should not stay so."""
    _names: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = {
            prefix: upstream.name for upstream in self.upstreams.values() for prefix in upstream.prefixes
        }
        names |= {alias: name for alias, name in ALIASES.items() if name in self.upstreams}
        names |= {name: name for name in self.upstreams}
        object.__setattr__(self, "_names", names)

    def default_upstream(self) -> UpstreamConfig | None:
        """The upstream for requests that name none."""
        return next((upstream for upstream in self.upstreams.values() if upstream.default), None)

    def upstream_for(self, name: str) -> UpstreamConfig | None:
        """The upstream of this name, alias or prefix, in any case of letters."""
        found = self._names.get(name.lower())
        return None if found is None else self.upstreams[found]


@dataclass(frozen=True, slots=True)
class Overrides:
    """What flags say. None leaves it to the file."""

    listen: Address | None = None
    admin: Address | None = None
    cache_dir: Path | None = None
    workers: int | None = None
    offline: bool | None = None
