"""The supervisor: it serves no pull, and owns what the workers share.

The lock of the cache directory, the listening sockets, leases, generations, summed metrics, reloads, and the
end. What people and commands talk to is an office beside it (`Office`): the admin address.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from entrepot.cache.clock import Clock, SystemClock
from entrepot.cache.directory import CacheDirectory
from entrepot.cache.generation import Generations, create_shared
from entrepot.cache.lease import LocalLeases

from ..config import Address, Config, ConfigError, Document, Overrides, changed_without_reload, find_file
from ..metrics import Metrics
from ..metrics_merge import exposition
from . import log
from .crew import Common, Crew, CrewFailed, OwnCrew, ProcessCrew
from .data_plane import APP
from .listeners import address_of, open_listeners
from .worker import parsed

State = Literal["starting", "serving", "draining"]

_HURRY: Final = 3.0
"""Seconds for the end that a second signal asks for."""

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Launch:
    """How the server was started: what a reload reads again."""

    path: Path | None
    """The configuration file; None for the built-in configuration, unless a file has appeared since."""
    overrides: Overrides

    async def read(self) -> tuple[Document, Config]:
        """The configuration as it is now. Raises `ConfigError`."""
        document = await asyncio.to_thread(lambda: Document.load(find_file(self.path)))
        return document, await parsed(document, self.overrides)


class Office(Protocol):
    """What runs beside the workers in the supervisor's process, such as the admin address."""

    async def open(self, supervisor: Supervisor) -> None:
        """Before the workers start."""
        ...

    async def reload(self, config: Config) -> None:
        """A new configuration is in force."""
        ...

    async def close(self) -> None:
        """After the workers have ended; also when `open` failed."""
        ...


class Supervisor:
    """One server, from its start to its end. `run` is all of it."""

    def __init__(
        self,
        launch: Launch,
        document: Document,
        config: Config,
        offices: Sequence[Office],
        announce: Callable[[Supervisor], None],
        *,
        app: str = APP,
        clock: Clock | None = None,
    ) -> None:
        self._launch = launch
        self._document = document
        self._offices = offices
        self._announce = announce
        self._app = app
        self._crew: Crew | None = None
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[list[str]]] = set()
        self._directory: CacheDirectory | None = None
        self.config = config
        """What is in force."""
        self.state: State = "starting"
        self.listen: Address = config.listen
        """Where clients reach it; with the port that the system chose, where that was 0."""
        self.admin: Address = config.admin
        """Likewise."""
        self.clock: Clock = clock or SystemClock()
        self.metrics = Metrics()
        """Of this process. Those of the whole server: `exposition`."""
        self.leases = LocalLeases(self.clock)
        self._shared = create_shared()
        self.generations = Generations(self._shared, 0)
        self.started_at = self.clock.wall()
        self.metrics.start_time.set(self.started_at)

    @property
    def directory(self) -> CacheDirectory:
        """The cache directory, whose lock this process has while it runs."""
        if self._directory is None:
            raise RuntimeError("the supervisor does not run")
        return self._directory

    async def run(self) -> bool:
        """Until a signal ends it. True: what was under way had its time; False: a second signal cut it short.
        Raises `CacheError`, `ListenError`, `CrewFailed` and what the offices raise."""
        with contextlib.closing(self.generations), self._signals():
            try:
                async with self._owning() as listeners:
                    return await self._serve(listeners)
            finally:
                os.close(self._shared)

    def stop(self) -> None:
        """Ends it as SIGTERM does; called again, at once."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def reload(self) -> list[str]:
        """Reads the configuration again. Returns what is wrong with it, line by line; then the old one stays
        in force. Keys that need a restart keep their effect, and are named in the log."""
        async with self._reloading:
            try:
                document, config = await self._launch.read()
            except ConfigError as error:
                return self._kept([str(problem) for problem in error.problems])
            if self._crew is None or self.state != "serving":
                return [f"the server is {self.state}"]
            problems = await self._crew.reload(document, self._launch.overrides, config)
            if problems:
                return self._kept(problems)
            for key in changed_without_reload(self.config, config):
                _LOG.warning("%s has changed, which takes effect when the server is started again", key)
            self._document, self.config = document, config
            log.configure(config.log)
            for office in self._offices:
                await office.reload(config)
            self.metrics.reloads.labels("ok").inc()
            _LOG.info("the configuration was read again", extra={"fields": {"source": config.source}})
            return []

    async def exposition(self) -> bytes:
        """The metrics of the whole server, as `metrics_merge.CONTENT_TYPE`."""
        families = self.metrics.snapshot() if self._crew is None else await self._crew.families()
        return exposition(families)

    async def status(self) -> dict[str, Any]:
        """What the server is and does, for people."""
        return {
            "state": self.state,
            "pid": os.getpid(),
            "started_at": self.started_at,
            "listen": str(self.listen),
            "admin": str(self.admin),
            "configuration": self.config.source,
            "offline": self.config.offline,
            "cache_dir": str(self.config.cache.dir),
            "upstreams": list(self.config.upstreams),
            "workers": [] if self._crew is None else await self._crew.status(),
        }

    @contextlib.asynccontextmanager
    async def _owning(self) -> AsyncIterator[list[socket.socket]]:
        """Takes the directory, then the port: a server of the same directory is to be named as that."""
        config = self.config
        self._directory = await asyncio.to_thread(
            CacheDirectory.open, config.cache.dir, f"entrepot serve on {config.listen}"
        )
        listeners: list[socket.socket] = []
        try:
            listeners = open_listeners(config.listen, config.workers, "--listen")
            self.listen = Address(config.listen.host, address_of(listeners[0]).port)
            yield listeners
        finally:
            for listener in listeners:
                listener.close()
            self._directory.close()

    async def _serve(self, listeners: list[socket.socket]) -> bool:
        common = Common(
            leases=self.leases,
            generations=self.generations,
            generations_descriptor=self._shared,
            metrics=self.metrics,
            clock=self.clock,
            app=self._app,
            inherited=(self.directory.lock_descriptor,),
        )
        crew = OwnCrew(common, listeners[0]) if len(listeners) == 1 else ProcessCrew(common, listeners)
        self._crew = crew
        async with contextlib.AsyncExitStack() as offices:
            for office in self._offices:
                offices.push_async_callback(office.close)
                await office.open(self)
            try:
                starting = crew.start(self._document, self._launch.overrides, self.config)
                if await self._first(asyncio.ensure_future(starting)):
                    self.state = "serving"
                    self._announce(self)
                    await self._watch(crew)
            finally:
                self.state = "draining"
                in_time = await self._end(crew)
            return in_time

    async def _watch(self, crew: Crew) -> None:
        failing = asyncio.ensure_future(crew.failed())
        if await self._first(failing):
            raise CrewFailed(failing.result())

    async def _first(self, work: asyncio.Future[Any]) -> bool:
        """Whether this came to its end before the server was stopped. Raises what it raises."""
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return True
            return False
        finally:
            for one in (work, stopped):
                one.cancel()
            await asyncio.gather(work, stopped, return_exceptions=True)

    async def _end(self, crew: Crew) -> bool:
        for reload in self._reloads:
            reload.cancel()
        await asyncio.gather(*self._reloads, return_exceptions=True)
        draining = asyncio.ensure_future(crew.drain(self.config.drain))
        hurry = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait((draining, hurry), return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurry.cancel()
        if not draining.done():
            await self._cut_short(crew, draining)
            return False
        draining.result()
        return True

    async def _cut_short(self, crew: Crew, draining: asyncio.Future[None]) -> None:
        draining.cancel()
        try:
            async with asyncio.timeout(_HURRY):
                await asyncio.gather(draining, return_exceptions=True)
                await crew.kill()
        except TimeoutError:
            pass  # what is on disk bears a sudden end

    def _kept(self, problems: list[str]) -> list[str]:
        self.metrics.reloads.labels("refused").inc()
        for problem in problems:
            _LOG.error("the new configuration is not taken: %s", problem)
        _LOG.error("the old configuration stays in force")
        return problems

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _reload_soon(self) -> None:
        if len(self._reloads) < 2:  # one under way, and one for what has changed since
            task = asyncio.create_task(self.reload())
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)
