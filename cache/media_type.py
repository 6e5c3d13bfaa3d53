"""The media types of manifests, and what an `Accept` header has to say about them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"

MAIN_TYPES: Final = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)
"""The four types that clients negotiate. Always asked for together: a weaker `Accept` makes some
upstreams convert, which changes the digest."""

INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})

SCHEMA_1_TYPES: Final = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
"""Docker schema 1: its digest does not cover its bytes, and no current client takes it."""

_ANYTHING: Final = frozenset({"*/*", "application/*"})
_BIT: Final = {name: 1 << position for position, name in enumerate(MAIN_TYPES)}

MAIN_VARIANT: Final = 0
"""The variant of a tag that is answered to whoever takes any type."""


def bare(content_type: str) -> str:
    """A media type without its parameters, in lower case (RFC 9110, 8.3.1: it is case-insensitive)."""
    return content_type.partition(";")[0].strip().lower()


def variant(accept: Iterable[str], stored: str) -> int:
    """Which variant of a tag a client wants, whose `Accept` lines are given and whose tag's main entry
    is of type `stored`: `MAIN_VARIANT`, or the set of the main types that it takes, as a number."""
    if stored not in _BIT:
        return MAIN_VARIANT
    taken = 0
    for line in accept:
        for item in line.split(","):
            name = bare(item)
            if name in _ANYTHING:
                return MAIN_VARIANT
            taken |= _BIT.get(name, 0)
    return MAIN_VARIANT if taken & _BIT[stored] else taken


def variant_types(variant: int) -> tuple[str, ...]:
    """The types to ask an upstream for on behalf of a variant."""
    if variant == MAIN_VARIANT:
        return MAIN_TYPES
    return tuple(name for name, bit in _BIT.items() if variant & bit)
