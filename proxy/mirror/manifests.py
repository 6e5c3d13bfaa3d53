"""Manifests by digest: fetched once, checked, kept byte for byte with the type they came with."""

from __future__ import annotations

from dataclasses import dataclass

from entrepot.cache.descriptor import Descriptor
from entrepot.cache.digest import Digest
from entrepot.cache.errors import InvalidManifest, SourceMissing, SourceUnavailable, StorageError
from entrepot.cache.held import Held
from entrepot.cache.index import BlobRow, Kind, Link, Negative
from entrepot.cache.manifest import SIZE_LIMIT, Manifest
from entrepot.cache.media_type import MAIN_TYPES, SCHEMA_1_TYPES, bare
from entrepot.cache.reference import Repository

from ..errors import NotHere
from .memory import Memory, negative_key
from .outcome import HEAD, HIT, JOINED, MISS, OFFLINE, PROVED, Outcome
from .parts import ManifestAnswer, Parts, Pull, Upstream

SCHEMA_1 = (
    "the upstream has this only as a Docker schema 1 manifest, which no current client takes; "
    "push the image again with a current tool"
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A manifest that is at hand and proved for the repository it was asked for."""

    digest: Digest
    media_type: str
    held: Held


class Manifests:
    """Manifests by digest, and the keeping of all manifests."""

    def __init__(self, parts: Parts, memory: Memory) -> None:
        self._parts = parts
        self._memory = memory

    async def get(self, pull: Pull, digest: Digest) -> ManifestAnswer:
        """A manifest by digest. Raises a `SourceError`, or `NotHere` where nobody may be asked."""
        repository = str(pull.repository)
        kept = await self.kept(pull.repository, digest)
        if kept is not None:
            outcome = OFFLINE if pull.upstream.offline else HIT
            return self._answer(pull, kept, outcome)
        if pull.upstream.offline:
            raise NotHere("manifest")
        await self.refuse_if_remembered(negative_key("manifest", repository, digest))
        held = await self._held(digest)
        if held is not None or pull.head:
            return await self._ask_by_head(pull, digest, held)
        asking = self._parts.collapse.ask(
            f"manifest:{repository}@{digest}", lambda: self.fetch(pull.upstream, pull.repository, digest)
        )
        kept = await asking.answer()
        return self._answer(pull, kept, JOINED if asking.joined else MISS)

    def _answer(self, pull: Pull, kept: Kept, outcome: Outcome) -> ManifestAnswer:
        content = None if pull.head else kept.held.body
        return ManifestAnswer(kept.digest, kept.media_type, kept.held.size, content, outcome)

    async def _ask_by_head(self, pull: Pull, digest: Digest, held: Held | None) -> ManifestAnswer:
        """One HEAD decides whether this repository has what another brought here; and answers a HEAD of
        what is not here at all, at no cost and keeping nothing."""
        repository = str(pull.repository)
        try:
            head = await pull.upstream.client.head_manifest(pull.repository.name, str(digest), MAIN_TYPES)
        except SourceMissing as error:
            await self.remember_missing(pull.upstream, negative_key("manifest", repository, digest), error)
            raise
        media_type = bare(head.media_type)
        if media_type in SCHEMA_1_TYPES:
            raise SourceMissing(SCHEMA_1)
        if held is None:
            return ManifestAnswer(digest, media_type, head.size, None, HEAD)
        await self._memory.put_links(
            [Link(repository, digest, "manifest", proved=True, media_type=media_type, size=held.size)]
        )
        return self._answer(pull, Kept(digest, media_type, held), PROVED)

    async def kept(self, repository: Repository, digest: Digest) -> Kept | None:
        """What is here and proved for this repository."""
        link = await self._memory.proved(str(repository), digest, "manifest")
        if link is None:
            return None
        held = self._parts.shelf.peek(digest)
        if held is None or held.body is None:
            held = await self._held(digest)
        return None if held is None else Kept(digest, link.media_type, held)

    async def _held(self, digest: Digest) -> Held | None:
        try:
            held = await self._parts.shelf.find(digest, whole_up_to=SIZE_LIMIT)
        except StorageError as error:
            self._parts.observer.uncached(error)
            return None
        return held if held is not None and held.body is not None else None

    async def fetch(self, upstream: Upstream, repository: Repository, digest: Digest) -> Kept:
        """Gets a manifest by digest, once for all processes, and keeps it. Raises a `SourceError`."""
        async with self._parts.leases.lease(f"manifest:{repository}@{digest}"):
            kept = await self.kept(repository, digest)
            if kept is not None:
                return kept
            try:
                fetched = await upstream.client.get_manifest(repository.name, str(digest), MAIN_TYPES)
            except SourceMissing as error:
                await self.remember_missing(
                    upstream, negative_key("manifest", str(repository), digest), error
                )
                raise
            return await self.keep(repository, digest, fetched.content, fetched.media_type)

    async def keep(self, repository: Repository, digest: Digest, content: bytes, media_type: str) -> Kept:
        """Checks a manifest that this repository delivered, and keeps it: blob, links, in this order. Where
        it cannot be kept on disk it is kept in memory. Raises `SourceUnavailable` for what is no manifest
        or not this one, `SourceMissing` for schema 1."""
        parts = self._parts
        if not digest.matches(content):
            parts.observer.mismatch(str(repository))
            raise SourceUnavailable(f"{repository} gave bytes that are not {digest}")
        try:
            manifest = Manifest.parse(content, media_type)
        except InvalidManifest as error:
            raise SourceUnavailable(f"{repository} gave something that is no manifest: {error}") from error
        if manifest.is_schema_1:
            raise SourceMissing(SCHEMA_1)
        try:
            await parts.room(len(content))
            await parts.store.put(digest, content)
        except StorageError as error:
            parts.observer.uncached(error)
        else:
            now = parts.clock.wall()
            await self._memory.put_blob(BlobRow(digest, len(content), now, now, "manifest"))
        await self._memory.put_links(self._links(str(repository), digest, manifest))
        children = [child.digest for child in (*manifest.manifests, *manifest.blobs)]
        subject = None if manifest.subject is None else manifest.subject.digest
        await self._memory.put_children(digest, children, subject)
        return Kept(digest, manifest.media_type, parts.shelf.keep(digest, content))

    def _links(self, repository: str, digest: Digest, manifest: Manifest) -> list[Link]:
        """What was fetched is proved; what it names is only claimed: anyone can push a manifest that names
        anything. Its `subject` makes no link at all."""
        media_type, size = manifest.media_type, len(manifest.content)

        def claimed(child: Descriptor, kind: Kind) -> Link:
            return Link(repository, child.digest, kind, False, child.media_type, child.size, digest)

        return [
            Link(repository, digest, "manifest", proved=True, media_type=media_type, size=size),
            *(claimed(child, "manifest") for child in manifest.manifests),
            *(claimed(child, "blob") for child in manifest.blobs),
        ]

    # refusals

    async def refuse_if_remembered(self, key: str) -> None:
        """Raises `SourceMissing` where the upstream has said so only just now."""
        negative = await self._memory.negative(key)
        if negative is not None:
            raise SourceMissing(negative.reason)

    async def remember_missing(self, upstream: Upstream, key: str, error: SourceMissing) -> None:
        now = self._parts.clock.wall()
        seconds = upstream.config.negative_ttl
        if seconds > 0:
            await self._memory.put_negative(key, Negative(error.detail, now, now + seconds))
