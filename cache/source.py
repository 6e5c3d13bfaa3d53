"""What fills a download: the contract between a flight and whoever speaks to upstreams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .digest import Digest


class Stream(Protocol):
    """One answer of a source, read once from front to back."""

    @property
    def start(self) -> int:
        """The offset of the first byte that comes. Before what was asked for where the source cannot start
        in the middle."""
        ...

    @property
    def total(self) -> int | None:
        """The size of the whole content as the source says, in bytes."""
        ...

    async def read(self) -> bytes:
        """The next bytes; empty at the end. Raises a `SourceError` where the answer breaks off."""
        ...

    async def close(self) -> None: ...


class Source(Protocol):
    """One place to get content from."""

    @property
    def name(self) -> str:
        """`UPSTREAM/repository`, the same in every process."""
        ...

    @property
    def distrust(self) -> float:
        """For how many seconds wrong bytes are held against it."""
        ...

    async def open(self, digest: Digest, start: int) -> Stream:
        """Asks for the content from `start`. Raises a `SourceError`."""
        ...


Sources = Callable[[str], Source | None]
"""The source of a name; None where it is not configured any more."""
