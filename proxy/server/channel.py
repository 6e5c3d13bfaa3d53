"""The channel between the supervisor and a worker: JSON lines over a pair of sockets.

Three kinds of line: a request (`id`, `do`, `with`), its answer (`re`, and `value` or `error`), and a notice
(`do`, `with`, no `id`). Nothing grows without bound: not a line, not what is unanswered, not what is unsent.
A side that breaks these bounds, or says what is no line, is cut off.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

LINE_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of one line: a configuration of 1 MiB, escaped, fits."""
PENDING_LIMIT: Final = 65_536
"""Requests of one side that have no answer yet."""
UNSENT_LIMIT: Final = 32 * 1024 * 1024
"""Bytes that the other side, perhaps stopped, has not read yet."""

_CLOSING: Final = 1.0

Message = dict[str, Any]
Handler = Callable[[Message], "Awaitable[Any] | Any"]
"""What is done on a request or notice, with what came with it. What it returns, or what that gives when
awaited, is the answer; an exception is answered as an error."""

_LOG: Final = logging.getLogger(__name__)


class ChannelError(Exception):
    """A request over the channel got no good answer."""


class ChannelClosed(ChannelError):
    """The other side has ended."""


class ChannelBusy(ChannelError):
    """Too much is unanswered, or the message is too long."""


class RequestRefused(ChannelError):
    """The other side answered that it did not work. As text: why."""


class Channel:
    """One side. Made by `open`; ends by `close`, or when the other side ends."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handlers: Mapping[str, Handler]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handlers = handlers
        self._next = 0
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._working: set[asyncio.Future[Any]] = set()
        self._ended = asyncio.Event()
        self._task = asyncio.create_task(self._read(), name="channel")

    @classmethod
    async def open(cls, end: socket.socket, handlers: Mapping[str, Handler]) -> Channel:
        """Takes over one end of a socket pair."""
        end.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=end, limit=LINE_LIMIT)
        return cls(reader, writer, handlers)

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    @property
    def idle(self) -> bool:
        """Whether all that was sent has been read: the moment for what may as well be left out."""
        return self._writer.transport.get_write_buffer_size() == 0

    async def wait_ended(self) -> None:
        """Until the other side has ended, or was cut off."""
        await self._ended.wait()

    async def request(self, do: str, message: Message | None = None, *, timeout: float | None = None) -> Any:
        """Asks the other side and waits for its answer. An answer that comes after the caller has gone is
        passed over. Raises `ChannelClosed`, `ChannelBusy`, `RequestRefused`, `TimeoutError`."""
        if len(self._pending) >= PENDING_LIMIT:
            raise ChannelBusy(f"{PENDING_LIMIT} requests have no answer yet")
        self._next += 1
        number = self._next
        answer = asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        try:
            self._send({"id": number, "do": do, "with": message or {}})
            async with asyncio.timeout(timeout):
                return await answer
        finally:
            self._pending.pop(number, None)

    def notify(self, do: str, message: Message | None = None) -> None:
        """Tells the other side, which does not answer. Raises `ChannelClosed` and `ChannelBusy`."""
        self._send({"do": do, "with": message or {}})

    async def close(self) -> None:
        """Ends this side: what is unsent is given a moment, what is unanswered raises `ChannelClosed`."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for work in self._working:
            work.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        self._end()
        try:
            async with asyncio.timeout(_CLOSING):
                await self._writer.wait_closed()
        except (TimeoutError, ConnectionError):
            self._writer.transport.abort()

    def _send(self, message: Message) -> None:
        if self._ended.is_set() or self._writer.is_closing():
            raise ChannelClosed("the other process has ended")
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        if len(line) > LINE_LIMIT:
            raise ChannelBusy(f"a message of {len(line)} bytes is too long")
        if self._writer.transport.get_write_buffer_size() + len(line) > UNSENT_LIMIT:
            _LOG.error("the other process reads nothing any more; its channel is closed")
            self._end()
            raise ChannelClosed("the other process reads nothing any more")
        self._writer.write(line)

    async def _read(self) -> None:
        try:
            while (line := await self._reader.readline()).endswith(b"\n"):
                self._take(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, ChannelBusy) as error:
            _LOG.error("what came over the channel cannot be read (%s); it is closed", error)
        except (ConnectionError, ChannelClosed):
            pass  # the other side was killed, or cut off: as good as its end
        finally:
            self._end()

    def _take(self, message: Message) -> None:
        if "re" in message:
            answer = self._pending.pop(message["re"], None)
            if answer is None or answer.done():
                return
            if "error" in message:
                answer.set_exception(RequestRefused(str(message["error"])))
            else:
                answer.set_result(message.get("value"))
            return
        if len(self._working) >= PENDING_LIMIT:
            raise ChannelBusy(f"{PENDING_LIMIT} requests at once")
        self._do(message.get("id"), self._handlers[message["do"]], message["with"])

    def _do(self, number: int | None, handler: Handler, message: Message) -> None:
        try:
            result = handler(message)
        except Exception as error:  # noqa: BLE001 - told to who asked, or logged; the channel goes on
            self._answer(number, error, None)
            return
        if not isinstance(result, Awaitable):
            self._answer(number, None, result)
            return
        work = asyncio.ensure_future(result)
        self._working.add(work)
        work.add_done_callback(lambda done: self._done(number, done))

    def _done(self, number: int | None, work: asyncio.Future[Any]) -> None:
        self._working.discard(work)
        if not work.cancelled():
            error = work.exception()
            self._answer(number, error, None if error is not None else work.result())

    def _answer(self, number: int | None, error: BaseException | None, value: Any) -> None:
        if error is not None and (number is None or not isinstance(error, RequestRefused)):
            _LOG.error("a message of the other process failed", exc_info=error)
        if number is None or self._ended.is_set():
            return
        try:
            if error is None:
                self._send({"re": number, "value": value})
            else:
                self._send({"re": number, "error": str(error) or type(error).__name__})
        except ChannelBusy as too_long:
            self._send({"re": number, "error": str(too_long)})
        except ChannelClosed:
            pass  # nobody waits any more

    def _end(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        self._writer.close()
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(ChannelClosed("the other process has ended"))
        self._pending.clear()
