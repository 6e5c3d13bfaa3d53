"""The cold stampede: many clients at once ask for one blob that no cache has, and the upstream is slow.

    python bench/stampede.py [--clients 100] [--size 50] [--rate 5] [--workers 2]

Directly, through docker-registry in proxy mode, and through the mirror, each once: how much is asked of the
upstream, how far apart the first bytes are, how long until the last client has it all. Every client
compares every byte.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from measure import cpu_seconds, memory, table, write
from peers import Program, answers, free_port, need, started
from slow_upstream import content_of

REPOSITORY: Final = "library/stampede"
DIRECT: Final = "direct"
LIMIT: Final = 120.0
"""Seconds after which a stampede is given up."""


class Client(asyncio.Protocol):
    """Asks once and compares what comes with what has to come."""

    def __init__(self, request: bytes, content: bytes) -> None:
        self._request = request
        self._content = content
        self._head = b""
        self._offset = -1  # until the head has come
        self.first = self.last = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self) -> None:
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._offset < 0:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 200 "):
                self._fail(head.splitlines()[0].decode("latin-1"))
                return
            self._offset = 0
        if not data:
            return
        self.first = self.first or time.monotonic()
        if not self._content.startswith(data, self._offset):
            self._fail(f"wrong bytes after {self._offset}")
            return
        self._offset += len(data)
        if self._offset == len(self._content):
            self.last = time.monotonic()
            self._end()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"cut off after {self._offset} bytes")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))
        self._transport.close()

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self._transport.close()


async def stampede(address: str, path: str, content: bytes, clients: int) -> dict[str, float]:
    """All connect, then all ask; ends when all have everything."""
    host, _, port = address.partition(":")
    request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    herd = [
        (await loop.create_connection(lambda: Client(request, content), host, int(port)))[1]
        for _ in range(clients)
    ]
    began = time.monotonic()
    for client in herd:
        client.ask()
    results = await asyncio.wait_for(
        asyncio.gather(*(client.done for client in herd), return_exceptions=True), LIMIT
    )
    served = [client for client, result in zip(herd, results, strict=True) if result is None]
    for reason in sorted({str(result) for result in results if result is not None}):
        print(f"  a client failed: {reason}")
    firsts = [client.first - began for client in served] or [float("nan")]
    return {
        "served": len(served),
        "first_byte_min": min(firsts),
        "first_byte_median": median(firsts),
        "first_byte_max": max(firsts),
        "wall": max((client.last - began for client in served), default=float("nan")),
    }


def asked(url: str) -> dict[str, int]:
    """What the upstream counted so far."""
    with urllib.request.urlopen(f"{url}/stats", timeout=10) as response:
        return {key: int(value) for key, value in json.load(response).items()}


def report(results: dict[str, Any], size: int) -> str:
    rows = [
        [
            name,
            f"{one['served']:.0f}",
            f"{one['wall']:.2f} s",
            *(f"{one[f'first_byte_{which}'] * 1e3:,.0f} ms" for which in ("min", "median", "max")),
            f"{one['gets']}",
            f"{one['bytes'] / size:.2f}",
            f"{one['cpu']:.2f} s" if "cpu" in one else "-",
            f"{one['memory'] / 1e6:.0f} MB" if "memory" in one else "-",
        ]
        for name, one in results.items()
    ]
    head = [
        "cold stampede",
        "served",
        "wall",
        "first byte",
        "median",
        "last",
        "GETs",
        "blobs asked",
        "CPU",
        "PSS",
    ]
    return table(head, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--size", type=int, default=50, help="of the blob, in MiB")
    parser.add_argument("--rate", type=float, default=5, help="of each upstream connection, in MB/s")
    parser.add_argument("--workers", type=int, default=2, help="of the mirror")
    options = parser.parse_args(arguments)
    need("docker-registry")

    size = options.size * 2**20
    content = content_of(size)
    path = f"/v2/{REPOSITORY}/blobs/sha256:{hashlib.sha256(content).hexdigest()}"
    home = Path(tempfile.mkdtemp(prefix="entrepot-bench-"))
    (home / "upstream").mkdir()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    script = Path(__file__).parent / "slow_upstream.py"
    command = (sys.executable, str(script), str(port), str(size), str(options.rate * 1e6))
    upstream = Program(home / "upstream", *command)
    results: dict[str, Any] = {}
    try:
        upstream.start(lambda: answers(f"{url}/v2/", 200))
        with started(home, url, workers=options.workers) as peers:
            for name in (DIRECT, *peers):
                print(f"stampede: {name}", flush=True)
                before, peer = asked(url), peers.get(name)
                address = peer.address if peer else f"127.0.0.1:{port}"
                used = cpu_seconds(peer.pid) if peer else 0.0
                results[name] = asyncio.run(stampede(address, path, content, options.clients))
                results[name] |= {key: value - before[key] for key, value in asked(url).items()}
                if peer:
                    results[name] |= {"cpu": cpu_seconds(peer.pid) - used, "memory": memory(peer.pid)}
    finally:
        upstream.stop()
        shutil.rmtree(home)
    print(f"\n{report(results, size)}\n\nkept in {write('stampede', {'options': vars(options), **results})}")


if __name__ == "__main__":
    main()
