"""The data plane of one process: the app behind its listener, from its start to its drained end."""

from __future__ import annotations

import asyncio
import importlib
import socket
from collections.abc import Awaitable
from typing import Any, Final, Protocol, cast

from aiohttp import web
from entrepot.cache.clock import Clock
from entrepot.cache.generation import Generations
from entrepot.cache.lease import Leases

from ..config import Config
from ..metrics import Metrics, ProcessFacts
from ..metrics_merge import Families
from . import log
from .listeners import BACKLOG

FIELD_LIMIT: Final = 64 * 1024
"""Bytes of a header. podman asks for hundreds of ranges in one, which aiohttp's 8,190 bytes refuse."""
HEADERS_LIMIT: Final = 256
_KEEPALIVE: Final = 75.0
"""Seconds that a connection may be idle: longer than the 60 s after which usual reverse proxies let go."""
_LAST_WORDS: Final = 1.0
"""Seconds for what a handler has returned and the connection has not sent yet."""

APP: Final = "entrepot.proxy.server.app:App"


class App(Protocol):
    """What answers the requests of one process."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse: ...

    async def reload(self, config: Config) -> None: ...

    async def drain(self) -> None: ...

    async def close(self) -> None: ...

    def status(self) -> dict[str, Any]: ...


class AppClass(Protocol):
    """How an app is made."""

    def open(
        self, config: Config, *, leases: Leases, generations: Generations, metrics: Metrics, clock: Clock
    ) -> Awaitable[App]: ...


def app_class(name: str) -> AppClass:
    """By `MODULE:CLASS`, as the supervisor names it to its workers: a test has an app of its own."""
    module, _, attribute = name.partition(":")
    return cast("AppClass", getattr(importlib.import_module(module), attribute))


class DataPlane:
    """An app that serves on a listener. Made by `start`."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._server = web.Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=_KEEPALIVE,
            max_line_size=FIELD_LIMIT,
            max_field_size=FIELD_LIMIT,
            max_headers=HEADERS_LIMIT,
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=_LAST_WORDS)
        self._site: web.SockSite | None = None

    @classmethod
    async def start(cls, app: App, listener: socket.socket, metrics: Metrics) -> DataPlane:
        """Serves on a socket that is bound. Owns both, the app and the socket, from then on."""
        plane = cls(app, metrics)
        await plane._runner.setup()
        plane._site = web.SockSite(plane._runner, listener, backlog=BACKLOG)
        await plane._site.start()
        return plane

    async def reload(self, config: Config) -> None:
        """Takes a new configuration for the requests from now on."""
        await self._app.reload(config)

    def status(self) -> dict[str, Any]:
        """What is going on, for people."""
        return {
            "connections": len(self._server.connections),
            "under_way": self._under_way,
            **self._app.status(),
        }

    async def snapshot(self) -> Families:
        """The metrics of this process as they are now."""
        log.flush_repeated()
        self._metrics.observe_process(await asyncio.to_thread(ProcessFacts.read))
        self._metrics.clients.set(len(self._server.connections))
        self._metrics.observe_dropped_lines(log.dropped())
        return self._metrics.snapshot()

    async def drain(self, seconds: float) -> None:
        """Accepts nothing more and gives what is under way so many seconds; then closes the app, which leaves
        its downloads to be resumed, and the connections."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
        await asyncio.sleep(0)  # what was accepted just now is to be seen as under way
        # aiohttp's own `pre_shutdown` waits for `close`: it stops reading, which would cut bodies under way.
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                group.create_task(self._app.drain())
                group.create_task(self._until_quiet())
        except TimeoutError:
            pass  # they were given their time
        finally:
            await self.close()

    async def close(self) -> None:
        """At once. Requests under way are cut off."""
        await self._runner.cleanup()
        await self._app.close()

    async def _until_quiet(self) -> None:
        while self._under_way:
            await self._quiet.wait()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._under_way += 1
        self._quiet.clear()
        try:
            return await self._app.handle(request)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._quiet.set()
