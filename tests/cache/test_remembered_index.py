"""The memory in front of an index: cheap, bounded, never stale, and of use when the index is not."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from entrepot.cache import remembered_index
from entrepot.cache.clock import ManualClock
from entrepot.cache.embedded_index import EmbeddedIndex
from entrepot.cache.errors import IndexUnavailable
from entrepot.cache.generation import Generations
from entrepot.cache.index import Link, Negative, TagKey
from entrepot.cache.remembered_index import RememberedIndex

from .index_samples import NOW, blob_row, content, tag_entry

T = TypeVar("T")

KEY = TagKey("docker.io/library/nginx", "latest")
REPOSITORY = "docker.io/library/nginx"
DIGEST = content("layer")
NEGATIVE = Negative("404", NOW, NOW + 10)


class GuardedIndex:
    """An index that counts what it is asked, fails when told to, and holds its answers back at a gate."""

    def __init__(self, inner: EmbeddedIndex) -> None:
        self.inner = inner
        self.asked: list[str] = []
        self.broken = False
        self.gate: asyncio.Event | None = None
        self.at_the_gate = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self.inner, name)
        if name in ("generation", "close"):
            return operation

        async def guarded(*arguments: Any) -> Any:
            self.asked.append(name)
            gate, broken = self.gate, self.broken
            result = None if broken else await operation(*arguments)
            if gate is not None:
                self.at_the_gate.set()
                await gate.wait()
            if broken:
                await asyncio.sleep(0)
                raise IndexUnavailable("database or disk is full")
            return result

        return guarded


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def guarded(tmp_path: Path, clock: ManualClock) -> AsyncIterator[GuardedIndex]:
    generations = Generations()
    inner = await EmbeddedIndex.open(tmp_path / "index", generations, clock)
    yield GuardedIndex(inner)
    await inner.close()
    generations.close()


@pytest.fixture
def index(guarded: GuardedIndex, clock: ManualClock) -> RememberedIndex:
    return RememberedIndex(guarded, 10, clock)


def at_once(operation: Coroutine[Any, Any, T]) -> T:
    """The result of what never suspends."""
    try:
        operation.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    operation.close()
    raise AssertionError("it suspended")


def reads(index: RememberedIndex) -> dict[str, Callable[[], Coroutine[Any, Any, object]]]:
    return {
        "tag": lambda: index.tag(KEY),
        "link": lambda: index.link(REPOSITORY, DIGEST, "blob"),
        "negative": lambda: index.negative("a"),
        "blob": lambda: index.blob(DIGEST),
    }


class TestReading:
    @pytest.mark.parametrize("there", [True, False])
    async def test_is_asked_once_and_then_answered_without_suspending(
        self, index: RememberedIndex, guarded: GuardedIndex, there: bool
    ) -> None:
        if there:
            await guarded.inner.put_tag(KEY, tag_entry())
            await guarded.inner.put_links([Link(REPOSITORY, DIGEST, "blob", True)])
            await guarded.inner.put_blob(blob_row("layer"))
            await guarded.inner.put_negative("a", NEGATIVE)
        for name, read in reads(index).items():
            first = await read()
            assert (first is not None) == there
            guarded.broken = True  # memory needs no index
            for _ in range(3):
                assert at_once(read()) == first
            guarded.broken = False
            assert guarded.asked == [name]
            guarded.asked.clear()

    async def test_a_failed_read_is_not_remembered(
        self, index: RememberedIndex, guarded: GuardedIndex
    ) -> None:
        for read in reads(index).values():
            guarded.broken = True
            with pytest.raises(IndexUnavailable):
                await read()
            guarded.broken = False
            assert await read() is None

    async def test_a_write_by_another_makes_it_be_read_again(
        self, index: RememberedIndex, guarded: GuardedIndex
    ) -> None:
        assert await index.tag(KEY) is None
        await guarded.inner.put_tag(KEY, tag_entry("by another worker"))
        assert await index.tag(KEY) == tag_entry("by another worker")
        await guarded.inner.put_tag(KEY, tag_entry("again"))
        guarded.broken = True
        with pytest.raises(IndexUnavailable):  # what is known to be outdated is not answered
            await index.tag(KEY)

    async def test_a_write_during_a_read_is_not_hidden_by_it(
        self, index: RememberedIndex, guarded: GuardedIndex
    ) -> None:
        await guarded.inner.put_tag(KEY, tag_entry("old"))
        guarded.gate = asyncio.Event()
        read = asyncio.create_task(index.tag(KEY))
        await guarded.at_the_gate.wait()
        await guarded.inner.put_tag(KEY, tag_entry("new"))
        guarded.gate.set()
        assert await read == tag_entry("old")
        assert await index.tag(KEY) == tag_entry("new")

    async def test_many_who_ask_together_cause_one_read(
        self, index: RememberedIndex, guarded: GuardedIndex
    ) -> None:
        await guarded.inner.put_tag(KEY, tag_entry())
        answers = await asyncio.gather(*(index.tag(KEY) for _ in range(1000)))
        assert set(answers) == {tag_entry()}
        assert guarded.asked == ["tag"]

    async def test_many_who_ask_together_fail_together(
        self, index: RememberedIndex, guarded: GuardedIndex
    ) -> None:
        guarded.broken = True
        answers = await asyncio.gather(*(index.tag(KEY) for _ in range(100)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {IndexUnavailable}
        assert guarded.asked == ["tag"]

    async def test_who_is_cancelled_takes_nobody_along(
        self, index: RememberedIndex, guarded: GuardedIndex
    ) -> None:
        guarded.gate = asyncio.Event()
        tasks = [asyncio.create_task(index.tag(KEY)) for _ in range(4)]
        await guarded.at_the_gate.wait()
        tasks[0].cancel()  # who reads
        tasks[2].cancel()  # who waits
        guarded.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [
            True,
            False,
            True,
            False,
        ]
        assert answers[1] is answers[3] is None
        assert guarded.asked == ["tag", "tag"]

    async def test_the_least_recently_used_goes_first_and_the_number_is_bounded(
        self, index: RememberedIndex, guarded: GuardedIndex
    ) -> None:
        keys = [TagKey(f"docker.io/a{number}", "latest") for number in range(30)]
        for key in keys:
            await index.tag(keys[0])
            await index.tag(key)
        assert len(index._tags) == 10
        guarded.asked.clear()
        for key in (keys[0], *keys[-9:]):
            at_once(index.tag(key))
        await index.tag(keys[1])
        assert guarded.asked == ["tag"]

    async def test_a_negative_ends_by_the_clock_given(
        self, index: RememberedIndex, clock: ManualClock
    ) -> None:
        await index.put_negative("a", NEGATIVE)
        assert await index.negative("a") == NEGATIVE
        clock.advance(10)
        assert at_once(index.negative("a")) is None


class TestWritingThatFails:
    """The process goes by what it wanted to write."""

    async def test_a_tag(self, index: RememberedIndex, guarded: GuardedIndex) -> None:
        await index.put_tag(KEY, tag_entry("old"))
        guarded.broken = True
        with pytest.raises(IndexUnavailable):
            await index.put_tag(KEY, tag_entry("new"))
        assert at_once(index.tag(KEY)) == tag_entry("new")
        with pytest.raises(IndexUnavailable):
            await index.drop_tag(KEY)
        assert at_once(index.tag(KEY)) is None

    async def test_a_blob(self, index: RememberedIndex, guarded: GuardedIndex) -> None:
        guarded.broken = True
        with pytest.raises(IndexUnavailable):
            await index.put_blob(blob_row("layer"))
        assert at_once(index.blob(DIGEST)) == blob_row("layer")
        with pytest.raises(IndexUnavailable):
            await index.drop_blob(DIGEST)
        assert at_once(index.blob(DIGEST)) is None

    async def test_a_negative(self, index: RememberedIndex, guarded: GuardedIndex) -> None:
        guarded.broken = True
        for key in ("a1", "a2", "b"):
            with pytest.raises(IndexUnavailable):
                await index.put_negative(key, NEGATIVE)
        with pytest.raises(IndexUnavailable):
            await index.drop_negatives("a")
        assert at_once(index.negative("a1")) is None
        assert at_once(index.negative("b")) == NEGATIVE
        guarded.broken = False
        await index.drop_negatives("")  # also what lies in memory alone
        assert await index.negative("b") is None

    async def test_links(self, index: RememberedIndex, guarded: GuardedIndex) -> None:
        claimed = Link(REPOSITORY, DIGEST, "blob", False, "application/a", 5, content("first"))
        proved = Link(REPOSITORY, DIGEST, "blob", True, named_by=content("second"))
        assert await index.link(REPOSITORY, DIGEST, "blob") is None
        guarded.broken = True
        with pytest.raises(IndexUnavailable):
            await index.put_links([claimed])
        assert at_once(index.link(REPOSITORY, DIGEST, "blob")) == claimed
        with pytest.raises(IndexUnavailable):
            await index.put_links([claimed, proved, claimed])
        assert at_once(index.link(REPOSITORY, DIGEST, "blob")) == dataclasses.replace(claimed, proved=True)
        with pytest.raises(IndexUnavailable):
            await index.drop_links(REPOSITORY, [DIGEST])
        assert at_once(index.link(REPOSITORY, DIGEST, "blob")) is None

    async def test_a_claim_does_not_hide_a_proof_that_nobody_has_read_yet(
        self, index: RememberedIndex, guarded: GuardedIndex
    ) -> None:
        proved = Link(REPOSITORY, DIGEST, "blob", True)
        await guarded.inner.put_links([proved])
        guarded.broken = True
        with pytest.raises(IndexUnavailable):
            await index.put_links([dataclasses.replace(proved, proved=False)])
        guarded.broken = False
        assert await index.link(REPOSITORY, DIGEST, "blob") == proved

    async def test_a_read_under_way_does_not_bring_the_old_back(
        self, index: RememberedIndex, guarded: GuardedIndex
    ) -> None:
        await guarded.inner.put_tag(KEY, tag_entry("old"))
        guarded.gate = asyncio.Event()
        read = asyncio.create_task(index.tag(KEY))
        await guarded.at_the_gate.wait()
        gate, guarded.gate, guarded.broken = guarded.gate, None, True
        with pytest.raises(IndexUnavailable):
            await index.put_tag(KEY, tag_entry("new"))
        gate.set()
        assert await read == tag_entry("new")
        assert at_once(index.tag(KEY)) == tag_entry("new")

    async def test_is_over_when_someone_writes_again(
        self, index: RememberedIndex, guarded: GuardedIndex
    ) -> None:
        guarded.broken = True
        with pytest.raises(IndexUnavailable):
            await index.put_tag(KEY, tag_entry("lost"))
        guarded.broken = False
        await guarded.inner.put_tag(KEY, tag_entry("by another worker"))
        assert await index.tag(KEY) == tag_entry("by another worker")

    async def test_a_write_that_came_in_between_wins(
        self, index: RememberedIndex, guarded: GuardedIndex
    ) -> None:
        guarded.gate, guarded.broken = asyncio.Event(), True
        write = asyncio.create_task(index.put_tag(KEY, tag_entry("lost")))
        await guarded.at_the_gate.wait()
        await guarded.inner.put_tag(KEY, tag_entry("by another worker"))
        guarded.gate.set()
        with pytest.raises(IndexUnavailable):
            await write
        guarded.gate, guarded.broken = None, False
        assert await index.tag(KEY) == tag_entry("by another worker")


class TestTouch:
    async def test_collects_and_writes_in_one_batch(
        self, index: RememberedIndex, guarded: GuardedIndex
    ) -> None:
        for number in range(3):
            await index.put_blob(blob_row(number))
        guarded.asked.clear()
        for step in range(5):
            at_once(index.touch({content(number): NOW + step for number in range(3)}))
        assert guarded.asked == []
        await index.flush()
        await index.flush()  # nothing left
        assert guarded.asked == ["touch"]
        for number in range(3):
            row = await guarded.inner.blob(content(number))
            assert row is not None
            assert row.used_at == NOW + 4

    async def test_a_failed_flush_keeps_them(self, index: RememberedIndex, guarded: GuardedIndex) -> None:
        await index.put_blob(blob_row("layer"))
        await index.touch({DIGEST: NOW + 1})
        guarded.broken = True
        with pytest.raises(IndexUnavailable):
            await index.flush()
        await index.touch({DIGEST: NOW + 0.5})
        guarded.broken = False
        await index.flush()
        assert (await guarded.inner.blob(DIGEST)) == blob_row("layer", used_at=NOW + 1)

    async def test_a_touch_during_a_flush_is_for_the_next(
        self, index: RememberedIndex, guarded: GuardedIndex
    ) -> None:
        await index.put_blob(blob_row("layer"))
        await index.touch({DIGEST: NOW + 1})
        guarded.gate = asyncio.Event()
        flush = asyncio.create_task(index.flush())
        await guarded.at_the_gate.wait()
        await index.touch({DIGEST: NOW + 2})
        guarded.gate.set()
        await flush
        guarded.gate = None
        assert await index.blob(DIGEST) == blob_row("layer", used_at=NOW + 2)
        await index.flush()
        assert await guarded.inner.blob(DIGEST) == blob_row("layer", used_at=NOW + 2)

    async def test_a_cancelled_flush_keeps_them(self, index: RememberedIndex, guarded: GuardedIndex) -> None:
        await index.put_blob(blob_row("layer"))
        await index.touch({DIGEST: NOW + 1})
        guarded.gate = asyncio.Event()
        flush = asyncio.create_task(index.flush())
        await guarded.at_the_gate.wait()
        flush.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flush
        guarded.gate = None
        guarded.asked.clear()
        await index.flush()
        assert guarded.asked == ["touch"]

    async def test_what_waits_is_bounded_and_the_oldest_is_lost(
        self, index: RememberedIndex, guarded: GuardedIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remembered_index, "_TOUCHES_LIMIT", 3)
        for number in range(5):
            await index.put_blob(blob_row(number))
        await index.touch({content(0): NOW + 1, content(1): NOW + 1, content(2): NOW + 1})
        await index.touch({content(0): NOW + 2})  # used again: no longer the oldest
        await index.touch({content(3): NOW + 1, content(4): NOW + 1})
        await index.flush()
        rows = [await guarded.inner.blob(content(number)) for number in range(5)]
        assert [row and row.used_at - NOW for row in rows] == [2, 0, 0, 1, 1]

    async def test_closing_writes_them(self, index: RememberedIndex, guarded: GuardedIndex) -> None:
        await index.touch({DIGEST: NOW})
        await index.close()
        assert guarded.asked == ["touch"]
        with pytest.raises(IndexUnavailable):
            await guarded.inner.tag(KEY)

    async def test_closing_closes_also_where_they_cannot_be_written(
        self, index: RememberedIndex, guarded: GuardedIndex, caplog: pytest.LogCaptureFixture
    ) -> None:
        await index.touch({DIGEST: NOW})
        guarded.broken = True
        await index.close()
        assert "last-use times of 1 blobs are lost" in caplog.text
        with pytest.raises(IndexUnavailable):
            await guarded.inner.tag(KEY)
