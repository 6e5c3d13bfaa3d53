"""Leases of all workers, kept by the supervisor: each worker's half, and the supervisor's."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

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
                try:
                    await self._channel.request("lease", {"key": key, "token": token})
                except ChannelClosed:
                    pass
                except ChannelBusy as error:
                    _LOG.error("a lease is held in this worker alone: %s", error, extra={"repeated": "lease"})
                yield
            finally:
                if not self._channel.ended:
                    self._channel.notify("release", {"token": token})

    async def remember(self, key: str, value: str, seconds: float) -> None:
        try:
            await self._channel.request("remember", {"key": key, "value": value, "seconds": seconds})
        except ChannelClosed:
            await self._own.remember(key, value, seconds)

    async def recall(self, key: str) -> str | None:
        try:
            value = await self._channel.request("recall", {"key": key})
        except ChannelClosed:
            return await self._own.recall(key)
        return None if value is None else str(value)

    async def forget(self, key: str) -> None:
        try:
            await self._channel.request("forget", {"key": key})
        except ChannelClosed:
            await self._own.forget(key)


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

    def _lease(self, message: Message) -> asyncio.Future[None]:
        token = int(message["token"])
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._hold(str(message["key"]), granted))
        self._held[token] = task
        task.add_done_callback(lambda _: self._held.pop(token, None))
        return granted

    async def _hold(self, key: str, granted: asyncio.Future[None]) -> None:
        try:
            async with self._leases.lease(key):
                if not granted.done():
                    granted.set_result(None)
                await asyncio.get_running_loop().create_future()  # until released, which cancels
        finally:
            granted.cancel()

    def _release(self, message: Message) -> None:
        task = self._held.get(int(message["token"]))
        if task is not None:  # a waiter that has gone may have been released already
            task.cancel()

    async def _remember(self, message: Message) -> None:
        await self._leases.remember(str(message["key"]), str(message["value"]), float(message["seconds"]))

    async def _recall(self, message: Message) -> Any:
        return await self._leases.recall(str(message["key"]))

    async def _forget(self, message: Message) -> None:
        await self._leases.forget(str(message["key"]))
