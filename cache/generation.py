"""Generations: how a write by one worker is seen by the others.

A counter for each group of keys lies in memory that all processes share. Who keeps something read from the
index in memory keeps the generation it read *before*; it holds while the generation is the same. A writer
changes the generation after its write is done. The values are unique to the writer and never repeat, so two
writers need no lock: whichever value stays, it is one that no reader has seen. That holds also where a
writer's number is given to its successor, which counts on from what it finds in the group.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import threading
import zlib
from typing import Final

_GROUPS: Final = 4096
_BYTES: Final = _GROUPS * 8
_WRITER_BITS: Final = 16


def create_shared() -> int:
    """A descriptor of fresh shared memory, to be handed to the workers. It lies on no disk, which could be
    full: a page that the disk has no room for ends a process that writes to it."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("entrepot-generations", os.MFD_CLOEXEC)
    else:  # pragma: no cover - other systems have no anonymous shared file
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)
    os.ftruncate(descriptor, _BYTES)
    return descriptor


class Generations:
    """The counters. `writer` is a number below 65,536, different for every process that shares them."""

    def __init__(self, descriptor: int | None = None, writer: int = 0) -> None:
        self._memory = mmap.mmap(-1 if descriptor is None else descriptor, _BYTES)
        self._counters = memoryview(self._memory).cast("Q")
        self._writer = writer
        self._writes = 0
        self._lock = threading.Lock()

    @staticmethod
    def group(key: str) -> int:
        """Which counter a key goes by. Many keys share one: a change of one makes the others be read anew."""
        return zlib.crc32(key.encode()) % _GROUPS

    def read(self, group: int) -> int:
        return self._counters[group]

    def bump(self, group: int) -> None:
        """Says that a write to a key of this group is done. Any thread may."""
        with self._lock:
            self._writes = max(self._writes, self._counters[group] >> _WRITER_BITS) + 1
            self._counters[group] = (self._writes << _WRITER_BITS) | self._writer

    def close(self) -> None:
        self._counters.release()
        self._memory.close()
