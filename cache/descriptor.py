"""Descriptors: how one piece of content names another (image-spec, Content Descriptors)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from .digest import Digest
from .errors import InvalidDigest, InvalidManifest

_SIZE_LIMIT: Final = 2**63
"""The specification's int64, which is also what the index can keep."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Media type, digest and size in bytes of content that a manifest names."""

    media_type: str
    digest: Digest
    size: int

    @classmethod
    def parse(cls, value: Any) -> Descriptor:
        """From decoded JSON. Raises `InvalidManifest`."""
        if not isinstance(value, dict):
            raise InvalidManifest("a descriptor must be an object")
        media_type, digest, size = value.get("mediaType", ""), value.get("digest"), value.get("size")
        if not isinstance(media_type, str) or not isinstance(digest, str):
            raise InvalidManifest("a descriptor must have a mediaType and a digest")
        if not (media_type.isascii() and media_type.isprintable()):
            raise InvalidManifest("a descriptor's mediaType must be printable")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < _SIZE_LIMIT:
            raise InvalidManifest("a descriptor must have a size of zero or more, in 63 bits")
        try:
            return cls(media_type, Digest.parse(digest), size)
        except InvalidDigest as error:
            raise InvalidManifest(str(error)) from error
