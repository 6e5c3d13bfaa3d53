"""Manifests: kept byte for byte, read only for what they name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from .descriptor import Descriptor
from .digest import Digest
from .errors import InvalidManifest, ManifestTooLarge
from .media_type import INDEX_TYPES, SCHEMA_1_TYPES, bare, is_media_type

SIZE_LIMIT: Final = 4 * 1024 * 1024
"""Bytes. The specification asks registries for at least this; distribution enforces just this."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest's own bytes with the type that they were sent under, and what it names."""

    content: bytes
    media_type: str
    manifests: tuple[Descriptor, ...] = ()
    """The children of an index."""
    blobs: tuple[Descriptor, ...] = ()
    """Config and layers, in this order."""
    subject: Descriptor | None = None
    """What this manifest refers to. An edge of the graph, and no link: anyone may name anything here."""

    @classmethod
    def parse(cls, content: bytes, media_type: str) -> Manifest:
        """Reads what is known of the four main types; any other JSON object passes with what it names in
        the same fields. Names that cannot be read are left out: the bytes are not ours to judge.
        Raises `ManifestTooLarge` and `InvalidManifest`."""
        if len(content) > SIZE_LIMIT:
            raise ManifestTooLarge(f"a manifest of {len(content)} bytes is over the limit of {SIZE_LIMIT}")
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InvalidManifest(f"a manifest must be JSON: {error}") from error
        if not isinstance(value, dict):
            raise InvalidManifest("a manifest must be a JSON object")
        media_type = bare(media_type)
        if not media_type.startswith("application/"):
            # An upstream that has lost the type still sends it inside (image-spec, property mediaType).
            inner = value.get("mediaType")
            if not isinstance(inner, str) or not inner.startswith("application/"):
                raise InvalidManifest(f"{media_type or 'no media type'!r} is no manifest's media type")
            media_type = bare(inner)
        if not is_media_type(media_type):
            raise InvalidManifest(f"{media_type[:200]!r} is no media type")
        return cls(
            content,
            media_type,
            manifests=tuple(_descriptors(value.get("manifests"))),
            blobs=(*_descriptors([value.get("config")]), *_descriptors(value.get("layers"))),
            subject=next(_descriptors([value.get("subject")]), None),
        )

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEX_TYPES

    @property
    def is_schema_1(self) -> bool:
        return self.media_type in SCHEMA_1_TYPES

    def digest(self, algorithm: str = "sha256") -> Digest:
        return Digest.of(self.content, algorithm)


def _descriptors(values: Any) -> Iterator[Descriptor]:
    if not isinstance(values, list):
        return
    for value in values:
        try:
            yield Descriptor.parse(value)
        except InvalidManifest:
            continue
