"""Descriptors: how one piece of content names another (image-spec, Content Descriptors)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .digest import Digest
from .errors import InvalidDigest, InvalidManifest


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
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InvalidManifest("a descriptor must have a size of zero or more")
        try:
            return cls(media_type, Digest.parse(digest), size)
        except InvalidDigest as error:
            raise InvalidManifest(str(error)) from error
