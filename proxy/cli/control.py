"""How commands reach the cache: through a running server's `control.sock`, or on the directory itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import aiohttp
from entrepot.cache.clock import SystemClock
from entrepot.cache.directory import CacheDirectory, control_socket
from entrepot.cache.errors import InvalidReference, SourceError, StorageReadOnly
from entrepot.cache.generation import Generations
from entrepot.cache.lease import LocalLeases

from ..config import Config
from ..mirror.mirror import Mirror, SilentObserver
from ..mirror.upkeep import Json, NotKnown, Upkeep

_LINE_LIMIT = 1024 * 1024


class Refused(Exception):
    """The command did not work. The text says why, to people."""


class Control(Protocol):
    """What a command may ask. Raises `Refused`."""

    def list(self, prefix: str) -> AsyncIterator[Json]: ...

    async def get(self, what: str, **query: str) -> Json: ...

    async def post(self, what: str, **body: str) -> Json: ...


@asynccontextmanager
async def connected(config: Config) -> AsyncIterator[Control]:
    """The server that runs on the configured directory; without one, the directory, whose lock is then
    held. Raises `Refused`, and `DirectoryInUse` for a directory that another command works on."""
    socket = control_socket(config.cache.dir)
    try:
        connector = aiohttp.UnixConnector(str(socket), limit_per_host=2)
        session = aiohttp.ClientSession(connector=connector, read_bufsize=_LINE_LIMIT)
        async with session, session.get("http://control/healthz") as answer:
            await answer.read()
            yield Running(session)
            return
    except PermissionError as error:
        raise StorageReadOnly(f"{socket} may not be used by this user") from error
    except (aiohttp.ClientConnectorError, FileNotFoundError):
        pass
    with CacheDirectory.open(config.cache.dir, "an entrepot cache command", wait=0.0):
        clock, generations = SystemClock(), Generations()
        mirror = await Mirror.open(
            config,
            leases=LocalLeases(clock),
            generations=generations,
            clock=clock,
            observer=SilentObserver(),
        )
        try:
            yield Alone(Upkeep(config, mirror))
        finally:
            await mirror.close()
            generations.close()


class Running:
    """A running server."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def list(self, prefix: str) -> AsyncIterator[Json]:
        async with self._session.get(self._url("list"), params={"prefix": prefix}) as answer:
            await self._check(answer)
            async for line in answer.content:
                yield json.loads(line)

    async def get(self, what: str, **query: str) -> Json:
        async with self._session.get(self._url(what), params=query) as answer:
            return await self._check(answer)

    async def post(self, what: str, **body: str) -> Json:
        async with self._session.post(self._url(what), json=body) as answer:
            return await self._check(answer)

    @staticmethod
    def _url(what: str) -> str:
        return f"http://control/api/cache/{what}"

    @staticmethod
    async def _check(answer: aiohttp.ClientResponse) -> Json:
        if answer.status == 200 and answer.content_type != "application/json":
            return {}
        value: Any = await answer.json()
        if answer.status != 200:
            raise Refused(value.get("error", f"the server answered {answer.status}"))
        return dict(value)


class Alone:
    """The directory itself, with no server on it."""

    def __init__(self, upkeep: Upkeep) -> None:
        self._upkeep = upkeep

    async def list(self, prefix: str) -> AsyncIterator[Json]:
        async for row in self._upkeep.list(prefix):
            yield row

    async def get(self, what: str, **query: str) -> Json:
        return await self._do(what, query)

    async def post(self, what: str, **body: str) -> Json:
        return await self._do(what, body)

    async def _do(self, what: str, arguments: dict[str, str]) -> Json:
        do: Callable[..., Awaitable[Json]] = getattr(self._upkeep, what)
        try:
            return await do(**arguments)
        except (NotKnown, InvalidReference, SourceError) as error:
            raise Refused(str(error)) from error
