"""What is in a cache, and taking things out of it, for the people who look after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from .blob_store import BlobStore
from .digest import Digest
from .index import Index, Kind, TagEntry, TagKey, Totals
from .media_type import MAIN_VARIANT


@dataclass(frozen=True, slots=True)
class Content:
    """One piece of an image."""

    digest: Digest
    kind: Kind
    media_type: str
    size: int | None
    held: bool
    proved: bool


@dataclass(frozen=True, slots=True)
class Image:
    """An image as the cache has it: what its tag means, if it was asked for by tag, and all that it is made
    of, from the top."""

    repository: str
    digest: Digest
    entry: TagEntry | None
    contents: tuple[Content, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """What removing an image took away. Blobs that another repository has stay, and are not counted."""

    tags: int
    blobs: int
    bytes: int


class Inventory:
    """Looks at a cache through its index and its store, and nothing else."""

    def __init__(self, index: Index, store: BlobStore) -> None:
        self._index = index
        self._store = store

    async def tags(self, prefix: str = "") -> AsyncIterator[tuple[TagKey, TagEntry]]:
        """Every tag of the repositories whose names begin so, in order. Page by page, however many."""
        async for key, entry in self._index.walk_tags(prefix):
            if key.variant == MAIN_VARIANT:
                yield key, entry

    async def totals(self) -> Totals:
        return await self._index.totals()

    async def image(self, repository: str, reference: str | Digest) -> Image | None:
        """What is known of an image; None where nothing is."""
        entry = None
        if isinstance(reference, str):
            entry = await self._index.tag(TagKey(repository, reference))
            if entry is None:
                return None
            digest = entry.digest
        else:
            digest = reference
            if await self._index.link(repository, digest, "manifest") is None:
                return None
        contents = [await self._content(repository, part, kind) async for part, kind in self._parts(digest)]
        return Image(repository, digest, entry, tuple(contents))

    async def _parts(self, top: Digest) -> AsyncIterator[tuple[Digest, Kind | None]]:
        """A manifest and all that it leads to, from the top, each once."""
        seen: set[Digest] = set()
        waiting: list[tuple[Digest, Kind | None]] = [(top, "manifest")]
        while waiting:
            digest, kind = waiting.pop(0)
            if digest in seen:
                continue
            seen.add(digest)
            yield digest, kind
            waiting += [(child, None) for child in await self._index.children(digest)]

    async def _content(self, repository: str, digest: Digest, kind: Kind | None) -> Content:
        link = None
        for candidate in [kind] if kind else list[Kind](["manifest", "blob"]):
            link = link or await self._index.link(repository, digest, candidate)
        size = await self._store.stat(digest)
        return Content(
            digest,
            link.kind if link else kind or "blob",
            link.media_type if link else "",
            size if size is not None else link.size if link else None,
            held=size is not None,
            proved=link.proved if link else False,
        )

    async def remove(self, repository: str, reference: str | Digest) -> Removed | None:
        """Takes an image out of a repository: its tag in all variants, its links, and every blob that no
        other image leads to and no other repository has. None where nothing is known of it."""
        tops: set[Digest] = set()
        others: set[Digest] = set()
        keys: list[TagKey] = []
        async for key, entry in self._index.walk_tags(f"{repository}:"):
            if key.repository != repository:
                continue
            if key.tag == reference:
                keys.append(key)
                tops.add(entry.digest)
            else:
                others.add(entry.digest)
        if isinstance(reference, Digest):
            if await self._index.link(repository, reference, "manifest") is None:
                return None
            tops.add(reference)
        if not tops:
            return None
        for key in keys:
            await self._index.drop_tag(key)
        unwanted = await self._reachable(tops) - await self._reachable(others)
        # A manifest pulled by digest alone has no tag, and may need the same layers.
        for digest in list(unwanted):
            parents = set(await self._index.parents(digest)) - unwanted
            if any([await self._index.link(repository, parent, "manifest") for parent in parents]):
                unwanted.discard(digest)
        await self._index.drop_links(repository, unwanted)
        blobs = freed = 0
        for digest in unwanted:
            if any(link.proved for link in await self._index.links_of(digest)):
                continue
            # The file first: its row's generation then tells every process to look again.
            size = await self._store.delete(digest)
            await self._index.drop_blob(digest)
            blobs += size > 0
            freed += size
        return Removed(len(keys), blobs, freed)

    async def _reachable(self, tops: Iterable[Digest]) -> set[Digest]:
        found: set[Digest] = set()
        for top in tops:
            if top not in found:
                found.update([digest async for digest, _ in self._parts(top)])
        return found
