"""The mirror of one process: its use cases, put together from the cache and the upstreams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from entrepot.cache.clock import Clock
from entrepot.cache.digest import Digest
from entrepot.cache.embedded_index import EmbeddedIndex
from entrepot.cache.errors import CacheError, IndexUnavailable, StorageError
from entrepot.cache.filesystem import FilesystemStore
from entrepot.cache.flight import FlightContext
from entrepot.cache.flight import Observer as FlightObserver
from entrepot.cache.flights import Flights
from entrepot.cache.generation import Generations
from entrepot.cache.held import Shelf
from entrepot.cache.lease import Leases
from entrepot.cache.partials import Partials
from entrepot.cache.remembered_index import RememberedIndex
from entrepot.cache.room import Limits, Room
from entrepot.cache.source import Source, Stream
from entrepot.cache.watch import Watcher

from ..config import Config, UpstreamConfig
from ..upstream.client import UpstreamClient
from ..upstream.observer import NoObserver
from ..upstream.observer import Observer as UpstreamObserver
from .blobs import Blobs, source_repository
from .collapse import Collapse, answering_within
from .manifests import Manifests
from .memory import Memory
from .parts import BlobAnswer, ManifestAnswer, Observer, Parts, Pull, Upstream
from .tags import Tags

log = logging.getLogger(__name__)

HUNG_AFTER: Final = 5.0
"""Seconds without a sign of life after which another worker takes a download over."""
_REMEMBERED: Final = 20_000
"""Entries of the index kept in memory."""
_THREADS: Final = 8
_FLUSH_EVERY: Final = 5.0
"""Seconds between writing last-use times."""
_LEFTOVER_AGE: Final = 24 * 3600.0
_COLLECT_EVERY: Final = 3600.0
_TOTALS_FOR: Final = 1.0
"""Seconds that a running sum is taken as it is, when room is looked for."""


class MirrorObserver(Observer, UpstreamObserver, FlightObserver, Protocol):
    """Who counts, in one."""


class SilentObserver(NoObserver):
    """Counts nothing."""

    def revalidated(self, upstream: str, result: str) -> None: ...

    def served_stale(self, upstream: str, reason: str) -> None: ...

    def mismatch(self, source: str) -> None: ...

    def uncached(self, error: StorageError) -> None: ...

    def unindexed(self, error: IndexUnavailable) -> None: ...

    def resumed(self) -> None: ...

    def unstored(self, error: StorageError) -> None: ...


@dataclass(frozen=True, slots=True)
class UpstreamSource:
    """A repository of an upstream, as what fills a download."""

    upstream: Upstream
    repository: str
    name: str

    @property
    def distrust(self) -> float:
        return self.upstream.config.negative_ttl

    async def open(self, digest: Digest, start: int) -> Stream:
        return await self.upstream.client.open_blob(self.repository, digest, start)


class Mirror:
    """Opened once in a process. `clients` makes the client of an upstream, so that tests can pass theirs."""

    def __init__(
        self,
        config: Config,
        index: RememberedIndex,
        *,
        leases: Leases,
        clock: Clock,
        observer: MirrorObserver,
        limits: Limits,
        clients: Callable[[UpstreamConfig], UpstreamClient],
        hung_after: float = HUNG_AFTER,
    ) -> None:
        self.index = index
        self.clock = clock
        self.limits = limits
        self.upstreams: dict[str, Upstream] = {}
        self._clients = clients
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="disk")
        self._watcher = Watcher()
        self._totals: tuple[float, int] = (-1.0, 0)
        self.store = FilesystemStore(config.cache.dir, self._executor)
        self.partials = Partials(self.store.partial, hung_after=hung_after)
        self._room = room = Room(config.cache.dir, limits, self.partials, self._kept, self._executor)
        self.flights = Flights(
            FlightContext(
                store=self.store,
                partials=self.partials,
                sources=self._source,
                clock=clock,
                executor=self._executor,
                watcher=self._watcher,
                room=room.look,
                stored=self._stored,
                observer=observer,
            )
        )
        self._collapse = Collapse()
        self.shelf = Shelf(self.store, index.generation, self._executor)
        self._parts = Parts(
            index=index,
            store=self.store,
            shelf=self.shelf,
            flights=self.flights,
            leases=leases,
            clock=clock,
            collapse=self._collapse,
            upstreams=self.upstreams,
            room=room.look,
            observer=observer,
        )
        self._memory = Memory(index, observer)
        self.manifests = Manifests(self._parts, self._memory)
        self.tags = Tags(self._parts, self._memory, self.manifests)
        self.blobs = Blobs(self._parts, self._memory, self.manifests)
        self._chores: list[asyncio.Task[None]] = []
        self._retired: list[UpstreamClient] = []
        self._configure(config)

    @classmethod
    async def open(
        cls,
        config: Config,
        *,
        leases: Leases,
        generations: Generations,
        clock: Clock,
        observer: MirrorObserver,
        clients: Callable[[UpstreamConfig], UpstreamClient] | None = None,
        housekeeping: bool = False,
    ) -> Mirror:
        """Opens the cache directory's index and store; the directory itself must exist and be ours. One
        process of those that share it does the housekeeping."""
        directory = config.cache.dir
        inner = await EmbeddedIndex.open(directory / "index", generations, clock)
        index = RememberedIndex(inner, _REMEMBERED, clock)
        mirror = cls(
            config,
            index,
            leases=leases,
            clock=clock,
            observer=observer,
            limits=limits_of(config),
            clients=clients
            or (lambda upstream: UpstreamClient(upstream, leases=leases, clock=clock, metrics=observer)),
        )
        loop = asyncio.get_running_loop()
        mirror._chores.append(loop.create_task(mirror._flush_now_and_then(), name="last-use times"))
        if housekeeping:
            mirror._chores.append(loop.create_task(mirror._collect_now_and_then(), name="leftovers"))
        return mirror

    # the use cases

    async def manifest(self, pull: Pull, reference: str | Digest) -> ManifestAnswer:
        """A manifest by tag or digest. Raises a `SourceError`, or `NotHere`."""
        async with answering_within(pull.upstream.config.timeout.answer, pull.upstream.name):
            if isinstance(reference, Digest):
                answer = await self.manifests.get(pull, reference)
            else:
                answer = await self.tags.get(pull, reference)
        if not pull.head:
            await self._memory.touch({answer.digest: pull.arrived_at})
        return answer

    async def blob(self, pull: Pull, digest: Digest) -> BlobAnswer:
        """A blob. Raises a `SourceError`, `ContentMismatch`, or `NotHere`."""
        async with answering_within(pull.upstream.config.timeout.answer, pull.upstream.name):
            answer = await self.blobs.get(pull, digest)
        if not pull.head:
            await self._memory.touch({digest: pull.arrived_at})
        return answer

    # configuration

    def _configure(self, config: Config) -> None:
        before = dict(self.upstreams)
        self.upstreams.clear()
        for name, upstream in config.upstreams.items():
            offline = config.offline or upstream.offline
            known = before.pop(name, None)
            if known is not None and known.config == upstream:
                client = known.client
            else:
                client = self._clients(upstream)
                if known is not None:
                    self._retired.append(known.client)
            self.upstreams[name] = Upstream(upstream, client, offline)
        self._retired += [gone.client for gone in before.values()]

    def reload(self, config: Config) -> None:
        """Takes a new configuration for what comes from now on. What is under way ends as it began."""
        self._configure(config)
        self.limits = self._room.limits = limits_of(config)

    # what the flights ask for

    def _source(self, name: str) -> Source | None:
        repository = source_repository(name)
        upstream = self.upstreams.get(repository.upstream)
        if upstream is None or upstream.offline:
            return None
        return UpstreamSource(upstream, repository.name, name)

    async def _stored(self, digest: Digest, size: int, sources: list[str]) -> None:
        await self.blobs.stored(digest, size, sources)

    async def _kept(self) -> int:
        """Bytes in the cache, as of a moment ago."""
        at, kept = self._totals
        now = self.clock.monotonic()
        if at < 0 or now - at > _TOTALS_FOR:
            kept = (await self.index.totals()).bytes
            self._totals = (now, kept)
        return kept

    async def reserved(self) -> int:
        """Bytes of downloads under way, and of those that are left to be gone on with."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self.partials.reserved)

    # chores

    async def _flush_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_EVERY)
            with contextlib.suppress(IndexUnavailable):
                await self.index.flush()

    async def _collect_now_and_then(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(CacheError):
                before = self.clock.wall() - _LEFTOVER_AGE
                freed = await loop.run_in_executor(self._executor, self.partials.collect, before)
                if freed:
                    log.info("collected forgotten downloads: %d bytes", freed)
            await asyncio.sleep(_COLLECT_EVERY)

    async def close(self) -> None:
        """Leaves downloads under way to be resumed, and writes what is only in memory."""
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self.flights.close()
        await self._collapse.close()
        for client in [*self._retired, *(upstream.client for upstream in self.upstreams.values())]:
            await client.close()
        await self._watcher.close()
        with contextlib.suppress(IndexUnavailable):
            await self.index.flush()
        await self.index.close()
        self._executor.shutdown(wait=True)


def limits_of(config: Config) -> Limits:
    """The limits of a configuration, on the disk that its cache directory lies on."""
    minimum = config.cache.min_free
    percent = minimum.percent
    return Limits.on(
        Path(config.cache.dir),
        config.cache.max_size,
        minimum.bytes if percent is None else None,
        None if percent is None else percent / 100,
    )
