"""Leases: who may do a thing alone, and what is remembered for all processes while they run.

One revalidation of a tag, one token of a key, one fetch of a manifest at a time, whichever worker is asked.
What is remembered here is gone with the supervisor: nothing here needs a disk, and secrets may lie here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from .clock import Clock


class Leases(Protocol):
    """The contract. Keys are made by whoever leases; a prefix says whose they are (`tag:`, `token:`)."""

    def lease(self, key: str) -> AbstractAsyncContextManager[None]:
        """Holds `key` alone among all processes; waits in turn for it. Given back when the holder ends,
        also when it is killed. The caller bounds the wait."""
        ...

    async def remember(self, key: str, value: str, seconds: float) -> None:
        """Keeps a small value for every process, for so long."""
        ...

    async def recall(self, key: str) -> str | None:
        """What was remembered, while its time lasts."""
        ...

    async def forget(self, key: str) -> None: ...


class LocalLeases:
    """For one process alone, and the supervisor's own half of the shared ones."""

    def __init__(self, clock: Clock, *, limit: int = 100_000) -> None:
        self._clock = clock
        self._limit = limit
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._values: dict[str, tuple[str, float]] = {}

    @asynccontextmanager
    async def lease(self, key: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)

    async def remember(self, key: str, value: str, seconds: float) -> None:
        self._values.pop(key, None)
        if len(self._values) >= self._limit:
            self._make_room()
        self._values[key] = (value, self._clock.monotonic() + seconds)

    async def recall(self, key: str) -> str | None:
        held = self._values.get(key)
        if held is None:
            return None
        value, until = held
        if self._clock.monotonic() >= until:
            del self._values[key]
            return None
        return value

    async def forget(self, key: str) -> None:
        self._values.pop(key, None)

    def _make_room(self) -> None:
        now = self._clock.monotonic()
        for key in [key for key, (_, until) in self._values.items() if until <= now]:
            del self._values[key]
        while len(self._values) >= self._limit:  # the oldest remembered goes first
            del self._values[next(iter(self._values))]
