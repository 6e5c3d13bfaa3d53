"""Leases of all workers, kept by the supervisor: each worker's half, and the supervisor's."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from entrepot.cache.clock import Clock
from entrepot.cache.lease import Leases, LocalLeases

from .channel import Channel, ChannelBusy, ChannelClosed, Handler, Message

_LOG: Final = logging.getLogger(__name__)


class SharedLeases:
    """A worker's half, an implementation of `entrepot.cache.lease.Leases`.

    Who waits in this worker for one key waits here, so that the supervisor has one request a key and worker;
    between two holders the key is given back, so that the other workers get their turn. Without a supervisor
    this worker is about to end, and leases are its own for that while."""

    def __init__(self, channel: Channel, clock: Clock) -> None:
        self._channel = channel
        self._own = LocalLeases(clock)
        self._tokens = itertools.count(1)

    @asynccontextmanager
    async def lease(self, key: str) -> AsyncIterator[None]:
        async with self._own.lease(key):
            token = next(self._tokens)
            try:
                await self._ask("lease", {"key": key, "token": token})
                yield
            finally:
                with contextlib.suppress(ChannelClosed, ChannelBusy):  # then it is given back with the rest
                    self._channel.notify("release", {"token": token})

    async def remember(self, key: str, value: str, seconds: float) -> None:
        if not await self._ask("remember", {"key": key, "value": value, "seconds": seconds}):
            await self._own.remember(key, value, seconds)

    async def recall(self, key: str) -> str | None:
        if (answer := await self._ask("recall", {"key": key})) is None:
            return await self._own.recall(key)
        value = answer["value"]
        return None if value is None else str(value)

    async def forget(self, key: str) -> None:
        await self._own.forget(key)
        await self._ask("forget", {"key": key})

    async def _ask(self, do: str, message: Message) -> Message | None:
        """What the supervisor answers; None where it cannot be asked."""
        try:
            answer: Message = await self._channel.request(do, message)
        except ChannelClosed:
            return None
        except ChannelBusy as error:
            _LOG.error("a lease is this worker's alone: %s", error, extra={"repeated": "lease"})
            return None
        return answer


class LeaseDesk:
    """The supervisor's half for one worker: what it holds or waits for, and gives back when it has ended.

    First come, first served, among all workers."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._held: dict[int, asyncio.Task[None]] = {}

    def handlers(self) -> Mapping[str, Handler]:
        """For the worker's channel."""
        return {
            "lease": self._lease,
            "release": self._release,
            "remember": self._remember,
            "recall": self._recall,
            "forget": self._forget,
        }

    async def close(self) -> None:
        """Gives everything back. After the channel has ended."""
        tasks = list(self._held.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _lease(self, message: Message) -> asyncio.Future[Message]:
        token = int(message["token"])
        granted: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._hold(str(message["key"]), granted))
        self._held[token] = task

        def ended(_: asyncio.Task[None]) -> None:
            self._held.pop(token, None)
            granted.cancel()  # for a waiter that was withdrawn

        task.add_done_callback(ended)
        return granted

    async def _hold(self, key: str, granted: asyncio.Future[Message]) -> None:
        async with self._leases.lease(key):
            if granted.done():  # withdrawn in the moment of its turn
                return
            granted.set_result({})
            await asyncio.get_running_loop().create_future()  # until released, which cancels

    def _release(self, message: Message) -> None:
        task = self._held.get(int(message["token"]))
        if task is not None:  # a waiter that has gone may have been released already
            task.cancel()

    async def _remember(self, message: Message) -> Message:
        await self._leases.remember(str(message["key"]), str(message["value"]), float(message["seconds"]))
        return {}

    async def _recall(self, message: Message) -> Message:
        return {"value": await self._leases.recall(str(message["key"]))}

    async def _forget(self, message: Message) -> Message:
        await self._leases.forget(str(message["key"]))
        return {}
