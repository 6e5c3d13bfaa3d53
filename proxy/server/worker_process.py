"""A worker process as its supervisor sees it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping
from typing import Any, Final

from entrepot.cache.lease import Leases

from ..metrics_merge import Families
from .channel import Channel, ChannelError, Handler, Message, RequestRefused
from .shared_leases import LeaseDesk
from .worker import IGNORED, Brief

START_TIMEOUT: Final = 60.0
"""Seconds for a worker to serve. Opening a cache takes under two."""
_ANSWER_TIMEOUT: Final = 10.0
_SCRAPE_TIMEOUT: Final = 0.5
"""Seconds that a scrape waits for a worker's newest figures. After that its last report is as good."""
_END_TIMEOUT: Final = 10.0
"""Seconds beyond the drain, for connections and downloads to be closed."""


class WorkerFailed(Exception):
    """A worker did not come to serve. As text: why, in one line."""


class WorkerProcess:
    """One process, from its start to its end. Made by `start`."""

    def __init__(
        self, process: Process, slot: int, leases: Leases, reported: Callable[[WorkerProcess, Families], None]
    ) -> None:
        self._process = process
        self._desk = LeaseDesk(leases)
        self._reported = reported
        self._channel: Channel | None = None
        self._scraping = False
        self.slot = slot
        self.serving = False
        self.since = time.time()
        self.heard_at = time.monotonic()
        """When it last reported its metrics."""

    @classmethod
    async def start(
        cls,
        brief: Brief,
        inherited: tuple[int, ...],
        leases: Leases,
        reported: Callable[[WorkerProcess, Families], None],
    ) -> WorkerProcess:
        """Starts a process that inherits these descriptors. It serves only after `serve`. `reported` gets its
        metrics whenever it tells them."""
        ours, theirs = socket.socketpair()
        try:
            # What the terminal or the service manager sends in this moment must not end it half-started.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # a folder called `entrepot` where the server was started is none of its code
                    "-m",
                    "entrepot.proxy.server.worker",
                    str(theirs.fileno()),
                    stdin=DEVNULL,
                    pass_fds=(theirs.fileno(), *inherited),
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        worker = cls(process, brief.slot, leases, reported)
        worker._channel = await Channel.open(ours, worker._handlers())
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def name(self) -> str:
        """Of this process among all that the server has had."""
        return f"{self.slot}/{self.pid}"

    async def serve(self, brief: Brief) -> None:
        """Waits until it serves. Raises `WorkerFailed`."""
        try:
            await self._ask("start", brief.to_message(), START_TIMEOUT)
        except RequestRefused as error:
            raise WorkerFailed(str(error)) from error
        except TimeoutError as error:
            raise WorkerFailed(f"a worker did not start in {START_TIMEOUT:.0f} seconds") from error
        except ChannelError as error:
            raise WorkerFailed("a worker ended while it started") from error
        self.serving = True

    async def reload(self, message: Message) -> None:
        """Raises `WorkerFailed` where it keeps its old configuration."""
        try:
            await self._ask("reload", message, _ANSWER_TIMEOUT)
        except (ChannelError, TimeoutError) as error:
            why = str(error) or f"no answer in {_ANSWER_TIMEOUT:.0f} seconds"
            raise WorkerFailed(f"worker {self.slot}: {why}") from error

    async def status(self) -> dict[str, Any]:
        """What it says of itself; at least what is known of it."""
        known = {
            "slot": self.slot,
            "pid": self.pid,
            "since": self.since,
            "heard": round(time.monotonic() - self.heard_at, 3),
            "serving": self.serving,
        }
        try:
            return {**known, **await self._ask("status", {}, _SCRAPE_TIMEOUT * 2)}
        except (ChannelError, TimeoutError):
            return {**known, "answers": False}

    async def scrape(self) -> None:
        """Has its newest metrics reported, if it is quick about it."""
        if self._scraping or not self.serving:  # one that does not answer is asked once
            return
        self._scraping = True
        asked = asyncio.ensure_future(self._ask("metrics", {}, None))
        asked.add_done_callback(self._scraped)
        await asyncio.wait([asked], timeout=_SCRAPE_TIMEOUT)

    async def drain(self, seconds: float) -> None:
        """Has it end, its requests under way within so many seconds; by force after that."""
        self.serving = False
        try:
            self._metrics(await self._ask("drain", {"seconds": seconds}, seconds + _END_TIMEOUT))
        except (ChannelError, TimeoutError):
            self.kill()
        if self._channel is not None:
            await self._channel.close()
        try:
            async with asyncio.timeout(_END_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            self.kill()

    def kill(self) -> None:
        """Ends it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> int:
        """Waits for its end; what it was (a signal as a negative number). Its leases are free then."""
        if self._channel is not None:
            waits = {
                asyncio.ensure_future(self._process.wait()),
                asyncio.ensure_future(self._channel.wait_ended()),
            }
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if self._process.returncode is None:  # cut off, or on its way out
                    _, late = await asyncio.wait(waits, timeout=_END_TIMEOUT)
                    if late:
                        self.kill()
            finally:
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
            self.serving = False
            await self._channel.close()
        await self._desk.close()
        return await self._process.wait()

    def _handlers(self) -> Mapping[str, Handler]:
        return {**self._desk.handlers(), "metrics": self._metrics}

    def _metrics(self, message: Message) -> None:
        self.heard_at = time.monotonic()
        self._reported(self, message["families"])

    def _scraped(self, asked: asyncio.Future[Message]) -> None:
        self._scraping = False
        if not asked.cancelled() and asked.exception() is None:
            self._metrics(asked.result())

    async def _ask(self, do: str, message: Message, timeout: float | None) -> Message:
        if self._channel is None:
            raise RequestRefused("the worker has no channel")
        answer: Message = await self._channel.request(do, message, timeout=timeout)
        return answer
