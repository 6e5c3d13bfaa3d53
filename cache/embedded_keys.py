"""The half of the embedded index that diskcache keeps: what is looked up by its key alone.

Keys are strings and values are JSON as bytes, kept in the row itself. diskcache would pickle whatever it
does not know, and unpickle what it finds: `_PlainDisk` does neither, so that whoever can write the
directory cannot run code by it.

Nothing here is asynchronous: every `Keys` belongs to the one thread that opened it.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import diskcache
from diskcache.core import MODE_RAW

from .digest import Digest
from .errors import InvalidDigest
from .index import Negative, TagEntry, TagKey

_GRACE: Final = 60.0
"""Seconds for which diskcache keeps a negative longer than it holds. What holds is said by its own `until`
and the clock passed in; diskcache goes by the machine's clock, and only clears away."""
_SWEEP_EVERY: Final = 64
_SWEEP: Final = 256
_PAGE: Final = 500

_SETTINGS: Final = {
    "eviction_policy": "none",
    "cull_limit": 0,
    "statistics": 0,
    "sqlite_synchronous": 1,
    "sqlite_cache_size": 512,  # pages: 2 MiB for each connection, not 32
    "sqlite_mmap_size": 0,  # a mapped page that the disk cannot read ends the process
    "sqlite_auto_vacuum": 0,
}


class _PlainDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache ships no annotations
    """Strings for keys, bytes for values, and no files."""

    def put(self, key: object) -> tuple[str, bool]:
        if not isinstance(key, str):
            raise TypeError(f"a key must be a string, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: bool) -> str:
        if not raw or not isinstance(key, str):
            raise sqlite3.DataError("a key that this program did not write")
        return key

    def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, None, memoryview]:
        if not isinstance(value, bytes):
            raise TypeError(f"a value must be bytes, not {type(value).__name__}")
        return 0, MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> bytes:
        if mode != MODE_RAW or not isinstance(value, bytes):
            raise sqlite3.DataError("a value that this program did not write")
        return value

    def remove(self, file_path: str) -> None:
        """No row of ours names a file; one that does is not believed."""


class _Table(diskcache.Cache):  # type: ignore[misc]  # diskcache ships no annotations
    """A diskcache that can also be walked in order, and forget by prefix.

    diskcache's own `iterkeys` asks for `key = ? AND raw > ? OR key > ?`, which its index cannot answer: each
    page scans from the start, over eight minutes for a million keys. Asked for `key > ?` alone the same index
    answers at once. A list of the keys kept elsewhere would cost a second write for each tag, and would
    disagree with this one after a crash between the two.
    """

    def __init__(self, directory: Path, busy: float) -> None:
        try:
            super().__init__(str(directory), timeout=busy, disk=_PlainDisk, **_SETTINGS)
        except BaseException:
            self.close()
            raise

    def page(self, prefix: str, after: str, limit: int) -> list[tuple[str, object]]:
        """Up to `limit` keys with their values, in order, from the first that is at least `prefix` and over
        `after`. May run past the keys that begin with `prefix`."""
        rows: list[tuple[str, object]] = self._sql(
            "SELECT key, value FROM Cache WHERE key >= ? AND key > ? AND raw = 1 ORDER BY key LIMIT ?",
            (prefix, after, limit),
        ).fetchall()
        return rows

    def forget(self, prefix: str) -> Iterator[list[str]]:
        """Deletes what begins with `prefix`, page by page, and says after each what it was."""
        while True:
            with self.transact():
                keys = [key for key, _ in self.page(prefix, "", _PAGE) if key.startswith(prefix)]
                # By key and not by `delete`, which passes over what has expired and would find it for ever.
                for key in keys:
                    self._sql("DELETE FROM Cache WHERE key = ? AND raw = 1", (key,))
            if not keys:
                return
            yield keys

    def sweep(self, limit: int) -> None:
        """Deletes up to `limit` entries whose time is over."""
        query = "SELECT rowid FROM Cache WHERE expire_time < ? ORDER BY expire_time LIMIT ?"
        if not self._sql(query, (time.time(), 1)).fetchall():
            return
        with self.transact():
            self._sql(f"DELETE FROM Cache WHERE rowid IN ({query})", (time.time(), limit))


class Keys:
    """Tags and negatives, a diskcache each, so that the length of the one is the number of tags."""

    def __init__(self, tags: Path, negatives: Path, busy: float) -> None:
        """`busy` is how many seconds a write waits for another process's. Raises `sqlite3.Error`,
        `diskcache.Timeout` and `OSError`."""
        self._tags = _Table(tags, busy)
        try:
            self._negatives = _Table(negatives, busy)
        except BaseException:
            self._tags.close()
            raise
        self._until_sweep = _SWEEP_EVERY

    def close(self) -> None:
        try:
            self._tags.close()
        finally:
            self._negatives.close()

    # tags

    def tag(self, key: TagKey) -> TagEntry | None:
        content = self._tags.get(str(key))
        return None if content is None else _tag_entry(content)

    def put_tag(self, key: TagKey, entry: TagEntry) -> None:
        self._tags.set(str(key), _tag_content(entry))

    def drop_tag(self, key: TagKey) -> None:
        self._tags.delete(str(key))

    def tags_after(
        self, prefix: str, after: str, limit: int
    ) -> tuple[list[tuple[TagKey, TagEntry]], str | None]:
        """A page of tags, and after which key the next begins: None at the end."""
        rows = self._tags.page(prefix, after, limit)
        found: list[tuple[TagKey, TagEntry]] = []
        for text, content in rows:
            if not text.startswith(prefix):
                return found, None
            entry = _tag_entry(content)
            if entry is not None:
                found.append((_tag_key(text), entry))
        return found, rows[-1][0] if len(rows) == limit else None

    def tag_count(self) -> int:
        return len(self._tags)

    # negatives

    def negative(self, key: str) -> Negative | None:
        """Whether it still holds is for the caller to say."""
        content = self._negatives.get(key)
        return None if content is None else _negative(content)

    def put_negative(self, key: str, negative: Negative, seconds: float) -> None:
        """`seconds` is how long it holds from now on."""
        self._until_sweep -= 1
        if self._until_sweep <= 0:
            # diskcache keeps what has expired until someone clears it away, with cull_limit=0 for ever.
            self._until_sweep = _SWEEP_EVERY
            self._negatives.sweep(_SWEEP)
        content = json.dumps({"reason": negative.reason, "since": negative.since, "until": negative.until})
        self._negatives.set(key, content.encode(), expire=max(0.0, seconds) + _GRACE)

    def drop_negatives(self, prefix: str) -> Iterator[list[str]]:
        """Deletes page by page, and says after each what is gone."""
        return self._negatives.forget(prefix)


def _tag_content(entry: TagEntry) -> bytes:
    fields: dict[str, Any] = {
        "digest": str(entry.digest),
        "media_type": entry.media_type,
        "size": entry.size,
        "first_seen_at": entry.first_seen_at,
        "confirmed_at": entry.confirmed_at,
        "failed_at": entry.failed_at,
        "failure": entry.failure,
        "gone_at": entry.gone_at,
        "main": None if entry.main is None else str(entry.main),
    }
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def _tag_entry(content: object) -> TagEntry | None:
    """None for what cannot be read: the tag is asked for anew."""
    try:
        fields = json.loads(content)  # type: ignore[arg-type]  # what is no text is caught below
        main = fields.get("main")
        return TagEntry(
            digest=Digest.parse(fields["digest"]),
            media_type=fields["media_type"],
            size=fields["size"],
            first_seen_at=fields["first_seen_at"],
            confirmed_at=fields["confirmed_at"],
            failed_at=fields.get("failed_at"),
            failure=fields.get("failure"),
            gone_at=fields.get("gone_at"),
            main=None if main is None else Digest.parse(main),
        )
    except (ValueError, KeyError, TypeError, AttributeError, InvalidDigest):
        return None


def _tag_key(text: str) -> TagKey:
    """The reverse of `str(TagKey)`. A tag has neither colon nor number sign, so it is read from the right."""
    rest, _, variant = text.rpartition("#")
    repository, _, tag = rest.rpartition(":")
    return TagKey(repository, tag, int(variant))


def _negative(content: object) -> Negative | None:
    try:
        fields = json.loads(content)  # type: ignore[arg-type]  # what is no text is caught below
        return Negative(fields["reason"], fields["since"], fields["until"])
    except (ValueError, KeyError, TypeError):
        return None
