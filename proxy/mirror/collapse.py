"""One question at a time for a key, however many ask: its task belongs to the server, not to a client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from entrepot.cache.errors import SourceTimeout

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asking(Generic[T]):
    """A question under way."""

    task: asyncio.Task[T]
    started_at: float
    """By the loop's clock, in seconds."""
    joined: bool
    """Whether it was under way already."""

    async def answer(self) -> T:
        """Waits for it. Who stops waiting leaves it running for the others."""
        return await asyncio.shield(self.task)

    async def answer_within(self, seconds: float) -> T:
        """The same, but no longer than so many seconds after the question was first asked: who joins an
        old question waits that much less. Raises `TimeoutError`."""
        async with asyncio.timeout_at(self.started_at + seconds):
            return await self.answer()


class Collapse:
    """The questions under way in this process."""

    def __init__(self) -> None:
        self._asked: dict[str, Asking[Any]] = {}

    def ask(self, key: str, question: Callable[[], Awaitable[T]]) -> Asking[T]:
        """Joins the question of this key, or begins it."""
        under_way = self._asked.get(key)
        if under_way is not None:
            return Asking(under_way.task, under_way.started_at, joined=True)
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._run(key, question), name=key)
        task.add_done_callback(_seen)
        asking = self._asked[key] = Asking(task, loop.time(), joined=False)
        return asking

    async def _run(self, key: str, question: Callable[[], Awaitable[T]]) -> T:
        try:
            return await question()
        finally:
            del self._asked[key]

    async def close(self) -> None:
        """Ends what is still being asked."""
        tasks = [asking.task for asking in self._asked.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _seen(task: asyncio.Task[Any]) -> None:
    """Everybody who wanted the answer may have left: an error is then nobody's."""
    if not task.cancelled():
        task.exception()


@asynccontextmanager
async def answering_within(seconds: float, upstream: str) -> AsyncIterator[None]:
    """Bounds everything that comes before our own headers. Raises `SourceTimeout`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise SourceTimeout(f"{upstream} did not answer within {seconds:g} s") from error
