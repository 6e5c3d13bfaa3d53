"""Workers as processes: what they share, and what becomes of a download whose leader dies or hangs."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from entrepot.cache.digest import Digest
from fake_upstream import FakeUpstream, Fault
from faults import hang_after

SIZE = 8 * 1024 * 1024
PATIENCE = 40.0


@dataclass
class Server:
    """`entrepot serve` in processes of its own."""

    process: asyncio.subprocess.Process
    url: str
    directory: Path
    log: list[str] = field(default_factory=list)

    async def control(self, path: str) -> Any:
        connector = aiohttp.UnixConnector(str(self.directory / "control.sock"))
        session = aiohttp.ClientSession(connector=connector)
        async with session, session.get(f"http://control{path}") as answer:
            return json.loads(await answer.read())

    async def workers(self) -> list[dict[str, Any]]:
        return list((await self.control("/api/status"))["workers"])

    async def has(self, digest: Digest, count: int) -> None:
        """Waits until so many bytes of a download are on the disk."""
        async with asyncio.timeout(PATIENCE):
            while True:
                flights = [flight for worker in await self.workers() for flight in worker.get("flights", [])]
                if any(flight["digest"] == str(digest) and flight["present"] >= count for flight in flights):
                    return
                await asyncio.sleep(0.05)  # the processes have no event for it

    async def leader(self, digest: Digest) -> int:
        """The process that fills this download."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for worker in await self.workers():
                    for flight in worker.get("flights", []):
                        if flight["digest"] == str(digest) and flight["leading"]:
                            return int(worker["pid"])
                await asyncio.sleep(0.05)  # the processes have no event for it


@asynccontextmanager
async def served(directory: Path, up: FakeUpstream, workers: int = 2) -> AsyncIterator[Server]:
    """Runs the server until the test is done, and ends it as an operator would."""
    directory.mkdir(exist_ok=True)
    config = directory / "upstreams.yaml"
    upstreams = {"docker.io": {"url": up.url, "default": True}}
    cache = directory / "cache"
    config.write_text(
        json.dumps(
            {
                "listen": "127.0.0.1:0",
                "admin": "127.0.0.1:0",
                "workers": workers,
                "drain": "2s",
                "cache": {"dir": str(cache), "min_free": "0%"},
                "upstreams": upstreams,
            }
        )
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "entrepot.proxy", "serve", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    server = Server(process, "", cache)
    drained = asyncio.create_task(_keep(process.stderr, server.log))
    try:
        async with asyncio.timeout(PATIENCE):
            while b"mirrors" not in await process.stdout.readline():
                assert process.returncode is None, server.log
            server.url = "http://" + (await server.control("/api/status"))["listen"]
        yield server
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(PATIENCE):
            await process.stdout.read()
            await process.wait()
            await drained


async def _keep(stream: asyncio.StreamReader, lines: list[str]) -> None:
    lines.extend([line.decode() async for line in stream])


async def pull(url: str, digest: Digest) -> bytes | None:
    """A blob on a connection of its own; None where the connection broke."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{url}/v2/library/box/blobs/{digest}") as answer:
                return await answer.read()
        except aiohttp.ClientError:
            return None


async def under_way(server: Server, digest: Digest, clients: int) -> list[asyncio.Task[bytes | None]]:
    """So many pulls, once both workers have some of them."""
    pulls = [asyncio.create_task(pull(server.url, digest)) for _ in range(clients)]
    async with asyncio.timeout(PATIENCE):
        while True:
            workers = await server.workers()
            if sum(worker["under_way"] for worker in workers) == clients:
                assert all(worker["under_way"] for worker in workers), "all went to one worker"
                return pulls
            await asyncio.sleep(0.05)


def right(answers: Sequence[bytes | None], digest: Digest) -> int:
    """How many came whole; none came wrong."""
    whole = [answer for answer in answers if answer is not None]
    assert all(Digest.of(answer) == digest for answer in whole)
    return len(whole)


async def test_one_download_over_all_workers(tmp_path: Path) -> None:
    async with FakeUpstream() as up, served(tmp_path, up) as server:
        digest = up.add_generated_blob("library/box", SIZE)
        release = asyncio.Event()
        up.faults.append(Fault(("GET", "/blobs/"), hang_after(SIZE // 2, release), times=1))
        pulls = await under_way(server, digest, 40)
        release.set()
        assert right(await asyncio.gather(*pulls), digest) == 40
        assert up.count("GET", "/blobs/") == 1
        assert up.bytes_sent == SIZE


async def test_a_leader_that_is_killed_is_followed_by_the_next(tmp_path: Path) -> None:
    async with FakeUpstream() as up, served(tmp_path, up) as server:
        digest = up.add_generated_blob("library/box", SIZE)
        release = asyncio.Event()
        up.faults.append(Fault(("GET", "/blobs/"), hang_after(SIZE // 2, release), times=1))
        pulls = await under_way(server, digest, 24)
        leader = await server.leader(digest)
        others = sum(w["under_way"] for w in await server.workers() if w["pid"] != leader)
        os.kill(leader, signal.SIGKILL)
        answers = await asyncio.gather(*pulls)
        release.set()
        # Those of the other worker never notice.
        assert right(answers, digest) == others
        resumed = up.seen("GET", "/blobs/")[1]
        assert resumed.range is not None
        assert up.bytes_sent < SIZE * 1.2
        # The dead worker is replaced, and everybody gets it from the cache.
        again = await asyncio.gather(*(pull(server.url, digest) for _ in range(10)))
        assert right(again, digest) == 10
        assert up.count("GET", "/blobs/") == 2


async def test_a_leader_that_hangs_is_left_behind_and_harms_nothing(tmp_path: Path) -> None:
    async with FakeUpstream() as up, served(tmp_path, up) as server:
        digest = up.add_generated_blob("library/box", SIZE)
        release = asyncio.Event()
        up.faults.append(Fault(("GET", "/blobs/"), hang_after(SIZE // 2, release), times=1))
        pulls = await under_way(server, digest, 24)
        leader = await server.leader(digest)
        others = sum(w["under_way"] for w in await server.workers() if w["pid"] != leader)
        os.kill(leader, signal.SIGSTOP)
        try:
            async with asyncio.timeout(PATIENCE):
                while sum(task.done() for task in pulls) < others:
                    await asyncio.wait(
                        [task for task in pulls if not task.done()], return_when=asyncio.FIRST_COMPLETED
                    )
            done = [task.result() for task in pulls if task.done()]
            assert right(done, digest) == others
        finally:
            os.kill(leader, signal.SIGCONT)
        release.set()  # the old leader's own answer goes on, into files that nobody reads
        answers = await asyncio.gather(*pulls)
        assert right(answers, digest) == 24
        blob = server.directory / "blobs" / "sha256" / digest.encoded
        assert Digest.of(blob.read_bytes()) == digest
        again = await asyncio.gather(*(pull(server.url, digest) for _ in range(10)))
        assert right(again, digest) == 10


@pytest.mark.parametrize("at", [0, 1, SIZE // 3, SIZE - 1])
async def test_a_server_that_is_killed_goes_on_where_it_was(tmp_path: Path, at: int) -> None:
    async with FakeUpstream() as up:
        digest = up.add_generated_blob("library/box", SIZE)
        async with served(tmp_path, up, workers=1) as server:
            release = asyncio.Event()
            up.faults.append(Fault(("GET", "/blobs/"), hang_after(at, release), times=1))
            task = asyncio.create_task(pull(server.url, digest))
            await up.wait_until(lambda: up.answering == 1 and up.bytes_sent >= at)
            await server.has(digest, at)
            server.process.kill()
            await server.process.wait()
            assert await task is None
        up.forget()
        async with served(tmp_path, up, workers=1) as server:
            assert right([await pull(server.url, digest)], digest) == 1
        assert up.bytes_sent == SIZE - at  # what was there is not asked for again


async def test_a_second_server_on_the_directory_is_told_who_has_it(tmp_path: Path) -> None:
    async with FakeUpstream() as up, served(tmp_path, up) as server:
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "entrepot.proxy", "serve", "--listen", "127.0.0.1:0"),
            *("--admin", "127.0.0.1:0", "--cache-dir", str(server.directory)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path / "cache",
        )
        _, errors = await second.communicate()
        assert second.returncode == 1
        (line,) = errors.decode().splitlines()
        assert str(server.process.pid) in line
        assert "entrepot serve" in line


async def test_a_write_by_one_worker_is_seen_by_the_other(tmp_path: Path) -> None:
    async with FakeUpstream() as up, served(tmp_path, up) as server:
        image = up.add_image("library/box", "1.0")

        async def tags() -> set[str]:
            answers = set()
            for _ in range(12):  # connections of their own, so that both workers are asked
                session = aiohttp.ClientSession()
                async with session, session.get(f"{server.url}/v2/library/box/manifests/1.0") as answer:
                    answers.add(answer.headers.get("Docker-Content-Digest", str(answer.status)))
            return answers

        assert await tags() == {str(image.digest)}
        moved = up.add_image("library/box", "1.0", layers=[b"moved"])
        refreshed = await _command(server, "refresh", "library/box:1.0", "--json")
        assert json.loads(refreshed)["after"] == str(moved.digest)
        assert await tags() == {str(moved.digest)}
        await _command(server, "remove", "library/box:1.0")
        up.remove_tag("library/box", "1.0")
        assert await tags() == {"404"}


async def _command(server: Server, *words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "entrepot.proxy", "cache", *words),
        *("--config", str(server.directory.parent / "upstreams.yaml")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode()


def _pull(address: str, digest: Digest) -> tuple[Digest, float]:
    """What came, and when its first byte did. In a thread: five gigabytes are much for one event loop."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    connection.request("GET", f"/v2/library/box/blobs/{digest}")
    answer = connection.getresponse()
    running, buffer = hashlib.sha256(answer.read(1)), bytearray(1024 * 1024)
    first = time.monotonic()
    while count := answer.readinto(buffer):
        running.update(memoryview(buffer)[:count])
    connection.close()
    return Digest("sha256", running.hexdigest()), first


async def test_a_hundred_clients_on_a_cold_blob_over_a_slow_line(tmp_path: Path) -> None:
    size = 50 * 1024 * 1024
    async with FakeUpstream() as up, served(tmp_path, up) as server:
        digest = up.add_generated_blob("library/box", size)
        up.bandwidth = 25 * 1024 * 1024
        address = server.url.removeprefix("http://")
        with ThreadPoolExecutor(100) as threads:
            loop = asyncio.get_running_loop()
            pulls = [loop.run_in_executor(threads, _pull, address, digest) for _ in range(100)]
            got, firsts = zip(*await asyncio.gather(*pulls), strict=True)
        assert set(got) == {digest}
        assert up.count("GET", "/blobs/") == 1
        assert up.bytes_sent == size
        # Promised: all within 100 ms of the first. Here five times that; the figure itself is the bench's.
        assert max(firsts) - min(firsts) < 0.5
