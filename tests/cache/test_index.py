"""The embedded index, alone and behind its memory: the contract, and the bad days."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import diskcache
import pytest
from entrepot.cache.clock import ManualClock
from entrepot.cache.embedded_index import EmbeddedIndex
from entrepot.cache.errors import IndexUnavailable, UnknownFormat
from entrepot.cache.generation import Generations, create_shared
from entrepot.cache.index import BlobRow, Index, Link, Negative, TagKey
from entrepot.cache.remembered_index import RememberedIndex

from .index_conformance import IndexConformance
from .index_samples import NOW, blob_row, collected, content, tag_entry

KEY = TagKey("docker.io/library/nginx", "latest")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def generations() -> Iterator[Generations]:
    generations = Generations()
    yield generations
    generations.close()


@pytest.fixture
async def embedded(
    tmp_path: Path, generations: Generations, clock: ManualClock
) -> AsyncIterator[EmbeddedIndex]:
    index = await EmbeddedIndex.open(tmp_path / "index", generations, clock)
    yield index
    await index.close()


class TestEmbeddedIndex(IndexConformance):
    @pytest.fixture
    async def index(self, embedded: EmbeddedIndex) -> Index:
        return embedded


class TestRememberedIndex(IndexConformance):
    @pytest.fixture
    async def index(
        self, tmp_path: Path, generations: Generations, clock: ManualClock
    ) -> AsyncIterator[Index]:
        inner = await EmbeddedIndex.open(tmp_path / "index", generations, clock)
        # So few that every test also pushes entries out.
        index = RememberedIndex(inner, 5, clock)
        yield index
        await index.close()


async def reopened(index: EmbeddedIndex, directory: Path, clock: ManualClock) -> EmbeddedIndex:
    await index.close()
    return await EmbeddedIndex.open(directory, Generations(), clock)


class TestTwoProcesses:
    """Two indexes on one directory, with generations in one shared memory: what two workers have."""

    @pytest.fixture
    async def pair(
        self, tmp_path: Path, clock: ManualClock
    ) -> AsyncIterator[tuple[RememberedIndex, RememberedIndex]]:
        descriptor = create_shared()
        shared = [Generations(descriptor, number) for number in (1, 2)]
        os.close(descriptor)
        one, other = [
            RememberedIndex(await EmbeddedIndex.open(tmp_path / "index", each, clock), 100, clock)
            for each in shared
        ]
        yield one, other
        await one.close()
        await other.close()
        for each in shared:
            each.close()

    async def test_each_sees_at_once_what_the_other_wrote(
        self, pair: tuple[RememberedIndex, RememberedIndex]
    ) -> None:
        digest, repository = content("layer"), "docker.io/library/nginx"
        for round_number in range(3):
            for writer, reader in (pair, pair[::-1]):
                entry = tag_entry((round_number, id(writer)))
                link = Link(repository, digest, "blob", True)
                row = BlobRow(digest, round_number, NOW, NOW)
                negative = Negative(f"{round_number} {id(writer)}", NOW, NOW + 10)
                # Known to be otherwise, or absent, before.
                assert await reader.tag(KEY) != entry
                assert await reader.link(repository, digest, "blob") is None
                assert await reader.blob(digest) is None
                assert await reader.negative("a") != negative

                await writer.put_tag(KEY, entry)
                await writer.put_links([link])
                await writer.put_blob(row)
                await writer.put_negative("a", negative)
                for each in (reader, writer):
                    assert await each.tag(KEY) == entry
                    assert await each.link(repository, digest, "blob") == link
                    assert await each.blob(digest) == row
                    assert await each.negative("a") == negative

                await writer.drop_links(repository, [digest])
                await writer.drop_blob(digest)
                await writer.drop_negatives("a")
                for each in (reader, writer):
                    assert await each.link(repository, digest, "blob") is None
                    assert await each.blob(digest) is None
                    assert await each.negative("a") is None

    async def test_both_write_at_once_and_nothing_is_lost(
        self, pair: tuple[RememberedIndex, RememberedIndex]
    ) -> None:
        async def write(index: RememberedIndex, name: str) -> None:
            for number in range(50):
                await index.put_tag(TagKey(f"docker.io/{name}", f"v{number}"), tag_entry(number))
                await index.put_blob(blob_row((name, number)))
                await index.put_links([Link("docker.io/shared", content(name, number), "blob", True)])

        async with asyncio.TaskGroup() as group:
            for index, name in zip(pair, ("one", "other"), strict=True):
                group.create_task(write(index, name))
        totals = await pair[0].totals()
        assert (totals.blobs, totals.tags) == (100, 100)
        for name in ("one", "other"):
            for number in range(50):
                for each in pair:
                    assert await each.tag(TagKey(f"docker.io/{name}", f"v{number}")) == tag_entry(number)
                    assert await each.link("docker.io/shared", content(name, number), "blob") is not None


class TestOnDisk:
    async def test_what_was_written_is_there_after_closing(
        self, embedded: EmbeddedIndex, tmp_path: Path, clock: ManualClock
    ) -> None:
        await embedded.put_tag(KEY, tag_entry())
        await embedded.put_blob(blob_row("layer"))
        index = await reopened(embedded, tmp_path / "index", clock)
        assert await index.tag(KEY) == tag_entry()
        assert await index.blob(content("layer")) == blob_row("layer")
        await index.close()

    async def test_a_closed_index_is_unavailable_and_may_be_closed_again(
        self, embedded: EmbeddedIndex
    ) -> None:
        await embedded.close()
        await embedded.close()
        with pytest.raises(IndexUnavailable):
            await embedded.tag(KEY)
        with pytest.raises(IndexUnavailable):
            await embedded.put_tag(KEY, tag_entry())

    async def test_a_newer_format_is_refused_and_left_alone(
        self, embedded: EmbeddedIndex, tmp_path: Path, clock: ManualClock, generations: Generations
    ) -> None:
        await embedded.close()
        path = tmp_path / "index" / "rows.db"
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 999")
        connection.close()
        with pytest.raises(UnknownFormat, match="999"):
            await EmbeddedIndex.open(tmp_path / "index", generations, clock)
        assert path.exists()
        assert os.listdir(tmp_path) == ["index"]

    async def test_values_are_json_and_no_pickle_is_read(
        self, embedded: EmbeddedIndex, tmp_path: Path, clock: ManualClock
    ) -> None:
        await embedded.put_tag(KEY, tag_entry())
        await embedded.close()
        trap = tmp_path / "trap"
        with sqlite3.connect(tmp_path / "index" / "tags" / "cache.db") as connection:
            key, mode, filename, value = connection.execute(
                "SELECT key, mode, filename, value FROM Cache"
            ).fetchone()
            assert key == str(KEY)
            assert (mode, filename) == (diskcache.core.MODE_RAW, None)
            assert json.loads(value)["digest"] == str(tag_entry().digest)
            connection.execute(
                "UPDATE Cache SET mode = ?, value = ?",
                (diskcache.core.MODE_PICKLE, pickle.dumps(_Trap(trap))),
            )
        connection.close()
        index = await EmbeddedIndex.open(tmp_path / "index", Generations(), clock)
        with pytest.raises(IndexUnavailable):
            await index.tag(KEY)
        assert not trap.exists()
        await index.put_tag(KEY, tag_entry("anew"))
        assert await index.tag(KEY) == tag_entry("anew")
        await index.close()

    async def test_a_value_that_says_nothing_is_a_miss(
        self, embedded: EmbeddedIndex, tmp_path: Path, clock: ManualClock
    ) -> None:
        other = TagKey("docker.io/library/other", "latest")
        values = [b"", b"null", b"[]", b"{}", b'{"digest":"md5:0"}', b"\xff", b'{"digest":7}']
        await embedded.put_tag(other, tag_entry())
        for number in range(len(values)):
            await embedded.put_tag(TagKey("docker.io/library/odd", f"v{number}"), tag_entry())
        await embedded.close()
        with sqlite3.connect(tmp_path / "index" / "tags" / "cache.db") as connection:
            for number, value in enumerate(values):
                name = str(TagKey("docker.io/library/odd", f"v{number}"))
                connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (value, name))
        connection.close()
        index = await EmbeddedIndex.open(tmp_path / "index", Generations(), clock)
        for number in range(len(values)):
            assert await index.tag(TagKey("docker.io/library/odd", f"v{number}")) is None
        assert await collected(index.walk_tags()) == [(other, tag_entry())]
        await index.close()

    async def test_what_has_expired_is_cleared_away(
        self, embedded: EmbeddedIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("entrepot.cache.embedded_keys._GRACE", -1.0)
        for number in range(200):
            await embedded.put_negative(f"a{number}", Negative("404", NOW, NOW))
        connection = sqlite3.connect(tmp_path / "index" / "negatives" / "cache.db")
        assert connection.execute("SELECT count(*) FROM Cache").fetchone()[0] < 100
        connection.close()

    async def test_pages_are_found_by_an_index_and_never_sorted(
        self, embedded: EmbeddedIndex, tmp_path: Path
    ) -> None:
        queries = {
            "tags/cache.db": [
                "SELECT key, value FROM Cache WHERE key >= '' AND key > '' AND raw = 1 ORDER BY key LIMIT 9",
            ],
            "rows.db": [
                "SELECT * FROM blob WHERE digest > '' ORDER BY digest LIMIT 9",
                "SELECT * FROM link WHERE digest = ''",
                "SELECT parent FROM edge WHERE child = '' ORDER BY parent",
                "SELECT digest FROM referrer WHERE subject = '' ORDER BY digest",
            ],
        }
        for name, texts in queries.items():
            connection = sqlite3.connect(tmp_path / "index" / name)
            for text in texts:
                plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}"))
                assert "SEARCH" in plan
                assert "TEMP B-TREE" not in plan
            connection.close()


class _Trap:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._path,))
