"""The path of a request, parsed once into a value that routing, the log and the upstream's URL all use.

Endpoints: distribution-spec, Endpoints. A path is read from the right, because a repository's component may
itself be called `blobs`, `manifests` or `tags`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qs

from entrepot.cache.digest import Digest
from entrepot.cache.errors import InvalidDigest, InvalidReference
from entrepot.cache.reference import Repository, check_name, parse_reference

from ..config import Config, UpstreamConfig
from ..errors import (
    DIGEST_INVALID,
    NAME_INVALID,
    NAME_UNKNOWN,
    NOT_FOUND,
    TAG_INVALID,
    NotConfigured,
    RegistryError,
)
from ..upstream.flavour import canonical_repository

Endpoint = Literal["base", "manifest", "blob", "tags", "referrers", "uploads", "catalog"]

_COLON: Final = re.compile("%3a", re.IGNORECASE)
_PRINTABLE: Final = re.compile(r"[^!-~]")
_NS_LIMIT: Final = 255


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes."""

    endpoint: Endpoint
    upstream: UpstreamConfig | None = None
    repository: Repository | None = None
    """By the upstream's own name for it: `library/nginx` where the client said `nginx`."""
    reference: str | Digest | None = None
    """A tag or a digest, behind `manifests/`; a digest, behind `blobs/` and `referrers/`."""
    namespace: str | None = None
    """`ns=` as the client sent it, to be echoed."""


def parse(target: str, host: str, config: Config) -> Route:
    """Reads the target of a request line, as it came: nothing in it is decoded but the colon of a digest.
    Raises `RegistryError`."""
    path, _, query = target.partition("?")
    if path in ("/v2/", "/v2"):
        return Route("base")
    if not path.startswith("/v2/"):
        raise RegistryError(NOT_FOUND, "the registry API is under /v2/")
    path = _COLON.sub(":", path[len("/v2/") :])
    if path == "_catalog":
        return Route("catalog")
    endpoint, components, reference = _split(path.split("/"))
    namespace = _namespace(query)
    upstream, components = _upstream(components, namespace, host, config)
    try:
        name = check_name("/".join(components))
    except InvalidReference as error:
        raise RegistryError(NAME_INVALID, str(error)) from error
    repository = Repository(upstream.name, canonical_repository(upstream.name, name))
    return Route(endpoint, upstream, repository, _reference(endpoint, reference), namespace)


def _split(parts: list[str]) -> tuple[Endpoint, list[str], str]:
    """The endpoint, the repository's components and what stands behind them."""
    match parts:
        case [*name, "blobs", "uploads"] | [*name, "blobs", "uploads", _] if name:
            return "uploads", name, ""
        case [*name, "manifests", reference] if name:
            return "manifest", name, reference
        case [*name, "blobs", reference] if name:
            return "blob", name, reference
        case [*name, "tags", "list"] if name:
            return "tags", name, ""
        case [*name, "referrers", reference] if name:
            return "referrers", name, reference
        case _:
            raise RegistryError(NOT_FOUND)


def _namespace(query: str) -> str | None:
    if "ns=" not in query:
        return None
    try:
        values = parse_qs(query, max_num_fields=32).get("ns")
    except ValueError as error:  # more fields than any client sends
        raise RegistryError(NAME_INVALID, "the query has too many fields") from error
    if not values:
        return None
    if len(values) > 1 or len(values[0]) > _NS_LIMIT or _PRINTABLE.search(values[0]):
        raise RegistryError(NAME_INVALID, "ns must name one registry")
    return values[0]


def _upstream(
    components: list[str], namespace: str | None, host: str, config: Config
) -> tuple[UpstreamConfig, list[str]]:
    """Which upstream, and the components without its name. What looks like a registry's name and is not
    configured never falls through to another registry."""
    if namespace is not None:
        upstream = config.upstream_for(namespace)
        if upstream is None:
            raise NotConfigured(namespace)
        return upstream, components
    first = components[0]
    if len(components) > 1:
        upstream = config.upstream_for(first)
        if upstream is not None:
            return upstream, components[1:]
    if "." in first or ":" in first or first == "localhost":
        if _PRINTABLE.search(first) or "%" in first or ".." in first:
            raise RegistryError(NAME_INVALID)
        raise NotConfigured(first[:_NS_LIMIT])
    upstream = config.upstream_for(host) or config.default_upstream()
    if upstream is None:
        raise RegistryError(NAME_UNKNOWN, "the name must begin with a registry: none is the default here")
    return upstream, components


def _reference(endpoint: Endpoint, text: str) -> str | Digest | None:
    if endpoint not in ("manifest", "blob", "referrers"):
        return None
    try:
        return parse_reference(text) if endpoint == "manifest" else Digest.parse(text)
    except InvalidDigest as error:
        raise RegistryError(DIGEST_INVALID, str(error)) from error
    except InvalidReference as error:
        raise RegistryError(TAG_INVALID, str(error)) from error
