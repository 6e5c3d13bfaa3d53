"""Whether so many more bytes may be kept: the cache's own limit, and what must stay free on the disk."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import CacheError, StorageFull
from .filesystem import storing
from .partials import Partials
from .threads import off_loop

_DEFAULT_SHARE: Final = 0.8
"""Of the disk, where no limit is configured."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes."""

    max_size: int
    min_free: int

    @classmethod
    def on(cls, directory: Path, max_size: int | None, min_free: int | None, share: float | None) -> Limits:
        """The limits on this directory's disk. `min_free` is given in bytes, or as a `share` of the disk."""
        with storing():
            disk = os.statvfs(directory)
        size = disk.f_blocks * disk.f_frsize
        return cls(
            max_size=int(size * _DEFAULT_SHARE) if max_size is None else max_size,
            min_free=int(size * (share or 0.0)) if min_free is None else min_free,
        )


class Room:
    """Looks before a download begins. Nothing is evicted here: where there is no room, nothing is kept."""

    def __init__(
        self,
        directory: Path,
        limits: Limits,
        partials: Partials,
        kept: Callable[[], Awaitable[int]],
        executor: ThreadPoolExecutor,
    ) -> None:
        self._directory = directory
        self.limits = limits
        self._partials = partials
        self._kept = kept
        self._executor = executor

    async def look(self, more: int) -> None:
        """Raises `StorageFull`, with the figures, where `more` bytes cannot be kept."""
        try:
            kept = await self._kept()
        except CacheError:
            kept = 0  # without the index the disk alone decides
        reserved, free = await off_loop(self._executor, self._measure)
        limits = self.limits
        if kept + reserved + more > limits.max_size:
            raise StorageFull(
                f"{more} bytes more would exceed max_size: {kept} kept, {reserved} on their way, "
                f"{limits.max_size} allowed"
            )
        if free - more < limits.min_free:
            raise StorageFull(
                f"{more} bytes more would leave less than min_free: {free} free, {limits.min_free} to stay so"
            )

    def _measure(self) -> tuple[int, int]:
        with storing():
            disk = os.statvfs(self._directory)
        return self._partials.reserved(), disk.f_bavail * disk.f_frsize
