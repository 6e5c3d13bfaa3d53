"""Blobs that cannot be kept: straight from the upstream to one client, verified, with nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from entrepot.cache.blob_store import Piece, Reader
from entrepot.cache.digest import Digest, Verifier
from entrepot.cache.errors import ContentMismatch, SourceUnavailable, StorageError
from entrepot.cache.flight import Flight

from ..upstream.client import BlobStream, UpstreamClient

_TRIES = 3
"""How often in a row an answer may break off without a byte."""
_PREFIX = 4 * 1024 * 1024
"""Bytes of what is already there that are hashed at a time."""


class PassingReader:
    """One client's own requests to the upstream. Memory is bounded by a few pieces.

    An answer that ends with the blob's last byte withholds it until the hash is right, so it has to see the
    whole blob: a range from the middle to the end is then fetched from the beginning.
    """

    def __init__(
        self,
        client: UpstreamClient,
        repository: str,
        digest: Digest,
        size: int | None,
        begun: Flight | None = None,
    ) -> None:
        """What `begun` has by the time it is needed is not fetched again."""
        self._client = client
        self._repository = repository
        self._digest = digest
        self._size = size
        self._begun = begun

    @property
    def size(self) -> int | None:
        return self._size

    async def pieces(self, start: int, end: int | None) -> AsyncGenerator[Piece, None]:
        """Raises a `SourceError` where the upstream fails for good, `ContentMismatch` for wrong bytes."""
        if end is not None and self._size is not None and end < self._size:
            async with aclosing(self._fetched(start, end)) as fetched:
                async for chunk in fetched:
                    yield chunk
            return
        verifier = Verifier(self._digest)
        withheld = b""
        async with aclosing(self._from_the_beginning()) as chunks:
            async for chunk in chunks:
                verifier.update(chunk)
                before = verifier.offset - len(chunk)
                given = chunk[max(0, start - before) :]
                if given:
                    if withheld:
                        yield withheld
                    withheld = given[-1:]
                    if len(given) > 1:
                        yield given[:-1]
        if not verifier.verified():
            raise ContentMismatch("the bytes are not what the digest promises")
        if withheld:
            yield withheld

    async def _from_the_beginning(self) -> AsyncGenerator[bytes, None]:
        position = 0
        if self._begun is not None and self._begun.file is not None:
            file, count = self._begun.file, self._begun.present
            loop = asyncio.get_running_loop()
            while position < count:
                chunk = await loop.run_in_executor(None, file.read, position, min(_PREFIX, count - position))
                if not chunk:
                    break
                position += len(chunk)
                yield chunk
        async with aclosing(self._fetched(position, None)) as fetched:
            async for chunk in fetched:
                yield chunk

    async def _fetched(self, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        """The upstream's bytes, gone on with at the same byte where an answer breaks off."""
        position, fruitless = start, 0
        while True:
            before = position
            try:
                stream = await self._client.open_blob(self._repository, self._digest, position, end)
                try:
                    async for chunk in _after(stream, position):
                        position += len(chunk)
                        yield chunk
                finally:
                    await stream.close()
                last = end if end is not None else self._size
                if last is None or position >= last:
                    return
                raise SourceUnavailable(f"it ended after {position} of {last} bytes")
            except SourceUnavailable:
                fruitless = 0 if position > before else fruitless + 1
                if fruitless >= _TRIES:
                    raise


async def _after(stream: BlobStream, position: int) -> AsyncGenerator[bytes, None]:
    """A stream's bytes from `position`, also where the upstream began before it."""
    if stream.start > position:
        raise SourceUnavailable("it began its answer behind the byte that was asked for")
    skip = position - stream.start
    while chunk := await stream.read():
        if skip:
            skipped = min(skip, len(chunk))
            skip -= skipped
            chunk = chunk[skipped:]
        if chunk:
            yield chunk


class KeptAsLongAsPossible:
    """Reads a download that is being kept; where the mirror cannot keep the rest, the client's own
    requests go on at the same byte."""

    def __init__(self, kept: Reader, passing: PassingReader) -> None:
        self._kept = kept
        self._passing = passing

    @property
    def size(self) -> int | None:
        return self._kept.size

    async def pieces(self, start: int, end: int | None) -> AsyncGenerator[Piece, None]:
        position = start
        try:
            async with aclosing(self._kept.pieces(start, end)) as pieces:
                async for piece in pieces:
                    yield piece
                    position += len(piece) if isinstance(piece, bytes) else piece.count
            return
        except StorageError:
            pass
        async with aclosing(self._passing.pieces(position, end)) as pieces:
            async for piece in pieces:
                yield piece
