"""What the use cases work with, and the values that go between them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from entrepot.cache.blob_store import BlobStore, Reader
from entrepot.cache.clock import Clock
from entrepot.cache.digest import Digest
from entrepot.cache.errors import IndexUnavailable, StorageError
from entrepot.cache.flights import Flights
from entrepot.cache.held import Shelf
from entrepot.cache.index import Index
from entrepot.cache.lease import Leases
from entrepot.cache.reference import Repository

from ..config import UpstreamConfig
from ..upstream.client import UpstreamClient
from .collapse import Collapse
from .outcome import Outcome


class Observer(Protocol):
    """Who counts what the mirror does."""

    def revalidated(self, upstream: str, result: str) -> None:
        """A tag's upstream was asked: `unchanged`, `moved`, `new`, `gone`, `refused`, `limited`, `failed`."""
        ...

    def served_stale(self, upstream: str, reason: str) -> None: ...

    def mismatch(self, source: str) -> None:
        """Bytes were not what their digest promises. `source` is `UPSTREAM/repository`."""
        ...

    def uncached(self, error: StorageError) -> None:
        """Something could not be kept, and went through."""
        ...

    def unindexed(self, error: IndexUnavailable) -> None:
        """The index could not be read or written, and the pull went on without it."""
        ...


@dataclass(frozen=True, slots=True)
class Upstream:
    """A configured upstream and the client that asks it."""

    config: UpstreamConfig
    client: UpstreamClient
    offline: bool

    @property
    def name(self) -> str:
        return self.config.name


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that the use cases share in one process."""

    index: Index
    store: BlobStore
    shelf: Shelf
    flights: Flights
    leases: Leases
    clock: Clock
    collapse: Collapse
    upstreams: Mapping[str, Upstream]
    room: Callable[[int], Awaitable[None]]
    observer: Observer


@dataclass(frozen=True, slots=True)
class Pull:
    """A client's request, as far as it matters here."""

    upstream: Upstream
    repository: Repository
    head: bool
    arrived_at: float
    """Wall-clock seconds."""
    accept: tuple[str, ...] = ()
    """The `Accept` lines as they came."""


@dataclass(frozen=True, slots=True)
class ManifestAnswer:
    """A manifest, or for HEAD at least what a following GET gets."""

    digest: Digest
    media_type: str
    size: int | None
    content: bytes | None
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class BlobAnswer:
    """A blob; `reader` is None for a HEAD of what is not held."""

    digest: Digest
    size: int | None
    reader: Reader | None
    outcome: Outcome
