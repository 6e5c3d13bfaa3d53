"""Blobs: held, on their way, or fetched; and given out only by a repository whose own they are."""

from __future__ import annotations

from entrepot.cache.digest import Digest
from entrepot.cache.errors import CacheError, ContentMismatch, SourceError, SourceMissing, StorageError
from entrepot.cache.flight import Flight, FlightReader
from entrepot.cache.held import Held
from entrepot.cache.index import BlobRow, Link
from entrepot.cache.reference import Repository

from ..errors import NotHere
from .manifests import Manifests
from .memory import Memory, negative_key
from .outcome import HEAD, HIT, JOINED, MISS, OFFLINE, PROVED, UNCACHED
from .parts import BlobAnswer, Parts, Pull
from .passing import KeptAsLongAsPossible, PassingReader


class Blobs:
    """Blobs by digest."""

    def __init__(self, parts: Parts, memory: Memory, manifests: Manifests) -> None:
        self._parts = parts
        self._memory = memory
        self._manifests = manifests

    async def get(self, pull: Pull, digest: Digest) -> BlobAnswer:
        """A blob. Returns as soon as its headers are known, never after its download. Raises a
        `SourceError`, `ContentMismatch`, or `NotHere` where nobody may be asked."""
        repository = str(pull.repository)
        proved = await self._memory.proved(repository, digest, "blob") is not None
        held = await self._held(digest)
        if held is not None and proved:
            return BlobAnswer(digest, held.size, held, OFFLINE if pull.upstream.offline else HIT)
        if not proved and await self._memory.proved(repository, digest, "manifest") is not None:
            raise SourceMissing("this digest is a manifest's here, not a blob's")
        if pull.upstream.offline:
            raise NotHere("blob")
        await self._manifests.refuse_if_remembered(negative_key("blob", repository, digest))
        if held is not None:
            await self._prove(pull, digest)
            return BlobAnswer(digest, held.size, held, PROVED)
        if pull.head:
            return await self._head(pull, digest, proved=proved)
        return await self._fetch(pull, digest, proved=proved)

    async def stored(self, digest: Digest, size: int, sources: list[str]) -> None:
        """A download is done: the blob's row, then a proved link for each repository that delivered it."""
        now = self._parts.clock.wall()
        await self._memory.put_blob(BlobRow(digest, size, now, now))
        await self._memory.put_links(Link(name, digest, "blob", proved=True, size=size) for name in sources)

    async def _held(self, digest: Digest) -> Held | None:
        held = self._parts.shelf.peek(digest)
        if held is not None:
            return held
        try:
            return await self._parts.shelf.find(digest)
        except StorageError as error:
            self._parts.observer.uncached(error)
            return None

    async def _prove(self, pull: Pull, digest: Digest) -> int | None:
        """One HEAD decides whether this repository has what another brought here. Returns the size that
        the upstream says."""
        repository = str(pull.repository)

        async def ask() -> int | None:
            try:
                size = await pull.upstream.client.head_blob(pull.repository.name, digest)
            except SourceMissing as error:
                await self._manifests.remember_missing(
                    pull.upstream, negative_key("blob", repository, digest), error
                )
                raise
            await self._memory.put_links([Link(repository, digest, "blob", proved=True, size=size)])
            return size

        return await self._parts.collapse.ask(f"blob:{repository}@{digest}", ask).answer()

    async def _head(self, pull: Pull, digest: Digest, *, proved: bool) -> BlobAnswer:
        """The size from a download under way, or from the upstream's HEAD; nothing is started."""
        flight = self._parts.flights.find(digest)
        if flight is not None and flight.total is not None and self._authorised(flight, pull, proved):
            return BlobAnswer(digest, flight.total, None, JOINED)
        try:
            size = await pull.upstream.client.head_blob(pull.repository.name, digest)
        except SourceMissing as error:
            key = negative_key("blob", str(pull.repository), digest)
            await self._manifests.remember_missing(pull.upstream, key, error)
            raise
        return BlobAnswer(digest, size, None, HEAD)

    @staticmethod
    def _authorised(flight: Flight, pull: Pull, proved: bool) -> bool:
        return proved or str(pull.repository) in flight.answered

    async def _fetch(self, pull: Pull, digest: Digest, *, proved: bool) -> BlobAnswer:
        """Joins the download of this digest, or begins it. What another repository's download brings is
        given out only once this one has been asked."""
        parts, source = self._parts, str(pull.repository)
        for attempt in (1, 2):
            joined = parts.flights.find(digest) is not None
            flight = await parts.flights.join(digest, source)
            if joined and source not in flight.sources:
                if not proved:
                    await self._prove(pull, digest)
                    proved = True
                await flight.add_source(source)
            try:
                await flight.started(source)
            except StorageError as error:
                return await self._pass(pull, digest, error)
            except (SourceError, ContentMismatch) as error:
                # What another's source said, in this process or the leading one, is not for this client.
                if attempt == 1 and source not in flight.errors and source not in flight.answered:
                    continue
                if isinstance(error, SourceMissing):
                    key = negative_key("blob", source, digest)
                    await self._manifests.remember_missing(pull.upstream, key, error)
                raise
            if not self._authorised(flight, pull, proved):
                await self._prove(pull, digest)
                await flight.add_source(source)
            reader = KeptAsLongAsPossible(FlightReader(flight, source), self._passing(pull, digest, flight))
            return BlobAnswer(digest, flight.total, reader, JOINED if joined else MISS)
        raise AssertionError("unreachable")

    def _passing(self, pull: Pull, digest: Digest, flight: Flight) -> PassingReader:
        return PassingReader(pull.upstream.client, pull.repository.name, digest, flight.total, flight)

    async def _pass(self, pull: Pull, digest: Digest, error: CacheError) -> BlobAnswer:
        """There is no room: the client gets a request of its own."""
        size = await pull.upstream.client.head_blob(pull.repository.name, digest)
        reader = PassingReader(pull.upstream.client, pull.repository.name, digest, size)
        return BlobAnswer(digest, size, reader, UNCACHED)


def source_repository(source: str) -> Repository:
    """The repository that a source's name stands for."""
    upstream, _, name = source.partition("/")
    return Repository(upstream, name)
