"""The directory of the embedded index: who uses it, and what happens when it is damaged.

    lock          held alone while someone opens the index, so that one at a time creates or replaces it
    in-use        held shared by every thread that has the index open: who gets it alone may replace the files
    damaged       stands here once someone has met a damaged file
    rows.db       sqlite3 (`embedded_rows`)
    tags, negatives     diskcache (`embedded_keys`)

A damaged index is never repaired: it is moved aside, all of it, and begun afresh. What it held is asked of
the upstreams again. That is done only by who has it alone, for a process that goes on writing into files
that have been moved would not be seen by the others; until then whatever is readable of it is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from .clock import Clock
from .embedded_keys import Keys
from .embedded_rows import Rows

log = logging.getLogger(__name__)

BUSY: Final = 2.0
"""Seconds that a write waits for another process's. A write takes far less than a millisecond, so who takes
longer has been stopped, and nobody shall wait for it."""

_OPENING_LIMIT: Final = 10.0
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_FILES: Final = ("rows.db-wal", "rows.db-shm", "rows.db", "tags", "negatives")
"""In the order of moving: a log left beside a fresh database would be played into it."""


def _codes(error: BaseException | None) -> Iterator[int]:
    """Primary codes of what sqlite3 said, the last first."""
    while error is not None:
        if isinstance(error, sqlite3.Error):
            yield int(getattr(error, "sqlite_errorcode", 0)) & 0xFF  # errors of the module itself have none
        error = error.__context__  # diskcache.Timeout hides what it was raised for


def is_damage(error: BaseException) -> bool:
    """Whether an error says that a file is malformed or no database at all."""
    return any(code in _DAMAGE for code in _codes(error))


def is_busy(error: BaseException) -> bool:
    """Whether an error only says that another process was writing for too long."""
    return next(_codes(error), 0) in _BUSY


class Stores:
    """Both halves, opened by one thread for itself."""

    def __init__(self, directory: Path, in_use: int) -> None:
        self._in_use = in_use
        self.rows = Rows(directory / "rows.db", BUSY)
        try:
            self.keys = Keys(directory / "tags", directory / "negatives", BUSY)
        except BaseException:
            self.rows.close()
            raise

    def close(self) -> None:
        try:
            self.rows.close()
        finally:
            try:
                self.keys.close()
            finally:
                os.close(self._in_use)


class IndexDirectory:
    """The files, and the two locks that guard them."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    def open(self) -> Stores:
        """Opens or creates the index, and replaces a damaged one. Raises `UnknownFormat`, `sqlite3.Error`,
        `diskcache.Timeout` and `OSError`."""
        self._path.mkdir(parents=True, exist_ok=True)
        with _Lock(self._path / "lock"):
            in_use = os.open(self._path / "in-use", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                return self._open(in_use)
            except BaseException:
                os.close(in_use)
                raise

    def _open(self, in_use: int) -> Stores:
        fcntl.flock(in_use, fcntl.LOCK_SH)
        if (self._path / "damaged").exists():
            self._replace(in_use)
        try:
            return Stores(self._path, in_use)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            self.report_damage(error)
            if not self._replace(in_use):
                raise
        return Stores(self._path, in_use)

    def report_damage(self, error: BaseException) -> None:
        """Leaves word for whoever opens the index next, and says it loudly once."""
        mark = self._path / "damaged"
        with contextlib.suppress(FileExistsError):
            try:
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            except OSError as failure:
                if isinstance(failure, FileExistsError):
                    raise
                log.error("index damage cannot be marked: %s", failure)
            log.error(
                "index damaged: %s in %s; it is begun afresh as soon as one process has it alone, "
                "at the latest when the mirror is restarted",
                error,
                self._path,
            )

    def _replace(self, in_use: int) -> bool:
        """Moves the files aside if nobody else has them open."""
        try:
            fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(in_use, fcntl.LOCK_SH)  # a failed upgrade may have lost the shared lock
            return False
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock.wall()))
        aside = self._aside(f"{self._path.name}.bad-{moment}")
        for name in _FILES:
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._path / name, aside / name)
        # Last: who is killed before this leaves the rest to the next.
        (self._path / "damaged").unlink(missing_ok=True)
        fcntl.flock(in_use, fcntl.LOCK_SH)
        log.error("index begun afresh: the damaged one is kept in %s and may be deleted", aside)
        return True

    def _aside(self, name: str) -> Path:
        for number in range(1, 1000):
            path = self._path.with_name(name if number == 1 else f"{name}-{number}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
        raise OSError(f"{self._path.parent} is full of damaged indexes")


class _Lock:
    """A file held alone, waited for a bounded time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + _OPENING_LIMIT
        try:
            while not self._taken():
                if time.monotonic() >= until:
                    raise TimeoutError(f"{self._path} is held by a process that does not go on")
                time.sleep(0.005)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
