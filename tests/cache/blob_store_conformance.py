"""What every blob store must do. A store's own test inherits `BlobStoreConformance` and gives the store."""

from __future__ import annotations

import pytest
from entrepot.cache.blob_store import BlobStore, OpenFile
from entrepot.cache.digest import Digest

CONTENT = b"a layer, more or less" * 1000
DIGEST = Digest.of(CONTENT)


async def read(store: BlobStore, digest: Digest) -> bytes | None:
    opened = await store.open(digest)
    return opened.read(0, opened.size()) if isinstance(opened, OpenFile) else opened


class BlobStoreConformance:
    """The laws. The fixture `store` is the subclass's."""

    async def test_what_is_not_here(self, store: BlobStore) -> None:
        assert await store.stat(DIGEST) is None
        assert await store.open(DIGEST) is None
        assert await store.delete(DIGEST) == 0
        assert await store.resume("none", 0) is None

    async def test_put(self, store: BlobStore) -> None:
        await store.put(DIGEST, CONTENT)
        assert await store.stat(DIGEST) == len(CONTENT)
        assert await read(store, DIGEST) == CONTENT
        await store.put(DIGEST, CONTENT)
        assert await store.sessions() == []

    async def test_a_session_becomes_a_blob_only_by_its_commit(self, store: BlobStore) -> None:
        writer = await store.create("s1")
        await writer.write(CONTENT[:100])
        await writer.write(CONTENT[100:])
        assert writer.offset == len(CONTENT)
        assert await store.stat(DIGEST) is None
        await writer.commit(DIGEST)
        assert await read(store, DIGEST) == CONTENT
        assert await store.sessions() == []

    async def test_a_session_is_gone_on_with_where_it_is_asked_for(self, store: BlobStore) -> None:
        writer = await store.create("s1")
        await writer.write(CONTENT[:1000])
        await writer.suspend()
        assert [(session.name, session.size) for session in await store.sessions()] == [("s1", 1000)]
        assert await store.resume("s1", 1001) is None
        again = await store.resume("s1", 600)
        assert again is not None
        assert again.offset == 600
        await again.write(CONTENT[600:])
        await again.commit(DIGEST)
        assert await read(store, DIGEST) == CONTENT

    async def test_bytes_behind_the_offset_do_not_count(self, store: BlobStore) -> None:
        writer = await store.create("s1")
        await writer.write(CONTENT + b"never vouched for")
        await writer.suspend()
        again = await store.resume("s1", len(CONTENT) - 5)
        assert again is not None
        await again.write(CONTENT[-5:])
        await again.commit(DIGEST)
        assert await read(store, DIGEST) == CONTENT

    async def test_who_is_told_is_told_once_the_bytes_are_there(self, store: BlobStore) -> None:
        writer = await store.create("s1")
        seen: list[int] = []
        await writer.write(CONTENT, lambda: seen.append(writer.offset))
        assert seen == [len(CONTENT)]
        await writer.cancel()

    async def test_a_cancelled_session_leaves_nothing(self, store: BlobStore) -> None:
        writer = await store.create("s1")
        await writer.write(CONTENT)
        await writer.cancel()
        assert await store.sessions() == []
        assert await store.stat(DIGEST) is None

    async def test_a_new_session_is_empty_whatever_had_its_name(self, store: BlobStore) -> None:
        writer = await store.create("s1")
        await writer.write(b"old" * 1000)
        await writer.suspend()
        writer = await store.create("s1")
        assert writer.offset == 0
        await writer.write(CONTENT)
        await writer.commit(DIGEST)
        assert await read(store, DIGEST) == CONTENT

    async def test_who_reads_what_is_deleted_reads_to_the_end(self, store: BlobStore) -> None:
        await store.put(DIGEST, CONTENT)
        opened = await store.open(DIGEST)
        assert await store.delete(DIGEST) == len(CONTENT)
        assert await store.stat(DIGEST) is None
        content = opened.read(0, len(CONTENT)) if isinstance(opened, OpenFile) else opened
        assert content == CONTENT

    async def test_an_empty_blob(self, store: BlobStore) -> None:
        empty = Digest.of(b"")
        writer = await store.create("s1")
        await writer.commit(empty)
        assert await store.stat(empty) == 0
        assert await read(store, empty) == b""

    @pytest.mark.parametrize("name", ["../escape", ".hidden", "a/b"])
    async def test_names_of_sessions_stay_in_their_folder(self, store: BlobStore, name: str) -> None:
        with pytest.raises(ValueError):
            await store.create(name)
