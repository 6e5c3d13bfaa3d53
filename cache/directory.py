"""The cache directory: who may write in it, and which format it has.

entrepot.json   the format, and which formats' readers can read it
lock            held by the one server or command that works on the directory
blobs/ partial/ index/ roots/ uploads/
control.sock    what the commands talk to while a server runs
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from .errors import DirectoryInUse, StorageBroken, UnknownFormat, storage_error

FORMAT: Final = 1
"""The format that this version writes."""

READABLE: Final = frozenset({1})
"""The formats that this version reads: its own, and the one before it."""

READABLE_BY: Final = (1,)
"""The formats whose versions can read what this one writes: so the version before can go on with it."""

FOLDERS: Final = ("blobs", "partial", "index", "roots", "uploads")

_FORMAT_FILE: Final = "entrepot.json"
_LOCK_FILE: Final = "lock"
_CONTROL_SOCKET: Final = "control.sock"
_MAY_LIE_THERE: Final = frozenset(
    {*FOLDERS, _FORMAT_FILE, _FORMAT_FILE + ".new", _LOCK_FILE, _CONTROL_SOCKET, "lost+found"}
)
_DESCRIPTION_LIMIT: Final = 4096
_POLL: Final = 0.1


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a directory, as its lock file says."""

    pid: int | None
    doing: str
    """Such as `entrepot serve on 127.0.0.1:5080`."""

    def __str__(self) -> str:
        return self.doing if self.pid is None else f"{self.doing} (process {self.pid})"

    @property
    def alive(self) -> bool:
        """Whether the process that took the lock still runs. If not, what holds it are its children."""
        if self.pid is None:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


class CacheDirectory:
    """A cache directory whose lock this process holds."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(
        cls, path: Path, doing: str, facts: Mapping[str, Any] | None = None, *, wait: float = 10.0
    ) -> CacheDirectory:
        """Creates the directory if need be (mode 0700) and takes its lock. `doing` says in a few words what
        holds it then; `facts` stand in the lock file too. `wait` is for how many seconds to bear with the
        workers of a server that was killed: they leave by themselves. Blocks.

        Raises `DirectoryInUse` naming the holder, `UnknownFormat`, and `StorageError` by meaning."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_foreign(path)
            lock = _take_lock(path, wait)
        except FileExistsError as error:
            raise StorageBroken(f"{path} is no directory") from error
        except OSError as error:
            raise storage_error(error) from error
        try:
            text = json.dumps({"pid": os.getpid(), "doing": doing, **(facts or {})})
            os.ftruncate(lock, 0)
            os.pwrite(lock, text.encode(), 0)
            _check_format(path)
            for name in FOLDERS:
                (path / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            os.close(lock)
            raise storage_error(error) from error
        except BaseException:
            os.close(lock)
            raise
        return cls(path, lock)

    @property
    def lock_descriptor(self) -> int:
        """Inherited by worker processes: the directory is free when the last of them has ended, not when
        the supervisor was killed."""
        return self._lock

    @property
    def control_socket(self) -> Path:
        return self.path / _CONTROL_SOCKET

    def close(self) -> None:
        """Gives the lock back, unless a child process still holds it too."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> CacheDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def control_socket(path: Path) -> Path:
    """Where the server on a cache directory listens for commands."""
    return path / _CONTROL_SOCKET


def holder(path: Path) -> Holder:
    """What the lock file of a directory says; it also speaks of one who has ended."""
    try:
        with (path / _LOCK_FILE).open("rb") as file:
            value = json.loads(file.read(_DESCRIPTION_LIMIT))
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        return Holder(None, "another process")
    pid, doing = value.get("pid"), value.get("doing")
    return Holder(
        pid if isinstance(pid, int) and pid > 0 else None,
        doing if isinstance(doing, str) and doing.isprintable() else "another process",
    )


def _refuse_foreign(path: Path) -> None:
    """A mistyped path must not strew a cache over someone's home."""
    with os.scandir(path) as entries:
        names = {entry.name for entry in entries}
    if _FORMAT_FILE in names or names <= _MAY_LIE_THERE:
        return
    foreign = min(names - _MAY_LIE_THERE)
    raise UnknownFormat(f"{path} is no cache directory: it holds {foreign!r} and no {_FORMAT_FILE}")


def _take_lock(path: Path, wait: float) -> int:
    lock = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held_by = holder(path)
            else:
                return lock
            if held_by.alive or time.monotonic() >= until:
                raise DirectoryInUse(str(path), str(held_by))
            time.sleep(_POLL)
    except BaseException:
        os.close(lock)
        raise


def _check_format(path: Path) -> None:
    file = path / _FORMAT_FILE
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        _write_format(path)
        return
    try:
        value = json.loads(text)
        written, readable_by = value["format"], value["readable_by"]
        known = written in READABLE or FORMAT in readable_by
    except (ValueError, TypeError, KeyError) as error:
        raise UnknownFormat(f"{file} says nothing that this version understands") from error
    if not known:
        raise UnknownFormat(f"{path} has format {written!r}; this version reads {_listed(READABLE)}")


def _write_format(path: Path) -> None:
    new = path / (_FORMAT_FILE + ".new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    with new.open("x") as file:
        json.dump({"format": FORMAT, "readable_by": list(READABLE_BY)}, file)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(path / _FORMAT_FILE)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _listed(formats: frozenset[int]) -> str:
    return "format " + " and ".join(str(number) for number in sorted(formats))
