"""Leading a download: sources in turn, bytes kept and hashed in order, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Final

from .digest import Verifier
from .errors import (
    CacheError,
    ContentMismatch,
    SourceError,
    SourceLimited,
    SourceUnavailable,
    StorageError,
)
from .filesystem import FileWriter, storing
from .flight import Flight
from .flight_state import Phase
from .partials import Led
from .source import Source, Stream
from .threads import off_loop

_TRIES: Final = 3
"""How often one source may fail in a row without having delivered a byte."""
_MISMATCHES: Final = 2
"""How often a source may deliver wrong bytes before it is left alone for a while."""
_PAUSE: Final = 0.2
"""Seconds before a source is asked again, doubled each time, when no other is left; jittered."""
_CATCH_UP: Final = 4 * 1024 * 1024
"""Bytes hashed at a time when what was inherited is hashed again."""
_CRAWL_WINDOW: Final = 10.0
_CRAWL_BYTES: Final = 64 * 1024
"""A source that delivers less than this in the window (seconds) is left, if there is another."""
_ROOM_EVERY: Final = 64 * 1024 * 1024
"""Bytes after which room is looked for again where no source said how large the blob is."""


class Leader:
    """One leadership of one flight."""

    def __init__(self, flight: Flight, claim: Led) -> None:
        self._flight = flight
        self._context = flight.context
        self._claim = claim
        self._page = claim.page
        self._state = claim.state
        self._verifier = Verifier(flight.digest)
        self._catching_up: asyncio.Task[None] | None = None
        self._dropped: set[str] = set()
        """Sources that have said no for good."""
        self._fruitless: dict[str, int] = {}
        """Failures in a row, by source."""
        self._sizes_differ = False
        self._last: SourceError | None = None
        self._writer: FileWriter | None = None

    async def lead(self) -> None:
        """Fills, verifies and stores. What ends it early is left in the flight's state, for followers and
        for the next leader."""
        flight, context = self._flight, self._context
        try:
            writer = self._writer = await self._open()
            flight.beat = self._show_life
            if self._state.contiguous:
                context.observer.resumed()
                self._hash_behind(writer)
            self._show(writer)
            await self._fill(writer)
            await self._verify(writer)
        except asyncio.CancelledError:
            await self._leave(Phase.ABANDONED, SourceUnavailable("the mirror is stopping"))
            raise
        except ContentMismatch as error:
            await self._leave(Phase.BAD, error)
        except StorageError as error:
            await self._leave(Phase.REFUSED, error)
            context.observer.unstored(error)
        except SourceError as error:
            await self._leave(Phase.ABANDONED, error)
        finally:
            flight.beat = None
            self._claim.lock.release()

    async def _open(self) -> FileWriter:
        store, state = self._context.store, self._state
        session = self._context.partials.session(self._flight.digest, state.epoch)
        writer = await store.resume(session, state.contiguous) if state.contiguous else None
        if writer is None:
            state.contiguous = 0
            writer = await store.create(session)
        return writer

    def _show(self, writer: FileWriter) -> None:
        """Makes the view what the state says."""
        flight, state = self._flight, self._state
        flight.phase = state.phase
        flight.total = state.total
        if flight.file is None or state.contiguous >= flight.present:
            flight.file = writer.file
            flight.present = state.contiguous
        flight.answered = list(state.answered)
        flight.answering = flight.answering or state.answering
        flight.tell()

    def _show_life(self) -> None:
        self._state.beat_at = self._context.clock.monotonic()
        self._page.save(self._state)

    # filling

    async def _fill(self, writer: FileWriter) -> None:
        state = self._state
        while state.total is None or state.contiguous < state.total:
            source = await self._next()
            before = state.contiguous
            try:
                stream = await source.open(self._flight.digest, before)
                try:
                    await self._accept(source, stream, writer)
                    await self._pump(source, stream, writer)
                finally:
                    await stream.close()
            except SourceError as error:
                await self._failed(source, error, progressed=state.contiguous > before)
        state.answering = True
        self._show(writer)

    async def _next(self) -> Source:
        """The source to ask now: the first among those that have failed least. Raises why none is left."""
        flight, context = self._flight, self._context
        shared = await off_loop(context.executor, context.partials.sources, flight.digest)
        now = context.clock.wall()
        distrusted = False
        candidates: list[Source] = []
        for name in dict.fromkeys([*flight.sources, *shared]):
            source = context.sources(name)
            if source is None or name in self._dropped or self._fruitless.get(name, 0) >= _TRIES:
                continue
            held_against = [
                when
                for who, when in self._state.mismatches
                if who == name and 0 <= now - when < source.distrust
            ]
            if len(held_against) >= _MISMATCHES:
                distrusted = True
                continue
            candidates.append(source)
        if candidates:
            return min(candidates, key=lambda source: self._fruitless.get(source.name, 0))
        if self._sizes_differ:
            raise ContentMismatch("sources do not agree on its size")
        if self._last is not None:
            raise self._last
        if distrusted:
            raise SourceUnavailable("it has twice delivered bytes that are not what the digest promises")
        raise SourceUnavailable("no source is left")

    async def _failed(self, source: Source, error: SourceError, *, progressed: bool) -> None:
        name = source.name
        self._flight.errors[name] = error
        # What is said of the content counts for more than that somebody could not be reached.
        if self._last is None or not isinstance(error, SourceUnavailable):
            self._last = error
        if isinstance(error, SourceUnavailable):
            fruitless = 0 if progressed else self._fruitless.get(name, 0) + 1
            if not self._state.answering:
                fruitless = _TRIES  # nobody has headers yet: who waits is told at once, and may come again
            self._fruitless[name] = fruitless
            alone = len(self._flight.sources) == 1
            if alone and fruitless < _TRIES:
                await asyncio.sleep(_PAUSE * 2**fruitless * random.uniform(0.5, 1.0))
        else:
            self._dropped.add(name)

    async def _accept(self, source: Source, stream: Stream, writer: FileWriter) -> None:
        """Takes note of what an answer says of itself, before its bytes."""
        state = self._state
        if stream.start > state.contiguous:
            raise SourceUnavailable("it began its answer behind the byte that was asked for")
        if stream.total is not None:
            if state.total is None:
                await self._context.room(stream.total - state.contiguous)
                if stream.total < state.contiguous:
                    raise ContentMismatch("it is smaller than what is there already")
                state.total = stream.total
            elif state.total != stream.total:
                self._sizes_differ = True
                self._dropped.add(source.name)
                raise SourceUnavailable(f"it says {stream.total} bytes where another said {state.total}")
        if source.name not in state.answered:
            state.answered.append(source.name)
        state.answering = True
        await off_loop(self._context.executor, self._show_life)
        self._show(writer)

    async def _pump(self, source: Source, stream: Stream, writer: FileWriter) -> None:
        state, clock = self._state, self._context.clock
        skip = state.contiguous - stream.start  # it could not start in the middle
        window_at, window_from = clock.monotonic(), state.contiguous
        room_at = state.contiguous + _ROOM_EVERY
        while chunk := await stream.read():
            if skip:
                skipped = min(skip, len(chunk))
                skip -= skipped
                chunk = chunk[skipped:]
                if not chunk:
                    continue
            if state.total is not None and state.contiguous + len(chunk) > state.total:
                self._wrong([source.name])
                raise ContentMismatch("the source sends more bytes than it said")
            if state.total is None and state.contiguous + len(chunk) > room_at:
                await self._context.room(_ROOM_EVERY)
                room_at += _ROOM_EVERY
            await self._keep(chunk, writer)
            now = clock.monotonic()
            if now - window_at > _CRAWL_WINDOW:
                crawls = state.contiguous - window_from < _CRAWL_BYTES
                if crawls and len(self._flight.sources) > len(self._dropped) + 1:
                    self._fruitless[source.name] = self._fruitless.get(source.name, 0) + 1
                    raise SourceUnavailable("it crawls")
                window_at, window_from = now, state.contiguous
        if state.total is None:
            state.total = state.contiguous
        elif state.contiguous < state.total:
            raise SourceUnavailable(f"it ended after {state.contiguous} of {state.total} bytes")

    async def _keep(self, chunk: bytes, writer: FileWriter) -> None:
        """Writes, hashes and says so on disk, in one go off the loop."""
        state, verifier = self._state, self._verifier
        in_order = self._catching_up is None

        def then() -> None:
            if in_order:
                verifier.update(chunk)
            state.contiguous += len(chunk)
            state.hashed = verifier.offset
            state.progressed_at = self._context.clock.wall()
            self._show_life()

        await writer.write(chunk, then)
        if state.contiguous > self._flight.present:
            self._flight.file = writer.file
            self._flight.present = state.contiguous
            self._flight.tell()
        if verifier.offset < state.contiguous and self._catching_up is None:
            self._hash_behind(writer)

    def _hash_behind(self, writer: FileWriter) -> None:
        """Hashes what is there already, while more comes."""
        self._catching_up = asyncio.get_running_loop().create_task(self._catch_up(writer))

    async def _catch_up(self, writer: FileWriter) -> None:
        state, verifier = self._state, self._verifier

        def hash_next() -> None:
            with storing():
                data = writer.file.read(verifier.offset, min(_CATCH_UP, state.contiguous - verifier.offset))
            if not data:
                raise ContentMismatch("what was inherited is shorter than its state says")
            verifier.update(data)
            state.hashed = verifier.offset

        while verifier.offset < state.contiguous:
            await off_loop(self._context.executor, hash_next)
        # From here on the bytes are hashed as they are written, if none is being written just now.
        self._catching_up = None

    async def _hashed(self, writer: FileWriter) -> None:
        while self._verifier.offset < self._state.contiguous:
            if self._catching_up is None:
                self._hash_behind(writer)
            if self._catching_up is not None:
                await self._catching_up

    # the end

    async def _verify(self, writer: FileWriter) -> None:
        flight, context, state = self._flight, self._context, self._state
        await self._hashed(writer)
        if not self._verifier.verified():
            self._wrong(state.answered)
            raise ContentMismatch("the bytes are not what the digest promises")
        state.phase = Phase.VERIFIED
        self._show(writer)
        await off_loop(context.executor, self._show_life)
        await writer.commit(flight.digest)
        await context.stored(flight.digest, state.contiguous, list(state.answered))
        state.phase = Phase.STORED
        self._show(writer)
        await off_loop(context.executor, self._finish)
        flight.over = True

    def _wrong(self, sources: list[str]) -> None:
        """Holds wrong bytes against whoever delivered some of them."""
        now = self._context.clock.wall()
        for name in sources:
            self._state.mismatches.append((name, now))
            self._context.observer.mismatch(name)

    def _finish(self) -> None:
        self._show_life()
        self._context.partials.clear(self._flight.digest, self._claim)

    async def _leave(self, phase: Phase, error: CacheError) -> None:
        """Ends the leadership without a blob, and says why to who follows and to who comes next."""
        flight, state, context = self._flight, self._state, self._context
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.gather(self._catching_up, return_exceptions=True)
        if state.phase != Phase.VERIFIED:
            flight.phase = phase  # who reads verified bytes reads on, also when the disk refuses their name
        flight.error = error
        flight.over = True
        state.phase = phase
        state.failure_kind, state.failure = type(error).__name__, str(error)[:1000]
        state.retry_after = error.retry_after if isinstance(error, SourceLimited) else None
        if phase != Phase.ABANDONED:
            state.contiguous = state.hashed = 0
            state.total = None
        with contextlib.suppress(OSError, StorageError):
            await off_loop(context.executor, self._page.save, state)
            if self._writer is not None:
                # Wrong bytes, and bytes without room, lose their name; who has them open reads on.
                await (self._writer.suspend() if phase == Phase.ABANDONED else self._writer.cancel())
            if phase == Phase.REFUSED:
                await off_loop(context.executor, context.partials.clear, flight.digest, self._claim)
        flight.tell()
