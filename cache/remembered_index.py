"""The bounded memory in front of an index: what the hot path reads.

What is read is kept with the generation that was read *before* it, and holds while the generation is the
same: a write by any process makes it be read again. Also kept is that there was nothing.

After a write the entry is dropped, and the next read fetches it: what this process wrote may already be
overwritten by another, whose change of the generation came before ours, and then nothing would tell.

Where the inner index cannot be written, this process still goes by what it wanted to write: a tag, a proved
link, a blob or a negative lies in memory as if it had been, until something of its group is written by
someone or newer entries push it out. The caller learns that it was not kept, and the pull goes on. Nothing
tries again by itself: the next confirmation of the tag, the next pull of the blob writes it once the disk
is well.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Generic, NamedTuple, TypeVar

from .clock import Clock, SystemClock
from .digest import Digest
from .errors import IndexUnavailable
from .index import BlobRow, Index, Kind, Link, Negative, TagEntry, TagKey, Totals

log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

_TOUCHES_LIMIT: Final = 100_000
_SYSTEM_CLOCK: Final = SystemClock()


class _Held(NamedTuple, Generic[V]):
    generation: int
    name: str
    """What the generation goes by."""
    value: V | None
    """None: known to be absent."""


class _Reading:
    """A read of the inner index that others wait for."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.error: IndexUnavailable | None = None


class _Memory(Generic[K, V]):
    """One kind of entry, the least recently used pushed out first."""

    def __init__(self, limit: int, generation: Callable[[str], int]) -> None:
        self._limit = limit
        self._generation = generation
        self._entries: OrderedDict[K, _Held[V]] = OrderedDict()
        self._readings: dict[K, _Reading] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def held(self, key: K) -> _Held[V] | None:
        """What is known of `key`, if it still holds."""
        held = self._entries.get(key)
        if held is None or held.generation != self._generation(held.name):
            return None
        self._entries.move_to_end(key)
        return held

    def keep(self, key: K, held: _Held[V]) -> None:
        self._entries[key] = held
        self._entries.move_to_end(key)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def forget(self, key: K) -> None:
        self._entries.pop(key, None)

    async def read(self, key: K, name: str, fetch: Callable[[], Awaitable[V | None]]) -> V | None:
        """Reads it once for all who ask meanwhile. Raises `IndexUnavailable` to each of them."""
        while (reading := self._readings.get(key)) is not None:
            await reading.done.wait()
            if reading.error is not None:
                raise IndexUnavailable(str(reading.error)) from reading.error
            if (held := self.held(key)) is not None:
                return held.value
            # Whoever read was cancelled, or a write came in between.
        reading = self._readings[key] = _Reading()
        try:
            generation = self._generation(name)
            value = await fetch()
        except IndexUnavailable as error:
            reading.error = error
            raise
        else:
            # A write that failed meanwhile has left what this process goes by, and no new generation.
            if (held := self.held(key)) is not None:
                return held.value
            self.keep(key, _Held(generation, name, value))
            return value
        finally:
            del self._readings[key]
            reading.done.set()


class RememberedIndex:
    """Implements `index.Index` on another. `limit` is the number of entries of each of the four kinds that
    are kept in memory: tags, links, negatives, blobs. Touches are collected until `flush`, which whoever
    owns this calls every few seconds; `close` does too."""

    def __init__(self, inner: Index, limit: int, clock: Clock = _SYSTEM_CLOCK) -> None:
        self._inner = inner
        self._clock = clock
        self._tags: _Memory[TagKey, TagEntry] = _Memory(limit, inner.generation)
        self._links: _Memory[tuple[str, Digest, Kind], Link] = _Memory(limit, inner.generation)
        self._negatives: _Memory[str, Negative] = _Memory(limit, inner.generation)
        self._blobs: _Memory[Digest, BlobRow] = _Memory(limit, inner.generation)
        self._touched: dict[Digest, float] = {}

    def generation(self, key: str) -> int:
        return self._inner.generation(key)

    async def flush(self) -> None:
        """Writes the touches collected so far. Raises `IndexUnavailable`; they are kept then."""
        batch = dict(self._touched)
        if not batch:
            return
        await self._inner.touch(batch)
        for digest, at in batch.items():
            if self._touched.get(digest) == at:
                del self._touched[digest]
            self._blobs.forget(digest)

    async def close(self) -> None:
        try:
            await self.flush()
        except IndexUnavailable as error:
            log.warning("last-use times of %d blobs are lost: %s", len(self._touched), error)
        finally:
            await self._inner.close()

    @contextmanager
    def _writing(self, memory: _Memory[K, V], wanted: Mapping[K, tuple[str, V | None]]) -> Iterator[None]:
        """Around a write of `wanted`, by key: the name that its generation goes by, and the value, None for
        a drop. Written, it is forgotten here; not written, this process goes by it."""
        before = {
            key: _Held(self._inner.generation(name), name, value) for key, (name, value) in wanted.items()
        }
        try:
            yield
        except IndexUnavailable:
            for key, held in before.items():
                memory.keep(key, held)
            raise
        for key in wanted:
            memory.forget(key)

    # tags

    async def tag(self, key: TagKey) -> TagEntry | None:
        held = self._tags.held(key)
        if held is not None:
            return held.value
        return await self._tags.read(key, str(key), lambda: self._inner.tag(key))

    async def put_tag(self, key: TagKey, entry: TagEntry) -> None:
        with self._writing(self._tags, {key: (str(key), entry)}):
            await self._inner.put_tag(key, entry)

    async def drop_tag(self, key: TagKey) -> None:
        with self._writing(self._tags, {key: (str(key), None)}):
            await self._inner.drop_tag(key)

    def walk_tags(self, prefix: str = "", after: str = "") -> AsyncIterator[tuple[TagKey, TagEntry]]:
        return self._inner.walk_tags(prefix, after)

    # links

    async def link(self, repository: str, digest: Digest, kind: Kind) -> Link | None:
        held = self._links.held((repository, digest, kind))
        if held is not None:
            return held.value
        return await self._links.read(
            (repository, digest, kind),
            f"{repository}@{digest}",
            lambda: self._inner.link(repository, digest, kind),
        )

    async def put_links(self, links: Iterable[Link]) -> None:
        given = tuple(links)
        wanted: dict[tuple[str, Digest, Kind], tuple[str, Link | None]] = {}
        for link in given:
            place = (link.repository, link.digest, link.kind)
            name = f"{link.repository}@{link.digest}"
            held = self._links.held(place)
            known = wanted[place][1] if place in wanted else None if held is None else held.value
            renewed = link if known is None else known.renewed_by(link)
            if renewed.proved or held is not None:
                wanted[place] = (name, renewed)
            # A claim that is not written is not gone by: the index may hold the proof.
        with self._writing(self._links, wanted):
            await self._inner.put_links(given)

    async def drop_links(self, repository: str, digests: Iterable[Digest]) -> None:
        given = tuple(digests)
        kinds: tuple[Kind, ...] = ("manifest", "blob")
        wanted: dict[tuple[str, Digest, Kind], tuple[str, Link | None]] = {
            (repository, digest, kind): (f"{repository}@{digest}", None) for digest in given for kind in kinds
        }
        with self._writing(self._links, wanted):
            await self._inner.drop_links(repository, given)

    async def links_of(self, digest: Digest) -> tuple[Link, ...]:
        return await self._inner.links_of(digest)

    # the graph

    async def put_children(self, parent: Digest, children: Iterable[Digest], subject: Digest | None) -> None:
        await self._inner.put_children(parent, children, subject)

    async def children(self, parent: Digest) -> tuple[Digest, ...]:
        return await self._inner.children(parent)

    async def parents(self, child: Digest) -> tuple[Digest, ...]:
        return await self._inner.parents(child)

    async def referrers(self, subject: Digest) -> tuple[Digest, ...]:
        return await self._inner.referrers(subject)

    # blobs

    async def blob(self, digest: Digest) -> BlobRow | None:
        held = self._blobs.held(digest)
        row = (
            await self._blobs.read(digest, str(digest), lambda: self._inner.blob(digest))
            if held is None
            else held.value
        )
        used_at = self._touched.get(digest)
        if row is None or used_at is None or used_at <= row.used_at:
            return row
        return dataclasses.replace(row, used_at=used_at)

    async def put_blob(self, row: BlobRow) -> None:
        with self._writing(self._blobs, {row.digest: (str(row.digest), row)}):
            await self._inner.put_blob(row)

    async def drop_blob(self, digest: Digest) -> None:
        with self._writing(self._blobs, {digest: (str(digest), None)}):
            await self._inner.drop_blob(digest)

    async def touch(self, used: Mapping[Digest, float]) -> None:
        """Collected in memory; written by `flush`. Where too many wait, the oldest are lost."""
        for digest, at in used.items():
            known = self._touched.pop(digest, None)
            self._touched[digest] = at if known is None else max(known, at)
            if len(self._touched) > _TOUCHES_LIMIT:
                del self._touched[next(iter(self._touched))]

    def walk_blobs(self, after: str = "") -> AsyncIterator[BlobRow]:
        return self._inner.walk_blobs(after)

    async def totals(self) -> Totals:
        return await self._inner.totals()

    # refusals

    async def negative(self, key: str) -> Negative | None:
        held = self._negatives.held(key)
        negative = (
            await self._negatives.read(key, key, lambda: self._inner.negative(key))
            if held is None
            else held.value
        )
        return None if negative is None or negative.until <= self._clock.wall() else negative

    async def put_negative(self, key: str, negative: Negative) -> None:
        with self._writing(self._negatives, {key: (key, negative)}):
            await self._inner.put_negative(key, negative)

    async def drop_negatives(self, prefix: str) -> None:
        keys = [key for key in self._negatives if key.startswith(prefix)]
        with self._writing(self._negatives, {key: (key, None) for key in keys}):
            await self._inner.drop_negatives(prefix)
