"""The index: what is remembered of content, as a list of operations.

Every implementation passes `tests/cache/index_conformance.py`. Repositories are given as `str(Repository)`,
such as `docker.io/library/nginx`. Times are wall-clock seconds. Writing raises `IndexUnavailable` where it
fails, and so does reading; a pull goes on without the index.

The order of writing is blob, links, tag: a row whose blob is not there is a miss, and no harm.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from .digest import Digest

Kind = Literal["manifest", "blob"]
"""What a repository holds a digest as. A digest of the one kind is not served as the other."""


@dataclass(frozen=True, slots=True)
class TagKey:
    """A tag of a repository, in one of its variants (`media_type.variant`)."""

    repository: str
    tag: str
    variant: int = 0

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}#{self.variant}"


@dataclass(frozen=True, slots=True)
class TagEntry:
    """What a tag means, as the upstream last said."""

    digest: Digest
    media_type: str
    size: int
    first_seen_at: float
    """When the tag was first seen to mean this digest."""
    confirmed_at: float
    """When the upstream last said that it does."""
    failed_at: float | None = None
    """When asking the upstream last failed, if nothing has succeeded since."""
    failure: str | None = None
    """What went wrong then, in a line for people."""
    gone_at: float | None = None
    """When the upstream said that the tag is no more, if it has not come back since."""
    main: Digest | None = None
    """For a variant: what the main entry meant when this was resolved. Means it another, this is stale."""


@dataclass(frozen=True, slots=True)
class Link:
    """That a repository has some content, or is said to."""

    repository: str
    digest: Digest
    kind: Kind
    proved: bool
    """True for what was fetched through this repository, pushed or loaded into it, or confirmed by its
    upstream. False for what a manifest of it merely names: anyone can push a manifest that names anything."""
    media_type: str = ""
    size: int | None = None
    """Bytes; None where nobody has said."""
    named_by: Digest | None = None
    """The manifest that first named it here."""

    def renewed_by(self, link: Link) -> Link:
        """The law of `put_links`: what this becomes when `link` is put to the same place. Proved it stays,
        and a claim takes nothing from what is proved; what is known is not forgotten."""
        first, second = (self, link) if self.proved and not link.proved else (link, self)
        return Link(
            self.repository,
            self.digest,
            self.kind,
            proved=first.proved,
            media_type=first.media_type or second.media_type,
            size=second.size if first.size is None else first.size,
            named_by=self.named_by or link.named_by,
        )


@dataclass(frozen=True, slots=True)
class Negative:
    """That an upstream said no, remembered for a while."""

    reason: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class BlobRow:
    """A blob as the index knows it."""

    digest: Digest
    size: int
    fetched_at: float
    used_at: float
    """When a client last pulled it. Written in batches, so up to some seconds late."""
    kind: Kind = "blob"


@dataclass(frozen=True, slots=True)
class Totals:
    """Running sums over all blobs; manifests count as blobs here and are also given apart."""

    blobs: int
    bytes: int
    manifests: int
    manifest_bytes: int
    tags: int


class Index(Protocol):
    """The contract."""

    # tags
    async def tag(self, key: TagKey) -> TagEntry | None: ...

    async def put_tag(self, key: TagKey, entry: TagEntry) -> None: ...

    async def drop_tag(self, key: TagKey) -> None: ...

    def walk_tags(self, prefix: str = "", after: str = "") -> AsyncIterator[tuple[TagKey, TagEntry]]:
        """Tags in the order of `str(TagKey)`, those that begin with `prefix` and come after `after`.
        Reads page by page: a million tags are never in memory."""
        ...

    # links
    async def link(self, repository: str, digest: Digest, kind: Kind) -> Link | None: ...

    async def put_links(self, links: Iterable[Link]) -> None:
        """Adds or renews, as `Link.renewed_by` says. A proved link is never made a claimed one by this; what
        is known of type and size is not forgotten, and `named_by` stays the first."""
        ...

    async def drop_links(self, repository: str, digests: Iterable[Digest]) -> None: ...

    async def links_of(self, digest: Digest) -> tuple[Link, ...]:
        """Every repository's link to a digest."""
        ...

    # the graph
    async def put_children(self, parent: Digest, children: Iterable[Digest], subject: Digest | None) -> None:
        """What a manifest names, in its order, and what it refers to. Replaces what was put before."""
        ...

    async def children(self, parent: Digest) -> tuple[Digest, ...]: ...

    async def parents(self, child: Digest) -> tuple[Digest, ...]: ...

    async def referrers(self, subject: Digest) -> tuple[Digest, ...]: ...

    # blobs
    async def blob(self, digest: Digest) -> BlobRow | None: ...

    async def put_blob(self, row: BlobRow) -> None:
        """Adds or replaces; its last use is never set backwards."""
        ...

    async def drop_blob(self, digest: Digest) -> None:
        """Forgets a blob and what it names. Links to it stay: they say what a repository has, not what is
        here."""
        ...

    async def touch(self, used: Mapping[Digest, float]) -> None:
        """Last-use times, in a batch; never backwards; digests that have no row are passed over."""
        ...

    def walk_blobs(self, after: str = "") -> AsyncIterator[BlobRow]:
        """Blobs in the order of `str(digest)`, page by page."""
        ...

    async def totals(self) -> Totals: ...

    # refusals
    async def negative(self, key: str) -> Negative | None:
        """None also when its time is over."""
        ...

    async def put_negative(self, key: str, negative: Negative) -> None: ...

    async def drop_negatives(self, prefix: str) -> None: ...

    # what changed
    def generation(self, key: str) -> int:
        """Changes after each write to what `key` names, by any process: `str(TagKey)` for a tag,
        `f"{repository}@{digest}"` for a link, the key itself for a negative, `str(digest)` for a blob.
        A touch changes none: last-use times are late by nature, and no reason to read everything anew."""
        ...

    async def close(self) -> None: ...
