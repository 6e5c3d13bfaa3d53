"""The index of one machine: diskcache for what is looked up by key alone, sqlite3 beside it for the rest.

Any number of processes may have it open. In each, two threads do the blocking work, one that reads and one
that writes, with connections of their own: a read never waits behind a write, and writes of one process queue
here and not at the file's lock.

A tag is one row of one file, and so is a link: nothing here needs two files to agree. What a kill leaves
undone is a miss.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import diskcache

from .clock import Clock
from .digest import Digest
from .embedded_directory import IndexDirectory, Stores, is_busy, is_damage
from .errors import IndexUnavailable, UnknownFormat
from .generation import Generations
from .index import BlobRow, Kind, Link, Negative, TagEntry, TagKey, Totals

log = logging.getLogger(__name__)

T = TypeVar("T")

_PAGE: Final = 500
_TOUCHES: Final = 1000
"""Rows of one transaction, so that nobody waits long behind a batch."""
_WAITING_LIMIT: Final = 10_000
_RETRY: Final = 1.0
"""Seconds until the next attempt at opening what could not be opened."""


class _Lane:
    """One thread, with connections that it alone uses. Work is done in the order of asking."""

    def __init__(self, name: str, directory: IndexDirectory, clock: Clock) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"index-{name}")
        self._directory = directory
        self._clock = clock
        self._waiting = 0
        self._closed = False
        # Used by the thread alone:
        self._stores: Stores | None = None
        self._failed: tuple[float, str] | None = None
        self._busy_at = -1.0

    async def run(self, work: Callable[[Stores], T]) -> T:
        """Raises `IndexUnavailable`, and `UnknownFormat` where the index could not be opened for that.
        Cancelled, work that has begun is still done."""
        if self._closed:
            raise IndexUnavailable("the index is closed")
        if self._waiting >= _WAITING_LIMIT:
            raise IndexUnavailable("too many wait for the index")
        self._waiting += 1
        try:
            asked = self._clock.monotonic()
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._do, work, asked)
        finally:
            self._waiting -= 1

    def _do(self, work: Callable[[Stores], T], asked: float) -> T:
        if self._busy_at > asked:
            # Who stood in line behind a wait for the lock has waited long enough.
            raise IndexUnavailable("another process is writing to the index and does not end")
        try:
            return work(self._stores or self._open())
        except (sqlite3.Error, diskcache.Timeout, OSError) as error:
            if is_busy(error):
                self._busy_at = self._clock.monotonic()
            else:
                if is_damage(error):
                    self._directory.report_damage(error)
                # diskcache does not roll back what it could not commit. A connection that failed is not
                # used again: that ends its transaction, and whatever state it was in.
                self._let_go()
            raise IndexUnavailable(f"{error or type(error).__name__}") from error
        except (OverflowError, UnicodeError) as error:
            raise IndexUnavailable(f"what the index cannot keep: {error}") from error

    def _open(self) -> Stores:
        now = self._clock.monotonic()
        if self._failed is not None and now < self._failed[0] + _RETRY:
            raise IndexUnavailable(self._failed[1])
        try:
            self._stores = self._directory.open()
        except (sqlite3.Error, diskcache.Timeout, OSError) as error:
            self._failed = (now, f"the index cannot be opened: {error or type(error).__name__}")
            raise
        self._failed = None
        return self._stores

    def _let_go(self) -> None:
        stores, self._stores = self._stores, None
        if stores is not None:
            try:
                stores.close()
            except (sqlite3.Error, OSError) as error:
                log.warning("index connection did not close: %s", error)

    async def close(self) -> None:
        """Lets what was asked for be done first."""
        if self._closed:
            return
        self._closed = True
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._let_go)
        finally:
            self._executor.shutdown(wait=False)


class EmbeddedIndex:
    """Implements `index.Index`. Made by `open`."""

    def __init__(self, directory: Path, generations: Generations, clock: Clock) -> None:
        place = IndexDirectory(directory, clock)
        self._reader = _Lane("reader", place, clock)
        self._writer = _Lane("writer", place, clock)
        self._generations = generations
        self._clock = clock

    @classmethod
    async def open(cls, directory: Path, generations: Generations, clock: Clock) -> EmbeddedIndex:
        """The index in `directory`, which is created if need be. Raises `UnknownFormat` for one that a newer
        version wrote. An index that cannot be opened now, as on a full disk, is no reason not to start: it is
        logged, every operation raises `IndexUnavailable`, and tries again."""
        index = cls(directory, generations, clock)
        try:
            await index._writer.run(lambda _: None)
            await index._reader.run(lambda _: None)
        except IndexUnavailable as error:
            log.error("index unavailable: %s; the mirror goes on without it", error)
        except BaseException:
            await index.close()
            raise
        return index

    async def close(self) -> None:
        try:
            await self._writer.close()
        finally:
            await self._reader.close()

    def generation(self, key: str) -> int:
        return self._generations.read(self._generations.group(key))

    async def _read(self, work: Callable[[Stores], T]) -> T:
        try:
            return await self._reader.run(work)
        except UnknownFormat as error:  # met when opened again, after `open` had been content
            raise IndexUnavailable(str(error)) from error

    async def _write(self, work: Callable[[Stores], T], *keys: str) -> T:
        """Does `work` and changes the generations of `keys` after its commit: in the thread, for a caller
        that is cancelled meanwhile does not undo what was written."""

        def written(stores: Stores) -> T:
            result = work(stores)
            self._bump(keys)
            return result

        try:
            return await self._writer.run(written)
        except UnknownFormat as error:
            raise IndexUnavailable(str(error)) from error

    def _bump(self, keys: Iterable[str]) -> None:
        for group in {self._generations.group(key) for key in keys}:
            self._generations.bump(group)

    # tags

    async def tag(self, key: TagKey) -> TagEntry | None:
        return await self._read(lambda stores: stores.keys.tag(key))

    async def put_tag(self, key: TagKey, entry: TagEntry) -> None:
        await self._write(lambda stores: stores.keys.put_tag(key, entry), str(key))

    async def drop_tag(self, key: TagKey) -> None:
        await self._write(lambda stores: stores.keys.drop_tag(key), str(key))

    async def walk_tags(self, prefix: str = "", after: str = "") -> AsyncIterator[tuple[TagKey, TagEntry]]:
        next_after: str | None = after
        while next_after is not None:
            page, next_after = await self._read(_tags_page(prefix, next_after))
            for item in page:
                yield item

    # links

    async def link(self, repository: str, digest: Digest, kind: Kind) -> Link | None:
        return await self._read(lambda stores: stores.rows.link(repository, digest, kind))

    async def put_links(self, links: Iterable[Link]) -> None:
        given = tuple(links)

        def put(stores: Stores) -> None:
            # What was known just so is not said to have changed: an image pulled daily names the same
            # layers each time, and every generation changed makes other workers read again.
            changed = stores.rows.put_links(given)
            self._bump(f"{link.repository}@{link.digest}" for link in changed)

        if given:
            await self._write(put)

    async def drop_links(self, repository: str, digests: Iterable[Digest]) -> None:
        given = tuple(digests)
        if given:
            keys = (f"{repository}@{digest}" for digest in given)
            await self._write(lambda stores: stores.rows.drop_links(repository, given), *keys)

    async def links_of(self, digest: Digest) -> tuple[Link, ...]:
        return await self._read(lambda stores: stores.rows.links_of(digest))

    # the graph

    async def put_children(self, parent: Digest, children: Iterable[Digest], subject: Digest | None) -> None:
        given = tuple(children)
        await self._write(lambda stores: stores.rows.put_children(parent, given, subject))

    async def children(self, parent: Digest) -> tuple[Digest, ...]:
        return await self._read(lambda stores: stores.rows.children(parent))

    async def parents(self, child: Digest) -> tuple[Digest, ...]:
        return await self._read(lambda stores: stores.rows.parents(child))

    async def referrers(self, subject: Digest) -> tuple[Digest, ...]:
        return await self._read(lambda stores: stores.rows.referrers(subject))

    # blobs

    async def blob(self, digest: Digest) -> BlobRow | None:
        return await self._read(lambda stores: stores.rows.blob(digest))

    async def put_blob(self, row: BlobRow) -> None:
        await self._write(lambda stores: stores.rows.put_blob(row), str(row.digest))

    async def drop_blob(self, digest: Digest) -> None:
        await self._write(lambda stores: stores.rows.drop_blob(digest), str(digest))

    async def touch(self, used: Mapping[Digest, float]) -> None:
        # Changes no generation: a batch of a thousand would change a quarter of all groups, and every worker
        # would read again what it holds in memory, to learn a time that is late by nature.
        items = iter(tuple(used.items()))
        while batch := tuple(itertools.islice(items, _TOUCHES)):
            await self._write(_touched(batch))

    async def walk_blobs(self, after: str = "") -> AsyncIterator[BlobRow]:
        while page := await self._read(_blobs_page(after)):
            for row in page:
                yield row
            after = str(page[-1].digest)

    async def totals(self) -> Totals:
        def read(stores: Stores) -> Totals:
            return Totals(*stores.rows.totals(), tags=stores.keys.tag_count())

        return await self._read(read)

    # refusals

    async def negative(self, key: str) -> Negative | None:
        negative = await self._read(lambda stores: stores.keys.negative(key))
        if negative is None or negative.until <= self._clock.wall():
            return None
        return negative

    async def put_negative(self, key: str, negative: Negative) -> None:
        seconds = negative.until - self._clock.wall()
        await self._write(lambda stores: stores.keys.put_negative(key, negative, seconds), key)

    async def drop_negatives(self, prefix: str) -> None:
        def drop(stores: Stores) -> None:
            for keys in stores.keys.drop_negatives(prefix):
                self._bump(keys)

        await self._write(drop)


# Functions of their own: a lambda in a loop would see the loop's next value.


def _tags_page(
    prefix: str, after: str
) -> Callable[[Stores], tuple[list[tuple[TagKey, TagEntry]], str | None]]:
    return lambda stores: stores.keys.tags_after(prefix, after, _PAGE)


def _blobs_page(after: str) -> Callable[[Stores], list[BlobRow]]:
    return lambda stores: stores.rows.blobs_after(after, _PAGE)


def _touched(batch: tuple[tuple[Digest, float], ...]) -> Callable[[Stores], None]:
    return lambda stores: stores.rows.touch(batch)
