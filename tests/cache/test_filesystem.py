"""The blob store on a disk: the conformance suite, and what is the disk's own."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from entrepot.cache.blob_store import BlobStore
from entrepot.cache.errors import StorageBroken, StorageFull, StorageReadOnly
from entrepot.cache.filesystem import FilesystemStore

from .blob_store_conformance import CONTENT, DIGEST, BlobStoreConformance


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FilesystemStore]:
    (tmp_path / "partial").mkdir()
    with ThreadPoolExecutor(2) as executor:
        yield FilesystemStore(tmp_path, executor)


class TestFilesystem(BlobStoreConformance):
    """Passes the conformance suite."""


async def test_a_blob_lies_where_an_image_layout_has_it(
    store: FilesystemStore,
) -> None:
    await store.put(DIGEST, CONTENT)
    path = store.directory / "blobs" / "sha256" / DIGEST.encoded
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o444


async def test_file_then_name_then_directory_become_durable(
    store: FilesystemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        steps.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        steps.append("name")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    writer = await store.create("s1")
    await writer.write(CONTENT)
    await writer.commit(DIGEST)
    assert steps == ["file", "name", "directory"]


@pytest.mark.parametrize(
    ("number", "meaning"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EROFS, StorageReadOnly),
        (errno.EACCES, StorageReadOnly),
        (errno.EIO, StorageBroken),
        (errno.EMFILE, StorageBroken),
    ],
)
async def test_what_the_disk_says_has_a_meaning(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, number: int, meaning: type[Exception]
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    writer = await store.create("s1")
    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(meaning):
        await writer.write(CONTENT)
    assert writer.offset == 0
    monkeypatch.undo()
    await writer.cancel()
