"""Who serves the pulls: worker processes, or with one worker this process itself.

A slot is a listener and whoever serves on it. A worker that dies is replaced at once, by one that inherits
the listener and what is queued on it; one that dies again and again ends the server.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from entrepot.cache.clock import Clock
from entrepot.cache.errors import CacheError
from entrepot.cache.generation import Generations
from entrepot.cache.lease import Leases

from ..config import Config, ConfigError, Document, Overrides
from ..metrics import Metrics, ProcessFacts
from ..metrics_merge import Families, MetricsSum, merge
from . import log
from .data_plane import DataPlane, app_class
from .worker import Brief, configuration_message
from .worker_process import WorkerFailed, WorkerProcess

DEATHS_LIMIT: Final = 5
"""So many deaths of one slot within `DEATHS_WITHIN` seconds end the server."""
DEATHS_WITHIN: Final = 30.0
_BACKOFF: Final = (0.0, 0.5, 1.0, 2.0)
"""Seconds before the start of a successor, by how many deaths the slot has just had."""
_WRITERS: Final = 65_535

_LOG: Final = logging.getLogger(__name__)


class CrewFailed(Exception):
    """Nobody can serve. As text: why, in one line."""


@dataclass(frozen=True, slots=True)
class Common:
    """What the supervisor has for all processes."""

    leases: Leases
    generations: Generations
    generations_descriptor: int
    metrics: Metrics
    clock: Clock
    app: str
    """As `data_plane.app_class` takes it."""
    inherited: tuple[int, ...]
    """Descriptors that live as long as the last worker."""


class Crew(Protocol):
    """The contract."""

    async def start(self, document: Document, overrides: Overrides, config: Config) -> None:
        """Returns once all serve. Raises `CrewFailed`."""
        ...

    async def failed(self) -> str:
        """Returns only when it can serve no more: why."""
        ...

    async def reload(self, document: Document, overrides: Overrides, config: Config) -> list[str]:
        """What went wrong; then the old configuration is in force everywhere."""
        ...

    async def families(self) -> Families:
        """Metrics, the supervisor's own included."""
        ...

    async def status(self) -> list[dict[str, Any]]: ...

    async def drain(self, seconds: float) -> None:
        """Ends it. Requests under way have so many seconds."""
        ...

    async def kill(self) -> None:
        """Ends it at once."""
        ...


class OwnCrew:
    """One worker, which is this process."""

    def __init__(self, common: Common, listener: socket.socket) -> None:
        self._common = common
        self._listener = listener
        self._plane: DataPlane | None = None
        self._since = common.clock.wall()

    async def start(self, document: Document, overrides: Overrides, config: Config) -> None:
        common = self._common
        try:
            app = await app_class(common.app).open(
                config,
                leases=common.leases,
                generations=common.generations,
                metrics=common.metrics,
                clock=common.clock,
            )
        except (CacheError, OSError) as error:
            raise CrewFailed(str(error)) from error
        try:
            self._plane = await DataPlane.start(app, self._listener, common.metrics)
        except BaseException:
            await app.close()
            raise
        common.metrics.workers.set(1)

    async def failed(self) -> str:
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    async def reload(self, document: Document, overrides: Overrides, config: Config) -> list[str]:
        if self._plane is None:
            return ["the server is starting or ending"]
        try:
            await self._plane.reload(config)
        except (CacheError, ConfigError, OSError) as error:
            return [str(error)]
        return []

    async def families(self) -> Families:
        return self._common.metrics.snapshot() if self._plane is None else await self._plane.snapshot()

    async def status(self) -> list[dict[str, Any]]:
        if self._plane is None:
            return []
        facts = {"slot": 0, "pid": os.getpid(), "since": self._since, "serving": True}
        return [facts | self._plane.status()]

    async def drain(self, seconds: float) -> None:
        plane, self._plane = self._plane, None
        if plane is not None:
            await plane.drain(seconds)

    async def kill(self) -> None:
        plane, self._plane = self._plane, None
        if plane is not None:
            await plane.close()


@dataclass(slots=True)
class _Slot:
    number: int
    listener: socket.socket
    worker: WorkerProcess | None = None
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=DEATHS_LIMIT))
    served: asyncio.Event = field(default_factory=asyncio.Event)


class ProcessCrew:
    """Several workers, each a process."""

    def __init__(self, common: Common, listeners: Sequence[socket.socket]) -> None:
        self._common = common
        self._slots = [_Slot(number, listener) for number, listener in enumerate(listeners)]
        self._sum = MetricsSum()
        self._writers = itertools.count(1)
        self._configuration: tuple[Document, Overrides] | None = None
        self._leaving = False
        self._failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self, document: Document, overrides: Overrides, config: Config) -> None:
        self._configuration = (document, overrides)
        self._keepers = [asyncio.create_task(self._keep(slot)) for slot in self._slots]
        served = asyncio.create_task(self._served())
        try:
            await asyncio.wait((served, self._failure), return_when=asyncio.FIRST_COMPLETED)
        finally:
            served.cancel()
            await asyncio.gather(served, return_exceptions=True)
        if self._failure.done():
            raise CrewFailed(self._failure.result())

    async def failed(self) -> str:
        return await asyncio.shield(self._failure)

    async def reload(self, document: Document, overrides: Overrides, config: Config) -> list[str]:
        if self._configuration is None:
            return ["the server is starting"]
        old = self._configuration
        self._configuration = (document, overrides)
        problems = await self._tell(document, overrides)
        if problems:
            self._configuration = old
            problems += await self._tell(*old)
        return problems

    async def families(self) -> Families:
        self._common.metrics.observe_process(await asyncio.to_thread(ProcessFacts.read))
        self._common.metrics.observe_dropped_lines(log.dropped())
        await asyncio.gather(*(worker.scrape() for worker in self._workers()))
        return merge((self._common.metrics.snapshot(), self._sum.families()))

    async def status(self) -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(worker.status() for worker in self._workers())))

    async def drain(self, seconds: float) -> None:
        self._leave()
        await asyncio.gather(*(worker.drain(seconds) for worker in self._workers()))
        await self._end()

    async def kill(self) -> None:
        self._leave()
        for worker in self._workers():
            worker.kill()
        await self._end()

    async def _served(self) -> None:
        for slot in self._slots:
            await slot.served.wait()

    def _leave(self) -> None:
        self._leaving = True
        for slot in self._slots:
            slot.listener.close()

    async def _end(self) -> None:
        for slot, keeper in zip(self._slots, self._keepers, strict=True):
            if slot.worker is None:  # between two of them
                keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    def _workers(self) -> list[WorkerProcess]:
        return [slot.worker for slot in self._slots if slot.worker is not None]

    async def _tell(self, document: Document, overrides: Overrides) -> list[str]:
        message = configuration_message(document, overrides)
        told = (worker.reload(message) for worker in self._workers() if worker.serving)
        return [
            str(error) for error in await asyncio.gather(*told, return_exceptions=True) if error is not None
        ]

    async def _keep(self, slot: _Slot) -> None:
        """Has somebody serve the slot until the end."""
        try:
            while not self._leaving:
                why = await self._one(slot)
                if self._leaving:
                    return
                now = time.monotonic()
                slot.deaths.append(now)
                deaths = sum(now - death <= DEATHS_WITHIN for death in slot.deaths)
                if not slot.served.is_set():
                    self._fail(why)
                    return
                if deaths >= DEATHS_LIMIT:
                    self._fail(
                        f"worker {slot.number} died {deaths} times within {DEATHS_WITHIN:.0f} seconds: {why}"
                    )
                    return
                _LOG.error("worker %d: %s; another takes its place", slot.number, why)
                await asyncio.sleep(_BACKOFF[min(deaths, len(_BACKOFF)) - 1])
                self._common.metrics.worker_restarts.inc()
        except Exception as error:
            self._fail(f"worker {slot.number} cannot be kept: {error}")
            raise

    async def _one(self, slot: _Slot) -> str:
        """One worker's whole life; how it ended."""
        if self._configuration is None:
            raise AssertionError
        document, overrides = self._configuration
        brief = Brief(
            slot.number,
            next(self._writers) % _WRITERS + 1,
            slot.listener.fileno(),
            self._common.generations_descriptor,
            self._common.app,
            document,
            overrides,
        )
        inherited = (brief.listener, brief.generations, *self._common.inherited)
        try:
            worker = await WorkerProcess.start(brief, inherited, self._common.leases, self._report)
        except OSError as error:
            return f"it cannot be started: {error}"
        slot.worker = worker
        why = None
        try:
            try:
                await worker.serve(brief)
            except WorkerFailed as error:
                why = str(error)
                worker.kill()
            else:
                slot.served.set()
                self._count()
                await self._bring_up_to_date(worker, document, overrides)
            status = await worker.ended()
        except BaseException:
            worker.kill()
            raise
        finally:
            slot.worker = None
            self._sum.retire(worker.name)
            self._count()
        return why or f"process {worker.pid} {_ending(status)}"

    async def _bring_up_to_date(
        self, worker: WorkerProcess, document: Document, overrides: Overrides
    ) -> None:
        """For a reload while it started."""
        if self._configuration is None or self._configuration == (document, overrides):
            return
        try:
            await worker.reload(configuration_message(*self._configuration))
        except WorkerFailed as error:
            _LOG.error("%s; it has the configuration of before the last reload", error)

    def _count(self) -> None:
        self._common.metrics.workers.set(sum(worker.serving for worker in self._workers()))

    def _report(self, worker: WorkerProcess, families: Families) -> None:
        self._sum.put(worker.name, families)

    def _fail(self, why: str) -> None:
        if not self._failure.done():
            self._failure.set_result(why)


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
