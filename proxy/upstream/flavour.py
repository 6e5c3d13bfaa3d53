"""Flavours: what is true of one registry and not of the protocol. A registry is one row of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from entrepot.cache.errors import SourceError, SourceMissing, SourceRefused


@dataclass(frozen=True, slots=True)
class Flavour:
    """One registry's ways."""

    name: str
    hosts: tuple[str, ...] = ()
    """Hosts in an upstream's `url` by which it is recognised, lower case."""
    realms: tuple[str, ...] = ()
    """Token servers that it may name besides its own origin: as origins, or with the path they begin with."""
    unauthorized_is_missing: bool = False
    """Whether a 401 to a good token, or to a request for an anonymous one, means that there is no such
    repository."""

    def denied(self, detail: str) -> SourceError:
        """What it means that a repository is not opened to us though nothing is wrong with our credential."""
        return SourceMissing(detail) if self.unauthorized_is_missing else SourceRefused(detail)


GENERIC: Final = Flavour("generic")

FLAVOURS: Final[tuple[Flavour, ...]] = (
    # A private and a missing repository look the same by design (distribution/distribution#3856).
    Flavour(
        "docker-hub",
        hosts=("registry-1.docker.io", "index.docker.io", "docker.io"),
        realms=("https://auth.docker.io",),
        unauthorized_is_missing=True,
    ),
    Flavour("gitlab", hosts=("registry.gitlab.com",), realms=("https://gitlab.com/jwt/auth",)),
)


def flavour_of(host: str) -> Flavour:
    """The flavour of the registry at this host, which is that of an upstream's `url`, without a port."""
    return next((flavour for flavour in FLAVOURS if host.lower() in flavour.hosts), GENERIC)


def canonical_repository(upstream: str, repository: str) -> str:
    """The repository's full name. Docker Hub's official images may be written without their `library/`; this
    goes by the upstream's name, whichever registry its `url` names."""
    if upstream == "docker.io" and "/" not in repository:
        return f"library/{repository}"
    return repository
