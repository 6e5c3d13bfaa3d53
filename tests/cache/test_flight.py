"""The tee: one download, many readers, whatever the sources do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from entrepot.cache.blob_store import FileSlice
from entrepot.cache.clock import ManualClock, SystemClock
from entrepot.cache.digest import Digest
from entrepot.cache.errors import (
    CacheError,
    ContentMismatch,
    SourceMissing,
    SourceUnavailable,
    StorageError,
    StorageFull,
)
from entrepot.cache.filesystem import FilesystemStore
from entrepot.cache.flight import FlightContext, FlightReader
from entrepot.cache.flight_state import Phase
from entrepot.cache.flights import Flights
from entrepot.cache.partials import Followed, Led, Partials
from entrepot.cache.watch import Watcher

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = Digest.of(CONTENT)


class ScriptedStream:
    def __init__(self, content: bytes, start: int, total: int | None, step: Script) -> None:
        self.start = start
        self.total = total
        self._left = content[start:]
        self._given = 0
        self._script = step

    async def read(self) -> bytes:
        script = self._script
        if script.pause_at is not None and self.start + self._given >= script.pause_at:
            script.paused.set()
            await script.resume.wait()
        if script.cut_at is not None and self.start + self._given >= script.cut_at:
            raise SourceUnavailable("cut off")
        chunk, self._left = self._left[: script.chunk], self._left[script.chunk :]
        self._given += len(chunk)
        return chunk

    async def close(self) -> None:
        pass


class Script:
    """How a source answers once."""

    def __init__(
        self,
        content: bytes = CONTENT,
        *,
        cut_at: int | None = None,
        pause_at: int | None = None,
        error: CacheError | None = None,
        ignore_start: bool = False,
        no_total: bool = False,
        chunk: int = 64 * 1024,
    ) -> None:
        self.content = content
        self.cut_at = cut_at
        self.pause_at = pause_at
        self.error = error
        self.ignore_start = ignore_start
        self.no_total = no_total
        self.chunk = chunk
        self.paused = asyncio.Event()
        self.resume = asyncio.Event()


class ScriptedSource:
    distrust = 10.0

    def __init__(self, name: str, *scripts: Script) -> None:
        self.name = name
        self.scripts = list(scripts)
        self.asked: list[int] = []

    async def open(self, digest: Digest, start: int) -> ScriptedStream:
        self.asked.append(start)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        if script.error is not None:
            raise script.error
        return ScriptedStream(
            script.content,
            0 if script.ignore_start else start,
            None if script.no_total else len(script.content),
            script,
        )


class Counts:
    def __init__(self) -> None:
        self.resumes = 0
        self.mismatches: list[str] = []
        self.refused: list[StorageError] = []

    def resumed(self) -> None:
        self.resumes += 1

    def mismatch(self, source: str) -> None:
        self.mismatches.append(source)

    def unstored(self, error: StorageError) -> None:
        self.refused.append(error)


class Bench:
    """Flights on a directory, with the sources that a test gives them."""

    def __init__(self, flights: Flights, store: FilesystemStore, counts: Counts) -> None:
        self.flights = flights
        self.store = store
        self.counts = counts
        self.stored: list[tuple[Digest, int, list[str]]] = []

    async def read(self, source: str, start: int = 0, end: int | None = None) -> bytes:
        flight = await self.flights.join(DIGEST, source)
        await flight.started(source)
        return await drain(FlightReader(flight, source), start, end)


async def drain(
    reader: FlightReader, start: int = 0, end: int | None = None, into: bytearray | None = None
) -> bytes:
    got = bytearray() if into is None else into
    async for piece in reader.pieces(start, end):
        assert isinstance(piece, FileSlice)
        got += piece.file.read(piece.offset, piece.count)
    return bytes(got)


@asynccontextmanager
async def bench(
    directory: Path,
    *sources: ScriptedSource,
    room: Callable[[int], None] | None = None,
    hung_after: float = 5.0,
    clock: SystemClock | ManualClock | None = None,
) -> AsyncIterator[Bench]:
    (directory / "partial").mkdir(exist_ok=True)
    (directory / "blobs").mkdir(exist_ok=True)
    executor = ThreadPoolExecutor(4)
    store = FilesystemStore(directory, executor)
    counts = Counts()
    watcher = Watcher()

    async def look(more: int) -> None:
        if room is not None:
            room(more)

    async def stored(digest: Digest, size: int, names: list[str]) -> None:
        it.stored.append((digest, size, names))

    flights = Flights(
        FlightContext(
            store=store,
            partials=Partials(store.partial, hung_after=hung_after),
            sources={source.name: source for source in sources}.get,
            clock=clock or SystemClock(),
            executor=executor,
            watcher=watcher,
            room=look,
            stored=stored,
            observer=counts,
        )
    )
    it = Bench(flights, store, counts)
    try:
        yield it
    finally:
        await flights.close()
        await watcher.close()
        executor.shutdown()


async def test_a_blob_is_fetched_once_for_all_who_ask_together(tmp_path: Path) -> None:
    source = ScriptedSource("up/one", Script())
    async with bench(tmp_path, source) as it:
        answers = await asyncio.gather(*(it.read("up/one") for _ in range(100)))
        assert all(answer == CONTENT for answer in answers)
        assert source.asked == [0]
        await settled(it)
        assert it.stored == [(DIGEST, len(CONTENT), ["up/one"])]
        assert it.store.path(DIGEST).read_bytes() == CONTENT
        assert it.store.path(DIGEST).stat().st_mode & 0o777 == 0o444
        assert list((tmp_path / "partial").iterdir()) == []


async def settled(it: Bench) -> None:
    while it.flights.find(DIGEST) is not None:
        flight = it.flights.find(DIGEST)
        assert flight is not None
        await flight.change()
        await asyncio.sleep(0)


async def test_the_last_byte_waits_for_the_hash(tmp_path: Path) -> None:
    wrong = CONTENT[:-1] + b"!"
    source = ScriptedSource("up/one", Script(wrong))
    async with bench(tmp_path, source) as it:
        flight = await it.flights.join(DIGEST, "up/one")
        await flight.started()
        got = bytearray()
        with pytest.raises(ContentMismatch):
            await drain(FlightReader(flight), into=got)
        assert 0 < len(got) < len(wrong)
        await settled(it)
        assert not it.store.path(DIGEST).exists()
        assert it.counts.mismatches == ["up/one"]


async def test_a_range_that_ends_before_the_last_byte_is_given_at_once(tmp_path: Path) -> None:
    script = Script(pause_at=512 * 1024)
    async with bench(tmp_path, ScriptedSource("up/one", script)) as it:
        assert await it.read("up/one", 1000, 5000) == CONTENT[1000:5000]
        late = asyncio.create_task(it.read("up/one", 700_000, 800_000))
        await script.paused.wait()
        script.resume.set()
        assert await late == CONTENT[700_000:800_000]


async def test_after_two_wrong_answers_a_source_is_left_alone(tmp_path: Path) -> None:
    source = ScriptedSource("up/one", Script(b"x" * 1000))
    async with bench(tmp_path, source) as it:
        for _ in range(2):
            with pytest.raises(ContentMismatch):
                await it.read("up/one")
            await settled(it)
        with pytest.raises(SourceUnavailable):
            await it.read("up/one")
        assert len(source.asked) == 2
        good = ScriptedSource("up/two", Script())
        it.flights.context.sources("up/one")
        sources = {"up/one": source, "up/two": good}
        object.__setattr__(it.flights.context, "sources", sources.get)
        await settled(it)
        assert await it.read("up/two") == CONTENT


async def test_a_break_is_resumed_at_the_same_byte(tmp_path: Path) -> None:
    source = ScriptedSource("up/one", Script(cut_at=640 * 1024), Script(cut_at=960 * 1024), Script())
    async with bench(tmp_path, source) as it:
        assert await it.read("up/one") == CONTENT
        assert source.asked == [0, 640 * 1024, 960 * 1024]


async def test_an_upstream_that_ignores_the_range_is_read_past_what_is_there(tmp_path: Path) -> None:
    source = ScriptedSource("up/one", Script(cut_at=640 * 1024), Script(ignore_start=True))
    async with bench(tmp_path, source) as it:
        assert await it.read("up/one") == CONTENT


async def test_another_source_goes_on_at_the_same_byte(tmp_path: Path) -> None:
    first = Script(pause_at=640 * 1024, cut_at=640 * 1024)
    one = ScriptedSource("up/one", first, Script(error=SourceMissing("gone")))
    two = ScriptedSource("up/two", Script())
    async with bench(tmp_path, one, two) as it:
        reading = asyncio.create_task(it.read("up/one"))
        await first.paused.wait()
        flight = it.flights.find(DIGEST)
        assert flight is not None
        await flight.add_source("up/two")
        first.resume.set()
        assert await reading == CONTENT
        assert two.asked == [640 * 1024]
        await settled(it)
        assert it.stored[0][2] == ["up/one", "up/two"]


async def test_a_size_that_nobody_tells_is_learnt_at_the_end(tmp_path: Path) -> None:
    async with bench(tmp_path, ScriptedSource("up/one", Script(no_total=True))) as it:
        assert await it.read("up/one") == CONTENT


async def test_what_the_source_says_reaches_who_waits(tmp_path: Path) -> None:
    async with bench(tmp_path, ScriptedSource("up/one", Script(error=SourceMissing("no such blob")))) as it:
        with pytest.raises(SourceMissing):
            await it.read("up/one")


async def test_without_room_nothing_is_kept(tmp_path: Path) -> None:
    def none(more: int) -> None:
        raise StorageFull(f"{more} bytes are too many")

    async with bench(tmp_path, ScriptedSource("up/one", Script()), room=none) as it:
        with pytest.raises(StorageFull):
            await it.read("up/one")
        assert it.counts.refused
        await settled(it)
        assert [path.name for path in (tmp_path / "partial").iterdir()] == []


async def test_what_a_dead_process_left_is_gone_on_with(tmp_path: Path) -> None:
    script = Script(pause_at=640 * 1024)
    first = ScriptedSource("up/one", script)
    async with bench(tmp_path, first) as it:
        reading = asyncio.create_task(it.read("up/one"))
        await script.paused.wait()
        await it.flights.close()
        with pytest.raises(SourceUnavailable):
            await reading
    second = ScriptedSource("up/one", Script())
    async with bench(tmp_path, second) as it:
        assert await it.read("up/one") == CONTENT
        assert second.asked == [640 * 1024]
        assert it.counts.resumes == 1


async def test_inherited_bytes_that_are_wrong_are_thrown_away(tmp_path: Path) -> None:
    script = Script(pause_at=640 * 1024)
    async with bench(tmp_path, ScriptedSource("up/one", script)) as it:
        reading = asyncio.create_task(it.read("up/one"))
        await script.paused.wait()
        await it.flights.close()
        with pytest.raises(SourceUnavailable):
            await reading
    data = next((tmp_path / "partial").glob("*.data"))
    with open(data, "r+b") as file:
        file.write(b"torn")
    again = ScriptedSource("up/one", Script())
    async with bench(tmp_path, again) as it:
        with pytest.raises(ContentMismatch):
            await it.read("up/one")
        await settled(it)
        assert await it.read("up/one") == CONTENT
        assert again.asked == [640 * 1024, 0]


async def test_a_second_process_follows_and_takes_over_from_a_dead_leader(tmp_path: Path) -> None:
    script = Script(pause_at=640 * 1024)
    one = ScriptedSource("up/one", script)
    two = ScriptedSource("up/one", Script())
    async with bench(tmp_path, one) as leading:
        first = asyncio.create_task(leading.read("up/one"))
        await script.paused.wait()
        async with bench(tmp_path, two) as following:
            flight = await following.flights.join(DIGEST, "up/one")
            second = asyncio.create_task(following.read("up/one"))
            while flight.present < 640 * 1024:
                await flight.change()
            assert two.asked == []
            script.resume.set()
            assert await first == CONTENT
            assert await second == CONTENT
            assert two.asked == []


def test_a_hung_leader_is_left_behind_with_files_that_nobody_reads(tmp_path: Path) -> None:
    partials = Partials(tmp_path, hung_after=5.0)
    old = partials.claim(DIGEST, 100.0)
    assert isinstance(old, Led)
    partials.data_path(DIGEST, 1).write_bytes(CONTENT[:1000])
    old.state.contiguous = old.state.hashed = 1000
    old.state.total = len(CONTENT)
    old.page.save(old.state)

    assert isinstance(partials.claim(DIGEST, 104.0), Followed)
    new = partials.claim(DIGEST, 106.0)
    assert isinstance(new, Led)
    assert (new.state.epoch, new.state.contiguous, new.state.total) == (2, 1000, len(CONTENT))
    assert partials.data_path(DIGEST, 2).read_bytes() == CONTENT[:1000]

    old.state.phase = Phase.BAD  # the old one wakes up, and says what it likes
    old.page.save(old.state)
    partials.clear(DIGEST, old)
    current = partials.claim(DIGEST, 106.5)
    assert isinstance(current, Followed)
    assert current.state is not None
    assert (current.state.epoch, current.state.phase) == (2, Phase.FILLING)


def test_a_torn_state_vouches_for_nothing(tmp_path: Path) -> None:
    partials = Partials(tmp_path, hung_after=5.0)
    led = partials.claim(DIGEST, 100.0)
    assert isinstance(led, Led)
    led.state.contiguous = 500
    led.page.save(led.state)
    led.lock.release()
    with open(partials.state_path(DIGEST), "r+b") as file:
        file.seek(40)
        file.write(b"\0\0\0\0")
    again = partials.claim(DIGEST, 101.0)
    assert isinstance(again, Led)
    assert again.state.contiguous == 0


def test_leftovers_are_collected_after_their_time_but_never_from_under_a_leader(tmp_path: Path) -> None:
    partials = Partials(tmp_path, hung_after=5.0)
    led = partials.claim(DIGEST, 100.0)
    assert isinstance(led, Led)
    partials.data_path(DIGEST, 1).write_bytes(b"x" * 100)
    for path in tmp_path.iterdir():
        os.utime(path, (1000, 1000))
    assert partials.collect(older_than=2000) == 0
    led.lock.release()
    assert partials.collect(older_than=500) == 0
    assert partials.collect(older_than=2000) >= 100
    assert list(tmp_path.iterdir()) == []
