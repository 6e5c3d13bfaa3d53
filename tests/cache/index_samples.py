"""Samples that the tests of indexes share."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from entrepot.cache.digest import Digest
from entrepot.cache.index import BlobRow, Index, Kind, TagEntry

T = TypeVar("T")

NOW = 1_700_000_000.0
KINDS: tuple[Kind, ...] = ("manifest", "blob")


def content(*parts: object) -> Digest:
    """A digest that stands for these words."""
    return Digest.of(" ".join(map(str, parts)).encode())


def tag_entry(word: object = "latest", **fields: Any) -> TagEntry:
    entry = TagEntry(content(word), "application/vnd.oci.image.index.v1+json", 1234, NOW - 100, NOW)
    return dataclasses.replace(entry, **fields)


def blob_row(word: object, size: int = 10, used_at: float = NOW, kind: Kind = "blob") -> BlobRow:
    return BlobRow(content(word), size, NOW, used_at, kind)


async def collected(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


async def settle(index: Index) -> None:
    """Writes what an implementation collects before it writes."""
    flush = getattr(index, "flush", None)
    if flush is not None:
        await flush()
