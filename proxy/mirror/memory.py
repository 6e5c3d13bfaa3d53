"""The index as the use cases see it: where it fails, a pull goes on without it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from entrepot.cache.digest import Digest
from entrepot.cache.errors import IndexUnavailable
from entrepot.cache.index import BlobRow, Index, Kind, Link, Negative, TagEntry, TagKey

from .parts import Observer


class Memory:
    """What is remembered, as far as it can be read; what cannot be written is counted."""

    def __init__(self, index: Index, observer: Observer) -> None:
        self._index = index
        self._observer = observer

    async def tag(self, key: TagKey) -> TagEntry | None:
        try:
            return await self._index.tag(key)
        except IndexUnavailable as error:
            self._observer.unindexed(error)
            return None

    async def put_tag(self, key: TagKey, entry: TagEntry) -> None:
        try:
            await self._index.put_tag(key, entry)
        except IndexUnavailable as error:
            self._observer.unindexed(error)

    async def proved(self, repository: str, digest: Digest, kind: Kind) -> Link | None:
        """The repository's link to what is proved to be its own."""
        link = await self.link(repository, digest, kind)
        return link if link is not None and link.proved else None

    async def link(self, repository: str, digest: Digest, kind: Kind) -> Link | None:
        try:
            return await self._index.link(repository, digest, kind)
        except IndexUnavailable as error:
            self._observer.unindexed(error)
            return None

    async def put_links(self, links: Iterable[Link]) -> None:
        try:
            await self._index.put_links(links)
        except IndexUnavailable as error:
            self._observer.unindexed(error)

    async def put_blob(self, row: BlobRow) -> None:
        try:
            await self._index.put_blob(row)
        except IndexUnavailable as error:
            self._observer.unindexed(error)

    async def put_children(self, parent: Digest, children: Iterable[Digest], subject: Digest | None) -> None:
        try:
            await self._index.put_children(parent, children, subject)
        except IndexUnavailable as error:
            self._observer.unindexed(error)

    async def negative(self, key: str) -> Negative | None:
        try:
            return await self._index.negative(key)
        except IndexUnavailable as error:
            self._observer.unindexed(error)
            return None

    async def put_negative(self, key: str, negative: Negative) -> None:
        try:
            await self._index.put_negative(key, negative)
        except IndexUnavailable as error:
            self._observer.unindexed(error)

    async def drop_negatives(self, prefix: str) -> None:
        try:
            await self._index.drop_negatives(prefix)
        except IndexUnavailable as error:
            self._observer.unindexed(error)

    async def touch(self, used: Mapping[Digest, float]) -> None:
        try:
            await self._index.touch(used)
        except IndexUnavailable as error:
            self._observer.unindexed(error)


def negative_key(kind: Kind, repository: str, reference: str | Digest) -> str:
    """What a refusal is remembered under."""
    return f"{kind}:{repository}@{reference}"
