"""The half of the embedded index that sqlite3 keeps: links, the graph, blobs and their sums.

Nothing here is asynchronous: every `Rows` belongs to the one thread that opened it. What sqlite3 raises goes
out as it is; who calls decides what it means.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

from .digest import Digest
from .errors import UnknownFormat
from .index import BlobRow, Kind, Link

_VERSION: Final = 1
_CACHE_KIB: Final = 2048
_WAL_LIMIT: Final = 16 * 1024 * 1024
"""Bytes that the write-ahead log may keep on the disk after a burst."""

_LINK: Final = "repository, digest, kind, proved, media_type, size, named_by"


class Rows:
    """One connection. `busy` is how many seconds a write waits for another process's."""

    def __init__(self, path: Path, busy: float) -> None:
        """Raises `UnknownFormat` for a file that a newer version wrote, and `sqlite3.Error`."""
        self._connection = sqlite3.connect(path, timeout=busy, isolation_level=None)
        try:
            self._prepare(path)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, path: Path) -> None:
        run = self._connection.execute
        run("PRAGMA trusted_schema = OFF")  # whoever can write the file cannot call functions by its schema
        version = run("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise UnknownFormat(f"{path} has version {version}, and this program reads up to {_VERSION}")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run(f"PRAGMA cache_size = -{_CACHE_KIB}")
        run(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
        if version == 0:
            schema = importlib.resources.files(__package__).joinpath("schema.sql").read_text("utf-8")
            # One transaction: who is killed in the middle leaves an empty file.
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version = {_VERSION}; COMMIT;"
            )
        for table in ("blob", "link", "edge", "referrer", "total"):
            # A damaged root page is found now, when the file can still be replaced. No scan.
            run(f"SELECT * FROM {table} LIMIT 1").fetchone()

    def close(self) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            # Also where COMMIT itself failed, as on a full disk: else the connection would stay in this
            # transaction, and no later write could begin one. sqlite3 may have rolled back by itself.
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            raise

    # links

    def link(self, repository: str, digest: Digest, kind: Kind) -> Link | None:
        row = self._connection.execute(
            f"SELECT {_LINK} FROM link WHERE repository = ? AND digest = ? AND kind = ?",
            (repository, str(digest), kind),
        ).fetchone()
        return None if row is None else _link(row)

    def put_links(self, links: Iterable[Link]) -> list[Link]:
        """Those that were not known just so. The law itself is `Link.renewed_by`, in one place: read, renewed
        and written back within one transaction, it costs little more than the same in SQL."""
        changed: list[Link] = []
        with self._writing() as connection:
            for link in links:
                held = self.link(link.repository, link.digest, link.kind)
                renewed = link if held is None else held.renewed_by(link)
                if renewed == held:
                    continue
                connection.execute(
                    f"INSERT OR REPLACE INTO link ({_LINK}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        renewed.repository,
                        str(renewed.digest),
                        renewed.kind,
                        renewed.proved,
                        renewed.media_type,
                        renewed.size,
                        None if renewed.named_by is None else str(renewed.named_by),
                    ),
                )
                changed.append(renewed)
        return changed

    def drop_links(self, repository: str, digests: Iterable[Digest]) -> None:
        with self._writing() as connection:
            connection.executemany(
                "DELETE FROM link WHERE repository = ? AND digest = ?",
                ((repository, str(digest)) for digest in digests),
            )

    def links_of(self, digest: Digest) -> tuple[Link, ...]:
        rows = self._connection.execute(
            f"SELECT {_LINK} FROM link WHERE digest = ? ORDER BY repository, kind", (str(digest),)
        )
        return tuple(_link(row) for row in rows)

    # the graph

    def put_children(self, parent: Digest, children: Sequence[Digest], subject: Digest | None) -> None:
        with self._writing() as connection:
            _forget_names(connection, parent)
            connection.executemany(
                "INSERT OR IGNORE INTO edge (parent, child, position) VALUES (?, ?, ?)",
                ((str(parent), str(child), position) for position, child in enumerate(children)),
            )
            if subject is not None:
                connection.execute(
                    "INSERT INTO referrer (digest, subject) VALUES (?, ?)", (str(parent), str(subject))
                )

    def children(self, parent: Digest) -> tuple[Digest, ...]:
        return self._digests("SELECT child FROM edge WHERE parent = ? ORDER BY position", parent)

    def parents(self, child: Digest) -> tuple[Digest, ...]:
        return self._digests("SELECT parent FROM edge WHERE child = ? ORDER BY parent", child)

    def referrers(self, subject: Digest) -> tuple[Digest, ...]:
        return self._digests("SELECT digest FROM referrer WHERE subject = ? ORDER BY digest", subject)

    def _digests(self, query: str, digest: Digest) -> tuple[Digest, ...]:
        return tuple(_digest(text) for (text,) in self._connection.execute(query, (str(digest),)))

    # blobs

    def blob(self, digest: Digest) -> BlobRow | None:
        row = self._connection.execute(
            "SELECT digest, size, fetched_at, used_at, kind FROM blob WHERE digest = ?", (str(digest),)
        ).fetchone()
        return None if row is None else _blob(row)

    def put_blob(self, row: BlobRow) -> None:
        with self._writing() as connection:
            # An upsert and no REPLACE, which would take the old row out without its trigger.
            connection.execute(
                """
                INSERT INTO blob (digest, size, fetched_at, used_at, kind) VALUES (?, ?, ?, ?, ?)
                ON CONFLICT DO UPDATE SET
                  size = excluded.size,
                  fetched_at = excluded.fetched_at,
                  used_at = max(used_at, excluded.used_at),
                  kind = excluded.kind
                """,
                (str(row.digest), row.size, row.fetched_at, row.used_at, row.kind),
            )

    def drop_blob(self, digest: Digest) -> None:
        with self._writing() as connection:
            connection.execute("DELETE FROM blob WHERE digest = ?", (str(digest),))
            _forget_names(connection, digest)

    def touch(self, used: Iterable[tuple[Digest, float]]) -> None:
        with self._writing() as connection:
            connection.executemany(
                "UPDATE blob SET used_at = ?2 WHERE digest = ?1 AND used_at < ?2",
                ((str(digest), at) for digest, at in used),
            )

    def blobs_after(self, after: str, limit: int) -> list[BlobRow]:
        rows = self._connection.execute(
            "SELECT digest, size, fetched_at, used_at, kind FROM blob WHERE digest > ?"
            " ORDER BY digest LIMIT ?",
            (after, limit),
        )
        return [_blob(row) for row in rows]

    def totals(self) -> tuple[int, int, int, int]:
        """Blobs and their bytes, manifests among them and their bytes."""
        row = self._connection.execute("SELECT blobs, bytes, manifests, manifest_bytes FROM total").fetchone()
        return cast("tuple[int, int, int, int]", row)


def _forget_names(connection: sqlite3.Connection, parent: Digest) -> None:
    connection.execute("DELETE FROM edge WHERE parent = ?", (str(parent),))
    connection.execute("DELETE FROM referrer WHERE digest = ?", (str(parent),))


def _digest(text: str) -> Digest:
    algorithm, _, encoded = text.partition(":")
    return Digest(algorithm, encoded)


def _link(row: tuple[Any, ...]) -> Link:
    repository, digest, kind, proved, media_type, size, named_by = row
    parent = None if named_by is None else _digest(named_by)
    return Link(repository, _digest(digest), kind, bool(proved), media_type, size, parent)


def _blob(row: tuple[Any, ...]) -> BlobRow:
    digest, size, fetched_at, used_at, kind = row
    return BlobRow(_digest(digest), size, fetched_at, used_at, kind)
