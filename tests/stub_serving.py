"""`entrepot serve` in processes of its own, with a stub in place of the registry's data plane."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

TESTS = Path(__file__).parent
PATIENCE = 30.0
"""Seconds after which a test has failed."""


@dataclass
class Connection:
    """One connection, which one worker has accepted."""

    session: aiohttp.ClientSession
    url: str
    pid: int

    async def ask(self, path: str) -> dict[str, Any]:
        async with self.session.get(self.url + path) as answer:
            return dict(await answer.json(content_type=None))

    @asynccontextmanager
    async def begun(self, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request whose handler has sent its first byte and waits."""
        async with self.session.get(self.url + path) as answer:
            assert await answer.content.readexactly(1) == b"{"
            yield answer


@dataclass
class Program:
    """A process whose output is read as it comes."""

    process: asyncio.subprocess.Process
    directory: Path
    out: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _readers: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    @property
    def config(self) -> Path:
        return self.directory / "upstreams.yaml"

    def read(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(self.process.stdout, self.out)),
            asyncio.create_task(self._read(self.process.stderr, self.errors)),
        ]

    async def _read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        async for line in stream:
            async with self._news:
                lines.append(line.decode().rstrip("\n"))
                self._news.notify_all()

    async def says(self, words: str, *, times: int = 1) -> str:
        """Waits for a line on either stream that has these words."""

        def said() -> list[str]:
            return [line for line in (*self.out, *self.errors) if words in line]

        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: len(said()) >= times)
        return said()[-1]

    async def ended(self) -> int:
        """Waits for its end, and for that of whoever else holds its output."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self._readers)
            return await self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    # once it serves

    @asynccontextmanager
    async def control(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.UnixConnector(str(self.cache / "control.sock"))
        async with aiohttp.ClientSession("http://control", connector=connector) as session:
            yield session

    async def status(self) -> dict[str, Any]:
        async with self.control() as session, session.get("/api/status") as answer:
            return dict(await answer.json())

    async def workers(self) -> dict[int, int]:
        """Process ids of those that serve, by slot."""
        return {
            worker["slot"]: worker["pid"] for worker in (await self.status())["workers"] if worker["serving"]
        }

    async def metrics(self) -> dict[str, float]:
        async with self.control() as session, session.get("/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
        }

    async def connected(self) -> Connection:
        """A new connection, to whichever worker."""
        url = f"http://{(await self.status())['listen']}/"
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1))
        try:
            async with session.get(url) as answer:
                return Connection(session, url, (await answer.json())["pid"])
        except BaseException:
            await session.close()
            raise

    @asynccontextmanager
    async def connections(self) -> AsyncIterator[dict[int, Connection]]:
        """One to each worker. The kernel spreads connections by their ports, so it may take some."""
        found: dict[int, Connection] = {}
        wanted = set((await self.workers()).values())
        spare: list[Connection] = []
        try:
            async with asyncio.timeout(PATIENCE):
                while set(found) != wanted:
                    one = await self.connected()
                    spare.append(one)
                    found.setdefault(one.pid, one)
            yield found
        finally:
            for one in spare:
                await one.session.close()


@asynccontextmanager
async def started(directory: Path, *flags: str, workers: int = 2, **keys: Any) -> AsyncIterator[Program]:
    """The program, which may or may not come to serve. Ended with the test, as an operator would."""
    directory.mkdir(exist_ok=True)
    write_config(directory, workers=workers, **keys)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(TESTS / "server_stub.py"),
        "serve",
        *("--config", str(directory / "upstreams.yaml")),
        *flags,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    program = Program(process, directory)
    program.read()
    try:
        yield program
    finally:
        if process.returncode is None:
            process.terminate()
        await program.ended()


@asynccontextmanager
async def serving(directory: Path, *flags: str, workers: int = 2, **keys: Any) -> AsyncIterator[Program]:
    """The program, once it serves."""
    async with started(directory, *flags, workers=workers, **keys) as program:
        await program.says("docker pull localhost")
        yield program


def write_config(directory: Path, *, prefix: str = "hub", **keys: Any) -> None:
    """A configuration on free ports, with a cache in the test's own directory."""
    (directory / "upstreams.yaml").write_text(
        json.dumps(
            {
                "listen": "127.0.0.1:0",
                "admin": "127.0.0.1:0",
                "drain": "2s",
                "cache": {"dir": str(directory / "cache")},
                "upstreams": {"docker.io": {"default": True, "prefix": prefix}},
                **keys,
            }
        )
    )
