"""Sending content: whole, a range or several, by the kernel where it can, and cut off where it fails."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web
from entrepot.cache.blob_store import FileSlice, Piece, Reader
from entrepot.cache.errors import CacheError, ContentMismatch

from ..byte_range import ByteRange
from .exchange import GONE, Exchange

_READ = 256 * 1024
"""Bytes read at a time where the kernel cannot send them itself."""


async def send(
    request: web.BaseRequest,
    exchange: Exchange,
    headers: dict[str, str],
    reader: Reader,
    ranges: tuple[ByteRange, ...] | None,
) -> web.StreamResponse:
    """Sends a blob, or the ranges of it. Where the rest does not come once headers are out, the connection is
    cut, so that no client takes the part for the whole. Raises nothing: aiohttp would answer again."""
    size = reader.size
    if ranges is None:
        response = web.StreamResponse(status=200, headers=headers)
        response.content_length = size
        if size is None:
            response.enable_chunked_encoding()
        pieces = reader.pieces(0, size)
    elif len(ranges) == 1 and size is not None:
        response = web.StreamResponse(status=206, headers=headers)
        response.content_length = ranges[0].count
        response.headers["Content-Range"] = ranges[0].content_range(size)
        pieces = reader.pieces(ranges[0].start, ranges[0].end)
    else:
        parts = Multipart(reader, ranges, size or 0)
        response = web.StreamResponse(status=206, headers=headers)
        response.content_length = parts.length
        response.headers["Content-Type"] = f"multipart/byteranges; boundary={parts.boundary}"
        pieces = parts.pieces()
    try:
        await response.prepare(request)
        exchange.answering(response.status)
        async with aclosing(pieces):
            async for piece in pieces:
                await _send_piece(request, response, piece, by_kernel=size is not None)
                exchange.sent += len(piece) if isinstance(piece, bytes) else piece.count
        await response.write_eof()
    except ConnectionError:
        exchange.broken = GONE
        _cut(request, at_once=True)
    except CacheError as error:
        exchange.broken = str(error)
        _cut(request, at_once=isinstance(error, ContentMismatch))
    return response


async def _send_piece(
    request: web.BaseRequest, response: web.StreamResponse, piece: Piece, *, by_kernel: bool
) -> None:
    if isinstance(piece, bytes):
        await response.write(piece)
        return
    loop = asyncio.get_running_loop()
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has gone")
    if by_kernel:
        try:
            # Never asyncio's own fallback: it seeks on the descriptor that all readers share.
            await loop.sendfile(transport, piece.file, piece.offset, piece.count, fallback=False)  # type: ignore[arg-type]
        except (asyncio.SendfileNotAvailableError, NotImplementedError):
            pass
        else:
            return
    await _read_and_send(response, piece)


async def _read_and_send(response: web.StreamResponse, piece: FileSlice) -> None:
    loop = asyncio.get_running_loop()
    position, end = piece.offset, piece.offset + piece.count
    while position < end:
        data = await loop.run_in_executor(None, piece.file.read, position, min(_READ, end - position))
        if not data:
            raise ConnectionResetError("the file is shorter than it was")
        await response.write(data)
        position += len(data)


def _cut(request: web.BaseRequest, *, at_once: bool) -> None:
    """Ends the connection short of what was promised. What is known to be wrong is not even flushed."""
    if request.transport is not None:
        if at_once:
            request.transport.abort()
        else:
            request.transport.close()


class Multipart:
    """Several ranges in one answer (RFC 9110, 14.6)."""

    def __init__(self, reader: Reader, ranges: tuple[ByteRange, ...], size: int) -> None:
        self.boundary = secrets.token_hex(16)
        self._reader = reader
        self._ranges = ranges
        self._heads = [
            (
                f"\r\n--{self.boundary}\r\nContent-Type: application/octet-stream\r\n"
                f"Content-Range: {part.content_range(size)}\r\n\r\n"
            ).encode()
            for part in ranges
        ]
        self._end = f"\r\n--{self.boundary}--\r\n".encode()
        self.length = sum(map(len, self._heads)) + sum(part.count for part in ranges) + len(self._end)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        for head, part in zip(self._heads, self._ranges, strict=True):
            yield head
            async with aclosing(self._reader.pieces(part.start, part.end)) as pieces:
                async for piece in pieces:
                    yield piece
        yield self._end
