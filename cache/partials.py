"""The files of downloads under way, and who leads each.

- Each epoch of a download has a lock file; who holds its lock leads. A lock file is never renamed.
- When a leader has died, its lock is free: the next takes it and goes on in the same data file.
- When a leader hangs, the next takes the lock of the *next* epoch, copies what was hashed into a new data
  file, and renames a new state over the old. The old leader goes on writing to files that nobody reads:
  its state page has lost its name with that rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from .blob_store import OpenFile
from .digest import Digest
from .filesystem import storing
from .flight_state import FlightState, Phase, StateFile


class EpochLock:
    """The lock of one epoch. Held by who leads it, given back when that process ends, however it ends."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self.path = path

    @classmethod
    def try_take(cls, path: Path) -> EpochLock | None:
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The holder before may have removed the file between our opening and our locking.
                if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                    return cls(descriptor, path)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def release(self, *, remove: bool = False) -> None:
        if self._descriptor < 0:
            return
        if remove:
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = -1

    def __del__(self) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class Led:
    """We lead. `state` says from where to go on."""

    lock: EpochLock
    page: StateFile
    state: FlightState


@dataclass(frozen=True, slots=True)
class Followed:
    """Another leads; `page` is None in the instant before it has written its first state."""

    page: StateFile | None
    state: FlightState | None


class Partials:
    """The files of downloads under way. Everything here blocks, and is run off the loop.

    `hung_after` is how long, in seconds, a leader may show no life before the next takes over.
    """

    def __init__(self, directory: Path, *, hung_after: float) -> None:
        self.directory = directory
        self.hung_after = hung_after

    @staticmethod
    def stem(digest: Digest) -> str:
        return f"{digest.algorithm}-{digest.encoded}"

    def session(self, digest: Digest, epoch: int) -> str:
        return f"{self.stem(digest)}.{epoch}"

    def state_path(self, digest: Digest) -> Path:
        return self.directory / f"{self.stem(digest)}.state"

    def sources_path(self, digest: Digest) -> Path:
        return self.directory / f"{self.stem(digest)}.sources"

    def data_path(self, digest: Digest, epoch: int) -> Path:
        return self.directory / f"{self.session(digest, epoch)}.data"

    def lock_path(self, digest: Digest, epoch: int) -> Path:
        return self.directory / f"{self.session(digest, epoch)}.lock"

    def claim(self, digest: Digest, now: float) -> Led | Followed:
        """Takes the lead if nobody has it, or if who has it hangs. `now` is monotonic seconds."""
        with storing():
            while True:
                page = StateFile.open(self.state_path(digest))
                state = page.load() if page else None
                epoch = state.epoch if state else 1
                if state is None and page is not None:
                    epoch = self._last_epoch(digest) + 1  # a page that cannot be read vouches for no byte
                elif state is not None and state.phase in (Phase.BAD, Phase.REFUSED):
                    epoch += 1
                lock = EpochLock.try_take(self.lock_path(digest, epoch))
                if lock is None:
                    if state is None or not self._hangs(state, now):
                        return Followed(page, state)
                    epoch += 1
                    lock = EpochLock.try_take(self.lock_path(digest, epoch))
                    if lock is None:
                        return Followed(page, state)
                if not self._current(digest, page):
                    lock.release(remove=True)
                    continue
                try:
                    return self._lead(digest, lock, page, state, epoch, now)
                except BaseException:
                    lock.release()
                    raise

    def _hangs(self, state: FlightState, now: float) -> bool:
        # A beat from the future is of before a restart of the machine, and its lock would be free.
        return state.phase == Phase.FILLING and now - state.beat_at > self.hung_after

    def _current(self, digest: Digest, page: StateFile | None) -> bool:
        """Whether this page is still the one that the name leads to."""
        try:
            inode = os.stat(self.state_path(digest)).st_ino
        except FileNotFoundError:
            return page is None
        return page is not None and page.inode == inode

    def _last_epoch(self, digest: Digest) -> int:
        epochs = [0]
        for path in self.directory.glob(self.stem(digest) + ".*.*"):
            number = path.name.removeprefix(self.stem(digest) + ".").partition(".")[0]
            if number.isdigit():
                epochs.append(int(number))
        return max(epochs)

    def _lead(
        self,
        digest: Digest,
        lock: EpochLock,
        page: StateFile | None,
        state: FlightState | None,
        epoch: int,
        now: float,
    ) -> Led:
        if state is not None and state.epoch == epoch and page is not None:
            # The leader before has died, or gave up: the same files, from what its page vouches for.
            present = self._size(self.data_path(digest, epoch))
            state.contiguous = min(state.contiguous, present)
            state.hashed = 0
            state.phase = Phase.FILLING
            state.answering = False
            state.failure = state.failure_kind = state.retry_after = None
        else:
            inherited = 0
            if state is not None and state.phase == Phase.FILLING:
                inherited = self._copy(digest, state, epoch)
            state = FlightState(
                epoch=epoch,
                total=state.total if state and inherited else None,
                contiguous=inherited,
                answered=state.answered if state and inherited else [],
                mismatches=state.mismatches if state else [],
            )
            page = None
        state.leader = os.getpid()
        state.beat_at = now
        if page is None:
            page = StateFile.create(self.state_path(digest), state)
        else:
            page.save(state)
        self._remove_before(digest, epoch)
        return Led(lock, page, state)

    def _size(self, path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0

    def _copy(self, digest: Digest, state: FlightState, epoch: int) -> int:
        """The bytes that the hung leader had hashed, in a data file of our own."""
        try:
            source = os.open(self.data_path(digest, state.epoch), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        target = -1
        try:
            target = os.open(
                self.data_path(digest, epoch), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
            )
            done = 0
            while done < state.hashed:  # shares the blocks where the file system can
                count = os.copy_file_range(source, target, state.hashed - done)
                if count == 0:
                    break
                done += count
            return done
        finally:
            os.close(source)
            if target >= 0:
                os.close(target)

    def _remove_before(self, digest: Digest, epoch: int) -> None:
        """Leftovers of earlier epochs. Who still writes to them writes to nobody."""
        for path in self.directory.glob(self.stem(digest) + ".*.*"):
            number = path.name.removeprefix(self.stem(digest) + ".").partition(".")[0]
            if number.isdigit() and int(number) < epoch and path.suffix in (".data", ".lock"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def clear(self, digest: Digest, led: Led) -> None:
        """Removes what a finished download leaves, if it is still ours to remove."""
        if self._current(digest, led.page):
            for path in (self.state_path(digest), self.sources_path(digest)):
                with contextlib.suppress(OSError):
                    path.unlink()
        with contextlib.suppress(OSError):
            self.data_path(digest, led.state.epoch).unlink()
        led.lock.release(remove=True)

    # the sources of a flight, shared by all who join

    def add_source(self, digest: Digest, source: str) -> None:
        """Adds a line to the list that whoever leads goes by."""
        with storing():
            if source not in self.sources(digest):
                with open(self.sources_path(digest), "a", encoding="utf-8") as file:
                    file.write(source + "\n")

    def sources(self, digest: Digest) -> list[str]:
        try:
            text = self.sources_path(digest).read_text("utf-8")
        except FileNotFoundError:
            return []
        whole, _, _ = text.rpartition("\n")  # a line without its end is being written
        return list(dict.fromkeys(whole.split("\n")))[:32] if whole else []

    def reader(self, digest: Digest, epoch: int) -> OpenFile | None:
        """The data file of an epoch, for a follower."""
        try:
            return OpenFile.for_reading(self.data_path(digest, epoch))
        except FileNotFoundError:
            return None

    def leaderless(self, digest: Digest, epoch: int) -> bool:
        """Whether nobody leads this epoch."""
        lock = EpochLock.try_take(self.lock_path(digest, epoch))
        if lock is None:
            return False
        lock.release(remove=True)
        return True

    def collect(self, older_than: float) -> int:
        """Removes what no download has touched since `older_than` (wall-clock seconds) and nobody leads.
        Returns how many bytes that freed."""
        freed = 0
        groups: dict[str, list[Path]] = {}
        with storing():
            for path in self.directory.iterdir():
                groups.setdefault(path.name.partition(".")[0], []).append(path)
        for paths in groups.values():
            freed += self._collect(paths, older_than)
        return freed

    def _collect(self, paths: list[Path], older_than: float) -> int:
        freed = 0
        taken: list[EpochLock] = []
        with contextlib.suppress(OSError):
            if max(path.stat().st_mtime for path in paths) >= older_than:
                return 0
            for path in paths:
                if path.suffix == ".lock":
                    lock = EpochLock.try_take(path)
                    if lock is None:
                        return 0
                    taken.append(lock)
            for path in paths:
                if path.suffix != ".lock":
                    size = path.stat().st_size
                    path.unlink()
                    freed += size
            for lock in taken:
                lock.release(remove=True)
        return freed

    def reserved(self) -> int:
        """The bytes that downloads under way will take in all, as far as their sources said."""
        total = 0
        with storing():
            for path in self.directory.glob("*.state"):
                page = StateFile.open(path)
                state = page.load() if page else None
                if state is not None and state.phase in (Phase.FILLING, Phase.VERIFIED, Phase.ABANDONED):
                    # What an abandoned one has on disk counts; what it may still fetch does not.
                    filling = state.phase != Phase.ABANDONED
                    total += max(state.total or 0, state.contiguous) if filling else state.contiguous
        return total
