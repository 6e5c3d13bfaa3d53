"""Being woken when a file is written by another process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or sys.platform == "linux":
    from asyncinotify import Inotify, Mask, Watch

log = logging.getLogger(__name__)


class Watcher:
    """One queue of the kernel's for a process. Where there is none (another system, or the limit of
    `fs.inotify.max_user_instances` is reached), nobody is woken, and `waking` says so."""

    def __init__(self) -> None:
        self._inotify: Inotify | None = None
        self._events: dict[Watch, asyncio.Event] = {}
        self._task: asyncio.Task[None] | None = None
        if sys.platform == "linux":
            try:
                self._inotify = Inotify()
            except OSError as error:
                log.warning("followers of other workers' downloads are polled: %s", error)
        if self._inotify is not None:
            self._task = asyncio.get_running_loop().create_task(self._read(self._inotify))

    @property
    def waking(self) -> bool:
        return self._inotify is not None

    async def _read(self, inotify: Inotify) -> None:
        async for event in inotify:
            if event.watch is not None and (woken := self._events.get(event.watch)) is not None:
                woken.set()

    @contextlib.contextmanager
    def watching(self, path: Path) -> Iterator[asyncio.Event]:
        """An event that is set whenever the file is written or loses its name. The caller clears it."""
        woken = asyncio.Event()
        watch: Watch | None = None
        if self._inotify is not None:
            with contextlib.suppress(OSError):  # gone already, or no watch to be had: the caller looks anyway
                watch = self._inotify.add_watch(os.fspath(path), Mask.MODIFY | Mask.ATTRIB | Mask.MOVE_SELF)
                self._events[watch] = woken
        try:
            yield woken
        finally:
            if watch is not None and self._inotify is not None:
                self._events.pop(watch, None)
                with contextlib.suppress(OSError):  # the kernel drops a watch with its file
                    self._inotify.rm_watch(watch)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._inotify is not None:
            self._inotify.close()
