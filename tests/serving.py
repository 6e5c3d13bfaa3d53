"""A mirror in this process, over a real socket, before fake upstreams, under a clock that the test moves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from entrepot.cache.clock import Clock, ManualClock
from entrepot.cache.digest import Digest
from entrepot.cache.errors import CacheError, IndexUnavailable, StorageError
from entrepot.cache.generation import Generations
from entrepot.cache.lease import Leases, LocalLeases
from entrepot.proxy.config import Config, Overrides, parse
from entrepot.proxy.mirror.mirror import Mirror
from entrepot.proxy.server.app import App
from entrepot.proxy.server.exchange import Exchange
from entrepot.proxy.upstream.client import UpstreamClient


@dataclass
class Noted:
    """Everything that observers are told."""

    revalidations: list[tuple[str, str]] = field(default_factory=list)
    stale: list[tuple[str, str]] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    unkept: list[CacheError] = field(default_factory=list)
    unindexed_errors: list[CacheError] = field(default_factory=list)
    resumes: int = 0
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    received: int = 0
    tokens: list[tuple[str, str]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    _asked: asyncio.Event = field(default_factory=asyncio.Event)

    def revalidated(self, upstream: str, result: str) -> None:
        self.revalidations.append((upstream, result))
        self._asked.set()

    async def revalidation(self, result: str) -> None:
        """Waits until the last question to an upstream has ended so."""
        while not self.revalidations or self.revalidations[-1][1] != result:
            self._asked.clear()
            await self._asked.wait()

    def served_stale(self, upstream: str, reason: str) -> None:
        self.stale.append((upstream, reason))

    def mismatch(self, source: str) -> None:
        self.mismatches.append(source)

    def uncached(self, error: StorageError) -> None:
        self.unkept.append(error)

    def unstored(self, error: CacheError) -> None:
        self.unkept.append(error)

    def unindexed(self, error: IndexUnavailable) -> None:
        self.unindexed_errors.append(error)

    def resumed(self) -> None:
        self.resumes += 1

    def upstream_request(self, upstream: str, method: str, status: str) -> None:
        self.requests.append((upstream, method, status))

    def bytes_received(self, upstream: str, count: int) -> None:
        self.received += count

    def token_fetch(self, upstream: str, result: str) -> None:
        self.tokens.append((upstream, result))

    def credential_refused(self, upstream: str) -> None:
        self.refusals.append(upstream)


class Exchanges(list[Exchange]):
    """What the log would say."""

    def record(self, request: web.BaseRequest, exchange: Exchange) -> None:
        self.append(exchange)

    def reload(self, config: Config) -> None: ...


@dataclass(frozen=True)
class Answer:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The specification's code in an error's body."""
        return str(json.loads(self.body)["errors"][0]["code"])

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["errors"][0]["message"])

    @property
    def digest(self) -> str:
        return self.headers["Docker-Content-Digest"]


@dataclass
class Served:
    """The mirror, and a client of it."""

    url: str
    app: App
    clock: Clock
    noted: Noted
    exchanges: Exchanges
    session: aiohttp.ClientSession
    config: Config

    @property
    def mirror(self) -> Mirror:
        return self.app.mirror

    async def ask(self, method: str, path: str, **headers: str) -> Answer:
        """One request; `If_None_Match=` becomes `If-None-Match:`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, self.url + path, headers=sent) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, **headers)

    async def head(self, path: str, **headers: str) -> Answer:
        return await self.ask("HEAD", path, **headers)

    async def landed(self, digest: Digest) -> None:
        """Waits until no download of this is under way."""
        while (flight := self.mirror.flights.find(digest)) is not None:
            await flight.change()


@asynccontextmanager
async def serving(
    directory: Path,
    upstreams: Mapping[str, Mapping[str, Any]],
    *,
    clock: Clock | None = None,
    leases: Leases | None = None,
    generations: Generations | None = None,
    offline: bool = False,
    **keys: Any,
) -> AsyncIterator[Served]:
    """Runs a mirror of these upstreams, configured as a file would; further keys stand at the top."""
    clock = clock or ManualClock()
    directory.mkdir(exist_ok=True)
    for folder in ("blobs", "partial", "index"):
        (directory / folder).mkdir(exist_ok=True)
    text = json.dumps({"cache": {"dir": str(directory)}, "upstreams": upstreams, **keys})
    config = parse(text, "test.yaml", directory, Overrides(offline=offline), environ={})
    noted, exchanges = Noted(), Exchanges()
    own = generations or Generations()
    leases = leases or LocalLeases(clock)
    mirror = await Mirror.open(
        config,
        leases=leases,
        generations=own,
        clock=clock,
        observer=noted,
        clients=lambda upstream: UpstreamClient(upstream, leases=leases, clock=clock, metrics=noted),
    )
    app = App(config, mirror, exchanges, clock)
    server = web.Server(
        app.handle, max_field_size=65536, max_line_size=65536, handler_cancellation=True, access_log=None
    )
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    connector = aiohttp.TCPConnector(limit=0)
    try:
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            yield Served(f"http://{host}:{port}", app, clock, noted, exchanges, session, config)
    finally:
        await runner.cleanup()
        await app.close()
        if generations is None:
            own.close()
