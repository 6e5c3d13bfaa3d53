"""The contract of a blob store: finished content by digest, and sessions that become it.

Nothing unverified is ever visible under a digest: content comes in through a `Writer`, and only `commit`
makes it a blob. The same writer serves fetches and uploads. Every store passes
`tests/cache/blob_store_conformance.py`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

from .digest import Digest


class OpenFile:
    """A descriptor that several readers share, each with offsets of its own; closed with the last of them.

    Nobody may seek on it: it is read by `pread` and by `sendfile` with an offset.
    """

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def for_reading(cls, path: str | os.PathLike[str]) -> OpenFile:
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def fileno(self) -> int:
        return self._descriptor

    def read(self, offset: int, count: int) -> bytes:
        """At most `count` bytes from `offset`. Blocks: not for the loop."""
        return os.pread(self._descriptor, count, offset)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes that lie in a file, for the kernel to send."""

    file: OpenFile
    offset: int
    count: int


Piece = bytes | FileSlice
"""A run of content, in order."""


class Reader(Protocol):
    """Content that can be read from any byte, any number of times, also while it is still coming."""

    @property
    def size(self) -> int | None:
        """Bytes in all; None while nobody has said."""
        ...

    def pieces(self, start: int, end: int | None) -> AsyncGenerator[Piece, None]:
        """The bytes from `start` up to, not including, `end` (None: to the end), as they are there.
        Raises what ended the content early: then less was given than was asked for."""
        ...


class Writer(Protocol):
    """One session: content on its way in."""

    @property
    def offset(self) -> int:
        """How many bytes have been written."""
        ...

    async def write(self, data: bytes, then: Callable[[], None] | None = None) -> None:
        """Appends. `then` runs where the writing ran, off the loop, once the bytes are readable by others.
        Raises `StorageError`; `offset` then says what was kept."""
        ...

    async def suspend(self) -> None:
        """Leaves the session to be resumed later, by this process or another."""
        ...

    async def commit(self, digest: Digest) -> None:
        """Makes the whole session the blob `digest`, durably. The caller has verified it."""
        ...

    async def cancel(self) -> None:
        """Throws the session away."""
        ...


@dataclass(frozen=True, slots=True)
class Session:
    """A session that has been suspended, or left behind by a process that died."""

    name: str
    size: int
    changed_at: float


class BlobStore(Protocol):
    """The contract. Whatever the disk says is raised as a `StorageError`."""

    async def stat(self, digest: Digest) -> int | None:
        """The size of a blob in bytes; None where it is not here."""
        ...

    async def open(self, digest: Digest) -> OpenFile | bytes | None:
        """A blob to read: a descriptor where the store can offer one; None where it is not here."""
        ...

    async def put(self, digest: Digest, content: bytes) -> None:
        """Keeps small content whole. The caller has verified it."""
        ...

    async def create(self, session: str) -> Writer:
        """Begins a session, empty, whatever was there under this name."""
        ...

    async def resume(self, session: str, offset: int) -> Writer | None:
        """Goes on with a session at `offset`, dropping what lies behind; None where it has less than that."""
        ...

    async def sessions(self) -> list[Session]: ...

    async def delete(self, digest: Digest) -> int:
        """Removes a blob and says how many bytes that freed. Who is reading it reads on to the end."""
        ...
