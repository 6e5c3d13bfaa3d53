"""A small HTTP/1.1 server over a real socket that a test can make misbehave, byte by byte.

The registry, the CDN and the token server of the tests stand on it. Nothing here waits for a length of time
to be right: what hangs hangs until an event is set, and who waits for something is woken when it happens.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import socket
import ssl
import termios
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from fake_reply import Action, Content, Fault, Held, Match, Reply, Seen, apply_range, reply
from multidict import CIMultiDict

__all__ = ["Action", "Content", "FakeServer", "Fault", "Held", "Match", "Reply", "Seen", "reply"]

_HEADER_LIMIT = 256 * 1024
_PATIENCE = 20.0
"""Seconds after which a test that waits for the server is told that it waits in vain."""
_REASONS = {
    200: "OK",
    206: "Partial Content",
    307: "Temporary Redirect",
    401: "Unauthorized",
    404: "Not Found",
}


class FakeServer:
    """The server. `async with` starts and closes it; between, `stop` and `start` take it off its port and put
    it back. Subclasses say what it answers."""

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = 0
        self.requests: list[Seen] = []
        self.faults: list[Fault] = []
        self.bandwidth: float | None = None
        """Bytes a second of each connection; None for as fast as it goes."""
        self.bytes_sent = 0
        """Bytes of bodies, over all connections."""
        self.open_connections = 0
        self.connections = 0
        """Connections that were ever accepted."""
        self.answering = 0
        """Requests that have come and whose answer has not ended."""
        self._ssl = ssl_context
        self._reserved: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def answer(self, seen: Seen) -> Reply:
        """What a well-behaved server would say."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._ssl else 'http'}://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    async def start(self) -> None:
        """Listens, on the same port as before."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        if self._reserved is None:
            # Bound and never listening: keeps the port ours while we are stopped, and connecting is refused.
            self._reserved = socket.socket(family)
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._reserved.bind((self.host, self.port))
            self.port = self._reserved.getsockname()[1]
        self._server = await asyncio.start_server(
            self._accept,
            self.host,
            self.port,
            ssl=self._ssl,
            limit=_HEADER_LIMIT,
            backlog=1024,
            reuse_address=True,
        )

    async def stop(self) -> None:
        """Refuses connections from now on, and ends those that there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # what tests ask

    def seen(self, method: str | None = None, path_contains: str = "") -> list[Seen]:
        """The requests that match, in the order in which they came."""
        return [
            seen for seen in self.requests if method in (None, seen.method) and path_contains in seen.path
        ]

    def count(self, method: str | None = None, path_contains: str = "") -> int:
        return len(self.seen(method, path_contains))

    def forget(self) -> None:
        """Empties the list of requests and the count of bytes."""
        self.requests.clear()
        self.bytes_sent = 0

    async def wait_for_request(self, n: int = 1, method: str | None = None, path_contains: str = "") -> Seen:
        """Returns the n-th matching request, once it has come."""
        await self.wait_until(lambda: self.count(method, path_contains) >= n)
        return self.seen(method, path_contains)[n - 1]

    async def wait_until(self, condition: Callable[[], bool], patience: float = _PATIENCE) -> None:
        """Waits until `condition` is true, which is asked whenever a request has come, bytes have been sent,
        an answer has ended or a connection has opened or closed."""
        if condition():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (condition, future)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(patience):
                await future
        except TimeoutError:
            raise AssertionError(f"waited in vain at {self.url}; requests: {self.requests[-20:]}") from None
        finally:
            self._waiting.remove(entry)

    def _changed(self) -> None:
        for condition, future in self._waiting:
            if not future.done() and condition():
                future.set_result(None)

    # the server's own work

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        self._changed()
        # So that `drain` means that the kernel has it all: counts and cuts are exact to the byte.
        writer.transport.set_write_buffer_limits(high=0)
        try:
            while (seen := await _read_request(reader)) is not None:
                self.requests.append(seen)
                self.answering += 1
                self._changed()
                try:
                    again = await self._respond(seen, reader, writer)
                finally:
                    self.answering -= 1
                    self._changed()
                if not again or seen.headers.get("Connection", "").lower() == "close":
                    break
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            return  # the client has gone, as clients do
        finally:
            self.open_connections -= 1
            writer.transport.abort() if asyncio.current_task().cancelling() else writer.close()  # type: ignore[union-attr]
            self._changed()

    def _reply_to(self, seen: Seen) -> Reply:
        made = self.answer(seen)
        made.head = seen.method == "HEAD"
        made.bytes_per_second = self.bandwidth
        for fault in self.faults:
            if fault.takes(seen):
                made = fault.apply(made)
                made.head = seen.method == "HEAD"
                break
        if made.allow_range and seen.range and made.span is None and made.status == 200:
            apply_range(made, seen.range)
        return made

    async def _respond(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        made = self._reply_to(seen)
        try:
            if made.before_headers is not None:
                await _hang(made.before_headers, reader)
            if made.raw is not None:
                writer.write(made.raw)
                await writer.drain()
                return False
            start, end = made.span or (0, made.content.size)
            length = end - start if made.declared is None else made.declared
            if made.chunked:
                made.headers["Transfer-Encoding"] = "chunked"
            elif "Content-Length" not in made.headers:
                made.headers["Content-Length"] = str(length)
            lines = [f"HTTP/1.1 {made.status} {_REASONS.get(made.status, 'Status')}"]
            lines += [f"{name}: {value}" for name, value in made.headers.items() if value]
            writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
            await writer.drain()
            if made.head:
                return True
            whole = await self._send_body(made, reader, writer, start, end)
            return whole and (made.chunked or length == end - start)
        finally:
            if made.served is not None:
                made.served.set()

    async def _send_body(
        self, made: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, start: int, end: int
    ) -> bool:
        """Whether all of it was sent."""
        loop = asyncio.get_running_loop()
        sent, began = 0, loop.time()
        stops = sorted(
            {
                stop
                for stop in (made.pause[0] if made.pause else None, made.cut[0] if made.cut else None)
                if stop is not None
            }
        )
        for piece in made.content.read(start, end):
            for part in _split(piece, sent, stops):
                if await _stopped_at(made, reader, writer, sent):
                    return False
                writer.write(b"%x\r\n%b\r\n" % (len(part), part) if made.chunked else part)
                await writer.drain()
                sent += len(part)
                self.bytes_sent += len(part)
                self._changed()
                if made.bytes_per_second:
                    ahead = sent / made.bytes_per_second - (loop.time() - began)
                    if ahead > 0:
                        await asyncio.sleep(ahead)  # this is the slowness that was asked for
        if await _stopped_at(made, reader, writer, sent):
            return False
        if made.chunked:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        return True


async def _stopped_at(
    made: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: int
) -> bool:
    """Hangs and cuts where this reply is to do so; whether it was cut."""
    if made.pause is not None and sent == made.pause[0]:
        await _hang(made.pause[1], reader)
    if made.cut is None or sent < made.cut[0]:
        return False
    if made.cut[1]:
        await _reset(writer)
    return True


async def _hang(release: asyncio.Event, reader: asyncio.StreamReader) -> None:
    """Waits for the event. Raises `ConnectionResetError` once the client has gone: clients here never send
    a request before they have the answer to the last, so whatever comes is the end."""
    released = asyncio.ensure_future(release.wait())
    gone = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({released, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not released.done():
            raise ConnectionResetError("the client has gone")
    finally:
        released.cancel()
        gone.cancel()
        await asyncio.gather(released, gone, return_exceptions=True)


async def _read_request(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ", 2)
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        name, _, value = line.partition(":")
        headers.add(name, value.strip())
    body = await reader.readexactly(int(headers.get("Content-Length", "0")))
    return Seen(method, target, headers, body)


def _split(piece: bytes, sent: int, stops: Sequence[int]) -> Iterator[bytes]:
    """Cuts a piece where something is to happen, and into steps small enough to be paced."""
    at = 0
    for stop in stops:
        if sent + at < stop < sent + len(piece):
            yield piece[at : stop - sent]
            at = stop - sent
    yield piece[at:]


async def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection by a reset, after the other side's machine has all that was sent: a reset throws away
    what is still on its way, and the test asked for a cut at a certain byte."""
    sock: socket.socket = writer.get_extra_info("socket")
    unsent = array.array("i", [1])
    while True:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, unsent)
        if unsent[0] == 0:
            break
        await asyncio.sleep(0.001)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()
