"""Leases within one process."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from entrepot.cache.clock import ManualClock
from entrepot.cache.lease import LocalLeases


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def leases(clock: ManualClock) -> LocalLeases:
    return LocalLeases(clock, limit=10)


async def settle() -> None:
    """Lets every task run until it waits for something."""
    for _ in range(10):
        await asyncio.sleep(0)


class TestLease:
    async def test_one_at_a_time_in_the_order_of_asking(self, leases: LocalLeases) -> None:
        log: list[str] = []

        async def work(name: str) -> None:
            async with leases.lease("tag:a"):
                log.append(f"+{name}")
                await settle()
                log.append(f"-{name}")

        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(work(name))
        assert log == ["+a", "-a", "+b", "-b", "+c", "-c"]

    async def test_another_key_is_no_hindrance(self, leases: LocalLeases) -> None:
        async with leases.lease("tag:a"), asyncio.timeout(5), leases.lease("tag:b"):
            pass

    async def test_given_back_when_the_holder_fails(self, leases: LocalLeases) -> None:
        with contextlib.suppress(ZeroDivisionError):
            async with leases.lease("tag:a"):
                raise ZeroDivisionError
        async with asyncio.timeout(5), leases.lease("tag:a"):
            pass

    async def test_stays_exclusive_whoever_is_cancelled_when(self, leases: LocalLeases) -> None:
        """Every task is cancelled at every point of the others' progress: waiting, woken, holding, done."""
        inside = 0

        async def work() -> None:
            nonlocal inside
            async with leases.lease("tag:a"):
                inside += 1
                try:
                    assert inside == 1
                    await asyncio.sleep(0)
                    assert inside == 1
                finally:
                    inside -= 1

        for steps in range(12):
            for victims in ([0], [1], [2], [0, 1], [1, 2], [0, 2], [0, 1, 2]):
                tasks = [asyncio.create_task(work()) for _ in range(4)]
                for _ in range(steps):
                    await asyncio.sleep(0)
                for victim in victims:
                    tasks[victim].cancel()
                async with asyncio.timeout(5):
                    results = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
                assert results[3] is None
        assert leases._locks == {}

    async def test_nothing_is_kept_of_a_key_that_nobody_holds(self, leases: LocalLeases) -> None:
        for number in range(100):
            async with leases.lease(f"tag:{number}"):
                pass
        assert leases._locks == {}


class TestMemory:
    async def test_lasts_its_time(self, leases: LocalLeases, clock: ManualClock) -> None:
        await leases.remember("token:a", "secret", 10)
        clock.advance(9.5)
        assert await leases.recall("token:a") == "secret"
        clock.advance(0.5)
        assert await leases.recall("token:a") is None

    async def test_goes_by_the_time_that_never_jumps(self, leases: LocalLeases, clock: ManualClock) -> None:
        await leases.remember("token:a", "secret", 10)
        clock.now += 1_000_000
        assert await leases.recall("token:a") == "secret"

    async def test_the_newest_value_counts(self, leases: LocalLeases, clock: ManualClock) -> None:
        await leases.remember("token:a", "old", 100)
        await leases.remember("token:a", "new", 1)
        assert await leases.recall("token:a") == "new"
        clock.advance(1)
        assert await leases.recall("token:a") is None

    async def test_is_forgotten_when_asked_to(self, leases: LocalLeases) -> None:
        await leases.remember("token:a", "secret", 10)
        await leases.forget("token:a")
        await leases.forget("token:unknown")
        assert await leases.recall("token:a") is None

    async def test_nothing_is_known_of_what_was_never_remembered(self, leases: LocalLeases) -> None:
        assert await leases.recall("token:a") is None
        await leases.remember("token:a", "secret", 0)
        assert await leases.recall("token:a") is None

    async def test_is_bounded_and_the_oldest_goes_first(self, leases: LocalLeases) -> None:
        for number in range(25):
            await leases.remember(f"token:{number}", str(number), 100)
        found = [number for number in range(25) if await leases.recall(f"token:{number}") is not None]
        assert found == list(range(15, 25))

    async def test_what_is_over_makes_room_before_what_holds(
        self, leases: LocalLeases, clock: ManualClock
    ) -> None:
        await leases.remember("token:long", "kept", 1000)
        for number in range(9):
            await leases.remember(f"token:{number}", "short", 1)
        clock.advance(2)
        await leases.remember("token:new", "new", 100)
        assert await leases.recall("token:long") == "kept"
        assert await leases.recall("token:new") == "new"

    async def test_a_renewed_value_takes_no_second_place(self, leases: LocalLeases) -> None:
        for _ in range(50):
            await leases.remember("token:a", "secret", 100)
        for number in range(9):
            await leases.remember(f"token:{number}", "x", 100)
        assert await leases.recall("token:a") == "secret"
