"""The embedded index on bad days: a full disk, a writer that was stopped, damaged files, kill -9."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from entrepot.cache.clock import ManualClock
from entrepot.cache.digest import Digest
from entrepot.cache.embedded_index import EmbeddedIndex
from entrepot.cache.errors import IndexUnavailable
from entrepot.cache.generation import Generations
from entrepot.cache.index import BlobRow, Link, Negative, TagKey, Totals

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


@contextmanager
def no_file_may_grow() -> Iterator[None]:
    """A full disk, as far as this process can tell: the system refuses every write beyond a few bytes."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


class TestFullDisk:
    async def test_writes_fail_reads_go_on_and_caching_is_back_by_itself(
        self, embedded: EmbeddedIndex
    ) -> None:
        digest = content("layer")
        await embedded.put_tag(KEY, tag_entry("old"))
        await embedded.put_links([Link("docker.io/a", digest, "blob", True)])
        for _ in range(2):
            with no_file_may_grow():
                for write in (
                    embedded.put_tag(KEY, tag_entry("lost")),
                    embedded.put_links([Link("docker.io/b", digest, "blob", True)]),
                    embedded.put_blob(blob_row("layer")),
                    embedded.put_children(digest, [content("x")], None),
                    embedded.put_negative("a", Negative("404", NOW, NOW + 10)),
                    embedded.drop_tag(KEY),
                ):
                    with pytest.raises(IndexUnavailable):
                        await write
                assert await embedded.tag(KEY) == tag_entry("old")
                assert await embedded.link("docker.io/a", digest, "blob") is not None
        # The clock has not moved: nothing needs a wait or a restart.
        assert await embedded.tag(KEY) == tag_entry("old")
        assert await embedded.links_of(digest) == (Link("docker.io/a", digest, "blob", True),)
        assert await embedded.totals() == Totals(0, 0, 0, 0, 1)

    async def test_writing_goes_on_when_there_is_room(
        self, embedded: EmbeddedIndex, clock: ManualClock
    ) -> None:
        with no_file_may_grow():
            for number in range(3):
                with pytest.raises(IndexUnavailable):
                    await embedded.put_tag(KEY, tag_entry(number))
                with pytest.raises(IndexUnavailable):
                    await embedded.put_blob(blob_row(number))
        clock.advance(1)  # an index that could not be opened is tried again once a second
        await embedded.put_tag(KEY, tag_entry("new"))
        await embedded.put_blob(blob_row("new", size=7))
        assert await embedded.tag(KEY) == tag_entry("new")
        assert await embedded.totals() == Totals(1, 7, 0, 0, 1)

    async def test_a_commit_without_room_is_undone_whole(
        self, embedded: EmbeddedIndex, clock: ManualClock
    ) -> None:
        """sqlite's own 'database or disk is full', in the middle of a transaction."""

        def limit(stores: Any) -> None:
            connection = stores.rows._connection
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")

        await embedded._writer.run(limit)
        many = [Link("docker.io/a", content(number), "blob", True) for number in range(2000)]
        with pytest.raises(IndexUnavailable, match="full"):
            await embedded.put_links(many)
        assert await embedded.link("docker.io/a", content(0), "blob") is None
        await embedded.put_links(many)  # on a connection without that limit
        assert await embedded.link("docker.io/a", content(1999), "blob") is not None

    async def test_an_index_that_cannot_be_opened_opens_later(
        self, tmp_path: Path, generations: Generations, clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        with no_file_may_grow():
            index = await EmbeddedIndex.open(tmp_path / "index", generations, clock)
            with pytest.raises(IndexUnavailable):
                await index.tag(KEY)
        assert "index unavailable" in caplog.text
        clock.advance(1)
        await index.put_tag(KEY, tag_entry())
        assert await index.tag(KEY) == tag_entry()
        await index.close()

    async def test_what_cannot_be_kept_is_unavailable_and_harms_nothing(
        self, embedded: EmbeddedIndex
    ) -> None:
        good, other = (Link("docker.io/a", content(word), "blob", True) for word in ("good", "other"))
        for bad in (
            Link("docker.io/a", content("bad"), "blob", True, size=2**63),
            Link("docker.io/a", content("bad"), "blob", True, media_type="\ud800"),
        ):
            with pytest.raises(IndexUnavailable):
                await embedded.put_links([other, bad])
            await embedded.put_links([good])  # the next write finds no transaction left open
        assert await embedded.link("docker.io/a", good.digest, "blob") == good
        assert await embedded.link("docker.io/a", other.digest, "blob") is None


class TestBusy:
    async def test_who_waits_behind_a_writer_that_was_stopped_does_not_wait_in_turn(
        self, embedded: EmbeddedIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As many writes as you like wait no longer than one, and reads do not wait at all."""
        await embedded._writer.run(
            lambda stores: stores.rows._connection.execute("PRAGMA busy_timeout = 50").fetchone()
        )
        await embedded.put_blob(blob_row("before"))
        stopped = sqlite3.connect(tmp_path / "index" / "rows.db", isolation_level=None)
        stopped.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(embedded._writer, "_clock", _Ticking())
        writes = [asyncio.ensure_future(embedded.put_blob(blob_row(number))) for number in range(100)]
        assert await embedded.blob(content("before")) is not None
        async with asyncio.timeout(4):  # one after the other they would take 5 s
            results = await asyncio.gather(*writes, return_exceptions=True)
        assert all(isinstance(result, IndexUnavailable) for result in results)
        stopped.execute("ROLLBACK")
        stopped.close()
        await embedded.put_blob(blob_row("after"))
        assert (await embedded.totals()).blobs == 2

    async def test_the_line_is_bounded(
        self, embedded: EmbeddedIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("entrepot.cache.embedded_index._WAITING_LIMIT", 5)
        writes = [embedded.put_blob(blob_row(number)) for number in range(8)]
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert [isinstance(result, IndexUnavailable) for result in results] == [False] * 5 + [True] * 3
        await embedded.put_blob(blob_row("after"))

    async def test_a_cancelled_write_that_began_is_done_and_announced(self, embedded: EmbeddedIndex) -> None:
        before = embedded.generation(str(KEY))
        write = asyncio.create_task(embedded.put_tag(KEY, tag_entry()))
        await asyncio.sleep(0)
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
        await embedded.put_tag(TagKey("docker.io/b", "v"), tag_entry())  # the thread has come past it
        written = await embedded.tag(KEY) is not None
        assert (embedded.generation(str(KEY)) != before) == written


class _Ticking:
    """Later at each look, so that the order of looking is the order of time."""

    def __init__(self) -> None:
        self._now = 1_000.0

    def wall(self) -> float:
        return NOW

    def monotonic(self) -> float:
        self._now += 0.001
        return self._now


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


class TestDamage:
    """A damaged index is moved aside whole, by one process, and begun afresh."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        return tmp_path / "index"

    @pytest.mark.parametrize("name", ["rows.db", "tags/cache.db", "negatives/cache.db"])
    @pytest.mark.parametrize("damage", ["no database", "torn pages"])
    async def test_found_on_opening(
        self,
        embedded: EmbeddedIndex,
        directory: Path,
        clock: ManualClock,
        caplog: pytest.LogCaptureFixture,
        name: str,
        damage: str,
    ) -> None:
        await embedded.put_tag(KEY, tag_entry())
        await embedded.put_negative("a", Negative("404", NOW, NOW + 10))
        await embedded.put_blob(blob_row("layer"))
        await embedded.close()
        path = directory / name
        size = path.stat().st_size
        damaged = (
            b"<html>" * 1000
            if damage == "no database"
            else path.read_bytes()[:4096] + b"\xa5" * (size - 4096)
        )
        path.write_bytes(damaged)

        index = await EmbeddedIndex.open(directory, Generations(), clock)
        assert await index.tag(KEY) is None
        assert await index.totals() == Totals(0, 0, 0, 0, 0)
        await index.put_tag(KEY, tag_entry("new"))
        assert await index.tag(KEY) == tag_entry("new")
        await index.close()

        (aside,) = directory.parent.glob("index.bad-*")
        assert aside.name == "index.bad-20231114T221320Z"
        assert (aside / name).read_bytes()[4096:8192] == damaged[4096:8192]
        assert {"rows.db", "tags", "negatives"} <= {path.name for path in aside.iterdir()}
        assert "index begun afresh" in caplog.text
        assert str(aside) in caplog.text

        index = await EmbeddedIndex.open(directory, Generations(), clock)
        assert await index.tag(KEY) == tag_entry("new")
        assert names(directory.parent) == ["index", aside.name]
        await index.close()

    async def test_met_later_is_marked_for_the_next_opening(
        self, embedded: EmbeddedIndex, directory: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        # Many pages, and those damaged that hold the last link: opening does not come by them.
        await embedded.put_links(
            [Link("docker.io/a", content(number), "blob", True) for number in range(2000)]
        )
        await embedded.put_tag(KEY, tag_entry())
        await embedded.close()
        path = directory / "rows.db"
        digests = sorted(str(content(number)).encode() for number in range(2000))
        data = path.read_bytes()
        old = [data[start : start + 4096] for start in range(0, len(data), 4096)]
        new = [b"\xa5" * 4096 if digests[-1] in page and digests[0] not in page else page for page in old]
        path.write_bytes(b"".join(new))

        index = await EmbeddedIndex.open(directory, Generations(), clock)
        assert names(directory.parent) == ["index"]
        failures = 0
        for number in range(2000):
            try:
                await index.link("docker.io/a", content(number), "blob")
            except IndexUnavailable:
                failures += 1
        assert 0 < failures < 2000  # what can be read is used
        assert await index.tag(KEY) == tag_entry()
        assert caplog.text.count("index damaged") == 1
        await index.close()

        index = await EmbeddedIndex.open(directory, Generations(), clock)
        assert await index.tag(KEY) is None
        await index.put_links([Link("docker.io/a", content(0), "blob", True)])
        await index.close()
        assert len(list(directory.parent.glob("index.bad-*"))) == 1

    async def test_files_that_another_has_open_stay_where_they_are(
        self, embedded: EmbeddedIndex, directory: Path, clock: ManualClock
    ) -> None:
        await embedded.put_tag(KEY, tag_entry())
        (directory / "damaged").touch()
        index = await EmbeddedIndex.open(directory, Generations(), clock)
        assert await index.tag(KEY) == tag_entry()
        await embedded.close()
        await index.close()
        index = await EmbeddedIndex.open(directory, Generations(), clock)
        assert await index.tag(KEY) is None
        assert not (directory / "damaged").exists()
        await index.close()

    async def test_one_of_many_that_open_it_together_replaces_it(
        self, embedded: EmbeddedIndex, directory: Path, clock: ManualClock
    ) -> None:
        await embedded.close()
        (directory / "rows.db").write_bytes(b"<html>" * 1000)
        generations = Generations()
        indexes = await asyncio.gather(*(EmbeddedIndex.open(directory, generations, clock) for _ in range(4)))
        await indexes[0].put_tag(KEY, tag_entry())
        for index in indexes:
            assert await index.tag(KEY) == tag_entry()
            await index.close()
        assert len(list(directory.parent.glob("index.bad-*"))) == 1


KILLED = """
import asyncio, itertools, sys
from pathlib import Path
from entrepot.cache.clock import SystemClock
from entrepot.cache.digest import Digest
from entrepot.cache.embedded_index import EmbeddedIndex
from entrepot.cache.generation import Generations
from entrepot.cache.index import BlobRow, Link, TagEntry, TagKey

async def main():
    index = await EmbeddedIndex.open(Path(sys.argv[1]), Generations(), SystemClock())
    for number in itertools.count(int(sys.argv[2])):
        digest = Digest.of(str(number).encode())
        await index.put_blob(BlobRow(digest, number, 0.0, 0.0))
        await index.put_links([Link("docker.io/a", digest, "blob", True)])
        entry = TagEntry(digest, "application/a", 1, 0.0, 0.0)
        await index.put_tag(TagKey("docker.io/a", f"v{number}"), entry)
        print(number, flush=True)

asyncio.run(main())
"""


class TestKill:
    async def test_a_killed_writer_leaves_a_whole_index(self, tmp_path: Path, clock: ManualClock) -> None:
        directory = tmp_path / "index"
        done = -1
        for round_number in range(4):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", KILLED, str(directory), str(done + 1), stdout=asyncio.subprocess.PIPE
            )
            assert process.stdout is not None
            async with asyncio.timeout(60):
                while line := await process.stdout.readline():
                    done = int(line)
                    if done % 40 == 17 + round_number:
                        process.kill()
                        done = max([done, *map(int, (await process.stdout.read()).split())])
                await process.wait()
            generations = Generations()
            index = await EmbeddedIndex.open(directory, generations, clock)
            for number in range(done + 1):
                digest = Digest.of(str(number).encode())
                assert await index.blob(digest) == BlobRow(digest, number, 0.0, 0.0)
                assert await index.link("docker.io/a", digest, "blob") is not None
                entry = await index.tag(TagKey("docker.io/a", f"v{number}"))
                assert entry is not None
                assert entry.digest == digest
            rows = await collected(index.walk_blobs())
            tags = await collected(index.walk_tags())
            assert len(rows) - (done + 1) in (0, 1)  # the one that was under way
            assert len(tags) in (done + 1, len(rows))
            totals = await index.totals()
            assert totals == Totals(len(rows), sum(row.size for row in rows), 0, 0, len(tags))
            await index.close()
            generations.close()
            for name in ("rows.db", "tags/cache.db"):
                connection = sqlite3.connect(directory / name)
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                connection.close()
        assert names(tmp_path) == ["index"]
