"""A registry with one blob on a slow line: each connection gets so many bytes a second and no more.

    python bench/slow_upstream.py PORT SIZE BYTES_PER_SECOND

Counts what it is asked for; `GET /stats` tells.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import sys
from typing import Final

TICK: Final = 0.02
"""Seconds between two pieces."""


def content_of(size: int) -> bytes:
    """The blob: always the same bytes."""
    return random.Random(size).randbytes(size)


class Upstream:
    """What it holds, and what it was asked for."""

    def __init__(self, size: int, rate: float) -> None:
        self._content = memoryview(content_of(size))
        self._digest = f"sha256:{hashlib.sha256(self._content).hexdigest()}"
        self._piece = max(1, int(rate * TICK))
        self.asked = {"gets": 0, "bytes": 0}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept alive."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head.decode("latin-1"), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the other side has gone
        finally:
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        method, target, _ = head.split(" ", 2)
        path = target.partition("?")[0]
        if path in ("/v2/", "/stats"):
            body = json.dumps(self.asked if path == "/stats" else {}).encode()
            writer.write(_head("200 OK", len(body), "Content-Type: application/json") + body)
        elif not path.endswith(f"/blobs/{self._digest}"):
            writer.write(_head("404 Not Found", 0))
        else:
            await self._blob(method, head, writer)
        await writer.drain()

    async def _blob(self, method: str, head: str, writer: asyncio.StreamWriter) -> None:
        size, status, more = len(self._content), "200 OK", []
        first, end = 0, size
        if wanted := re.search(r"^Range: bytes=(\d+)-(\d*)\r$", head, re.MULTILINE | re.IGNORECASE):
            first, end = int(wanted[1]), min(size, int(wanted[2]) + 1) if wanted[2] else size
            status, more = "206 Partial Content", [f"Content-Range: bytes {first}-{end - 1}/{size}"]
        more += [f"Docker-Content-Digest: {self._digest}", "Content-Type: application/octet-stream"]
        writer.write(_head(status, end - first, "Accept-Ranges: bytes", *more))
        if method == "HEAD":
            return
        self.asked["gets"] += 1
        self.asked["bytes"] += end - first
        clock = asyncio.get_running_loop().time
        due = clock()
        for at in range(first, end, self._piece):
            writer.write(self._content[at : min(end, at + self._piece)])
            await writer.drain()
            due += TICK
            await asyncio.sleep(max(0.0, due - clock()))


def _head(status: str, length: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {length}", *headers, "", ""]).encode()


async def main(port: int, size: int, rate: float) -> None:
    server = await asyncio.start_server(Upstream(size, rate).serve, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
