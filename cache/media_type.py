"""The media types of manifests, and what an `Accept` header has to say about them."""

from __future__ import annotations

import re
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

_GRAMMAR: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
_NO_WEIGHT: Final = re.compile(r"0(?:\.0{0,3})?")
_ANYTHING: Final = frozenset({"*/*", "application/*"})
_BIT: Final = {name: 1 << position for position, name in enumerate(MAIN_TYPES)}

MAIN_VARIANT: Final = 0
"""The variant of a tag that is answered to whoever takes any type."""


def bare(content_type: str) -> str:
    """A media type without its parameters, in lower case (RFC 9110, 8.3.1: it is case-insensitive)."""
    return content_type.partition(";")[0].strip().lower()


def is_media_type(text: str) -> bool:
    """Whether a bare media type keeps to the grammar (RFC 6838, 4.2). What does not is no header to send."""
    return _GRAMMAR.fullmatch(text) is not None


def variant(accept: Iterable[str], stored: str) -> int:
    """Which variant of a tag a client wants, whose `Accept` lines are given and whose tag's main entry
    is of type `stored`: `MAIN_VARIANT`, or the set of the main types that it takes, as a number."""
    if stored not in _BIT:
        return MAIN_VARIANT
    taken = 0
    for line in accept:
        for item in line.split(","):
            if ";" in item and _refused(item):
                continue
            name = bare(item)
            if name in _ANYTHING:
                return MAIN_VARIANT
            taken |= _BIT.get(name, 0)
    return MAIN_VARIANT if taken & _BIT[stored] else taken


def _refused(item: str) -> bool:
    """Whether an item of an `Accept` line has the weight 0: not acceptable (RFC 9110, 12.4.2)."""
    for parameter in item.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip() in ("q", "Q"):
            return _NO_WEIGHT.fullmatch(value.strip()) is not None
    return False


def variant_types(variant: int) -> tuple[str, ...]:
    """The types to ask an upstream for on behalf of a variant."""
    if variant == MAIN_VARIANT:
        return MAIN_TYPES
    return tuple(name for name, bit in _BIT.items() if variant & bit)
