"""The blob store on a local disk.

`blobs/<algorithm>/<hex>` holds finished content, read-only, as in an OCI image layout. `partial/` holds
sessions. A blob appears by rename, file and then directory synced (docs/durability.md).
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiofiles

from .blob_store import OpenFile, Session
from .digest import Digest
from .errors import InvalidReference, storage_error
from .threads import off_loop

DATA_SUFFIX = ".data"


@contextlib.contextmanager
def storing() -> Iterator[None]:
    """Gives what the operating system says its meaning."""
    try:
        yield
    except OSError as error:
        raise storage_error(error) from error


def sync_directory(path: Path) -> None:
    """Makes renames within a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FilesystemStore:
    """A cache directory's `blobs/` and `partial/`. `directory` must exist; `executor` does what blocks."""

    def __init__(self, directory: Path, executor: ThreadPoolExecutor) -> None:
        self.directory = directory
        self.executor = executor
        self.partial = directory / "partial"
        self._temporary = itertools.count()

    def path(self, digest: Digest) -> Path:
        return self.directory / "blobs" / digest.algorithm / digest.encoded

    def data_path(self, session: str) -> Path:
        """Where a session's bytes lie while they come. Followers in other processes read them there."""
        if "/" in session or session.startswith("."):
            raise InvalidReference(f"{session!r} cannot name a session")
        return self.partial / (session + DATA_SUFFIX)

    async def stat(self, digest: Digest) -> int | None:
        return await off_loop(self.executor, self._stat, digest)

    def _stat(self, digest: Digest) -> int | None:
        with storing():
            try:
                return self.path(digest).stat().st_size
            except FileNotFoundError:
                return None

    async def open(self, digest: Digest) -> OpenFile | None:
        return await off_loop(self.executor, self._open, digest)

    def _open(self, digest: Digest) -> OpenFile | None:
        with storing():
            try:
                return OpenFile.for_reading(self.path(digest))
            except FileNotFoundError:
                return None

    async def put(self, digest: Digest, content: bytes) -> None:
        name = f"{digest.algorithm}-{digest.encoded}.put-{os.getpid()}-{next(self._temporary)}"
        path = self.data_path(name)
        try:
            with storing():
                async with aiofiles.open(path, "wb") as file:
                    await file.write(content)
            await off_loop(self.executor, self._publish, path, digest)
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    async def create(self, session: str) -> FileWriter:
        return await off_loop(self.executor, self._create, session)

    def _create(self, session: str) -> FileWriter:
        with storing():
            path = self.data_path(session)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            return FileWriter(self, path, descriptor, 0)

    async def resume(self, session: str, offset: int) -> FileWriter | None:
        return await off_loop(self.executor, self._resume, session, offset)

    def _resume(self, session: str, offset: int) -> FileWriter | None:
        with storing():
            path = self.data_path(session)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            if os.fstat(descriptor).st_size < offset:
                os.close(descriptor)
                return None
            return FileWriter(self, path, descriptor, offset)

    async def sessions(self) -> list[Session]:
        return await off_loop(self.executor, self._sessions)

    def _sessions(self) -> list[Session]:
        found = []
        with storing():
            for path in self.partial.glob("*" + DATA_SUFFIX):
                with contextlib.suppress(FileNotFoundError):
                    stat = path.stat()
                    name = path.name.removesuffix(DATA_SUFFIX)
                    found.append(Session(name, stat.st_size, stat.st_mtime))
        return found

    async def delete(self, digest: Digest) -> int:
        return await off_loop(self.executor, self._delete, digest)

    def _delete(self, digest: Digest) -> int:
        with storing():
            path = self.path(digest)
            try:
                size = path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                return 0
            return size

    def _publish(self, path: Path, digest: Digest) -> None:
        """Renames finished content to its digest: the file is durable before its name is."""
        with storing():
            target = self.path(digest)
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
                os.fchmod(descriptor, 0o444)
            finally:
                os.close(descriptor)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
            sync_directory(target.parent)


class FileWriter:
    """A session whose bytes lie in one file that others may read while it grows."""

    def __init__(self, store: FilesystemStore, path: Path, descriptor: int, offset: int) -> None:
        self._store = store
        self._descriptor = descriptor
        self._open = True
        self.path = path
        self.offset = offset
        self.file = OpenFile.for_reading(path)
        """For readers in this process: shares no position with the writer."""

    async def write(self, data: bytes, then: Callable[[], None] | None = None) -> None:
        await off_loop(self._store.executor, self._write, data, then)

    def _write(self, data: bytes, then: Callable[[], None] | None) -> None:
        with storing(), memoryview(data) as view:
            written = 0
            while written < len(view):
                count = os.pwrite(self._descriptor, view[written:], self.offset)
                written += count
                self.offset += count
        if then is not None:
            then()

    async def suspend(self) -> None:
        await off_loop(self._store.executor, self._close)

    async def commit(self, digest: Digest) -> None:
        await off_loop(self._store.executor, self._commit, digest)

    def _commit(self, digest: Digest) -> None:
        with storing():
            # A session that was resumed may be longer than what counts: bytes behind were never vouched for.
            os.ftruncate(self._descriptor, self.offset)
        self._close()
        self._store._publish(self.path, digest)

    async def cancel(self) -> None:
        await off_loop(self._store.executor, self._cancel)

    def _cancel(self) -> None:
        self._close()
        with storing(), contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._descriptor)

    def __del__(self) -> None:
        self._close()


async def read_all(file: OpenFile, size: int, executor: ThreadPoolExecutor) -> bytes:
    """Small content whole."""
    parts: list[bytes] = []
    offset = 0
    while offset < size:
        part = await off_loop(executor, file.read, offset, size - offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
