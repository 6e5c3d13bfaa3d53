"""Single flight by digest, across processes: a leader fills, anyone reads from any offset.

A `Flight` is this process's view of a download. Readers only ever look at the view: how much is there, and
whether it is right. Who makes the view is a task of the server's, which outlives every client (`flights`):
it leads where it can (`flight_lead`), follows another process's leader where it must (`flight_follow`), and
takes over where that one dies or hangs (`partials`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from .blob_store import FileSlice, OpenFile, Piece
from .clock import Clock
from .digest import Digest
from .errors import (
    CacheError,
    ContentMismatch,
    CredentialRefused,
    SourceError,
    SourceLimited,
    SourceMissing,
    SourceRefused,
    SourceTimeout,
    SourceUnavailable,
    StorageBroken,
    StorageError,
    StorageFull,
    StorageReadOnly,
)
from .filesystem import FilesystemStore
from .flight_state import FlightState, Phase
from .partials import Partials
from .source import Sources
from .threads import off_loop
from .watch import Watcher

_FAILURES: dict[str, type[CacheError]] = {
    kind.__name__: kind
    for kind in (
        ContentMismatch,
        CredentialRefused,
        SourceLimited,
        SourceMissing,
        SourceRefused,
        SourceTimeout,
        SourceUnavailable,
        StorageBroken,
        StorageFull,
        StorageReadOnly,
    )
}


class Observer(Protocol):
    """Who counts what flights do."""

    def resumed(self) -> None: ...

    def mismatch(self, source: str) -> None: ...

    def unstored(self, error: StorageError) -> None: ...


@dataclass(frozen=True, slots=True)
class FlightContext:
    """What every flight of a process shares."""

    store: FilesystemStore
    partials: Partials
    sources: Sources
    clock: Clock
    executor: ThreadPoolExecutor
    watcher: Watcher
    room: Callable[[int], Awaitable[None]]
    """Raises `StorageFull` where so many more bytes may not be kept."""
    stored: Callable[[Digest, int, list[str]], Awaitable[None]]
    """Told once a blob has its name, with the sources that delivered it."""
    observer: Observer


class Flight:
    """A download as this process sees it."""

    def __init__(self, digest: Digest, context: FlightContext) -> None:
        self.digest = digest
        self.context = context
        self.phase = Phase.FILLING
        self.total: int | None = None
        self.present = 0
        self.file: OpenFile | None = None
        self.answering = False
        """Whether a source has answered, so that headers can be sent."""
        self.answered: list[str] = []
        """Sources that have delivered: for their repositories the content is proved."""
        self.sources: list[str] = []
        self.beat: Callable[[], None] | None = None
        """While this process leads: shows on disk that it lives. Blocks."""
        self.readers = 0
        """Clients that read it just now."""
        self.over = False
        self.error: CacheError | None = None
        self.errors: dict[str, SourceError] = {}
        """What each source said, as far as this process asked it."""
        self._changed = asyncio.Event()

    @property
    def leading(self) -> bool:
        """Whether this process fills it."""
        return self.beat is not None

    @property
    def deliverable(self) -> int:
        """Bytes before this may be given out. The last byte waits for the hash."""
        if self.phase in (Phase.VERIFIED, Phase.STORED):
            return self.present
        end = self.present if self.total is None else self.total
        return max(0, min(self.present, end - 1))

    @property
    def verified(self) -> bool:
        return self.phase in (Phase.VERIFIED, Phase.STORED)

    def failure(self, source: str | None = None) -> CacheError:
        """Why it ended early; where that is known, what this very source said."""
        if source is not None and source in self.errors:
            return self.errors[source]
        return self.error or SourceUnavailable("the download ended early")

    def tell(self) -> None:
        """Wakes everybody who waits for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def change(self) -> None:
        """Waits for the next change of anything here."""
        await self._changed.wait()

    async def started(self, source: str | None = None) -> None:
        """Waits until headers can be sent. An empty blob's wait for its hash. Raises what ended it before."""
        while not (self.verified or (self.answering and self.total != 0)):
            if self.over:
                raise self.failure(source)
            await self.change()

    async def add_source(self, source: str) -> None:
        """Adds a place to get the content from, for whoever leads. The caller has authorised it."""
        if source in self.sources or self.over:
            return
        self.sources.append(source)
        with contextlib.suppress(StorageError):  # then only this process knows of it
            await off_loop(self.context.executor, self.context.partials.add_source, self.digest, source)


def failure_of(state: FlightState) -> CacheError:
    """The error that a leader left for its followers."""
    kind = _FAILURES.get(state.failure_kind or "", SourceUnavailable)
    text = state.failure or "the download ended early"
    return SourceLimited(text, state.retry_after) if kind is SourceLimited else kind(text)


class FlightReader:
    """A client's way to read a flight, from any byte, as it comes."""

    def __init__(self, flight: Flight, source: str | None = None) -> None:
        self._flight = flight
        self._source = source

    @property
    def size(self) -> int | None:
        return self._flight.total

    async def pieces(self, start: int, end: int | None) -> AsyncGenerator[Piece, None]:
        """Raises `StorageError` where the mirror cannot keep the rest, `ContentMismatch` where the bytes
        turned out wrong, `SourceError` where no source is left."""
        flight = self._flight
        position = start
        flight.readers += 1
        try:
            while end is None or position < end:
                there = flight.deliverable if end is None else min(flight.deliverable, end)
                if position < there and flight.file is not None:
                    yield FileSlice(flight.file, position, there - position)
                    position = there
                elif flight.verified:
                    return
                elif flight.over:
                    raise flight.failure(self._source)
                else:
                    await flight.change()
        finally:
            flight.readers -= 1
