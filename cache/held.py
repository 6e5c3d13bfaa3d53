"""What is held, close at hand: small content in memory, large content as open descriptors.

Content never changes under its digest, so an entry can only be wrong by the blob having been removed: each
is checked against the generation of its digest, which the remover changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from .blob_store import BlobStore, FileSlice, OpenFile, Piece
from .digest import Digest
from .filesystem import read_all

SMALL: Final = 128 * 1024
"""Bytes up to which content is kept in memory whole. Manifests are, up to their limit."""


@dataclass(frozen=True, slots=True)
class Held:
    """Finished content, to be read any number of times."""

    size: int
    body: bytes | None
    """The content itself where it is in memory."""
    file: OpenFile | None

    async def pieces(self, start: int, end: int | None) -> AsyncGenerator[Piece, None]:
        end = self.size if end is None else end
        if start >= end:
            return
        if self.body is not None:
            whole = start == 0 and end == self.size
            yield self.body if whole else self.body[start:end]
        elif self.file is not None:
            yield FileSlice(self.file, start, end - start)


class Shelf:
    """A bounded number of bytes and of descriptors, least recently used first out."""

    def __init__(
        self,
        store: BlobStore,
        generation: Callable[[str], int],
        executor: ThreadPoolExecutor,
        *,
        bytes_limit: int = 48 * 1024 * 1024,
        files_limit: int = 512,
    ) -> None:
        self._store = store
        self._generation = generation
        self._executor = executor
        self._bytes_limit = bytes_limit
        self._files_limit = files_limit
        self._bodies: OrderedDict[Digest, tuple[int, Held]] = OrderedDict()
        self._files: OrderedDict[Digest, tuple[int, Held]] = OrderedDict()
        self._bytes = 0

    def peek(self, digest: Digest) -> Held | None:
        """What is at hand without asking the store."""
        for shelf in (self._bodies, self._files):
            entry = shelf.get(digest)
            if entry is not None:
                generation, held = entry
                if generation == self._generation(str(digest)):
                    shelf.move_to_end(digest)
                    return held
                self._drop(digest)
        return None

    async def find(self, digest: Digest, *, whole_up_to: int = SMALL) -> Held | None:
        """What the store has; None where it is not held. Content of up to so many bytes comes whole, in
        memory. Raises `StorageError`."""
        held = self.peek(digest)
        if held is not None and (held.body is not None or held.size > whole_up_to):
            return held
        generation = self._generation(str(digest))
        opened = await self._store.open(digest)
        if opened is None:
            return None
        if isinstance(opened, OpenFile):
            size = opened.size()
            if size > whole_up_to:
                held = Held(size, None, opened)
                self._files[digest] = (generation, held)
                if len(self._files) > self._files_limit:
                    self._files.popitem(last=False)
                return held
            opened = await read_all(opened, size, self._executor)
        return self._keep(digest, opened, generation)

    def keep(self, digest: Digest, content: bytes) -> Held:
        """Puts content at hand that the caller has verified, whether or not the store could keep it."""
        return self._keep(digest, content, self._generation(str(digest)))

    def _keep(self, digest: Digest, content: bytes, generation: int) -> Held:
        held = Held(len(content), content, None)
        self._drop(digest)
        self._bodies[digest] = (generation, held)
        self._bytes += held.size
        while self._bytes > self._bytes_limit and self._bodies:
            _, (_, dropped) = self._bodies.popitem(last=False)
            self._bytes -= dropped.size
        return held

    def _drop(self, digest: Digest) -> None:
        self._files.pop(digest, None)
        entry = self._bodies.pop(digest, None)
        if entry is not None:
            self._bytes -= entry[1].size
