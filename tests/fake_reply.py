"""A request as the fake server saw it, its reply before it is sent, and the rules that change it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import parse_qs, unquote

from multidict import CIMultiDict

CHUNK = 64 * 1024


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    target: str
    """Path and query as they stood in the request line."""
    headers: CIMultiDict[str]
    body: bytes = b""

    @property
    def path(self) -> str:
        return unquote(self.target.partition("?")[0])

    @property
    def raw_query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.raw_query, keep_blank_values=True)

    @property
    def range(self) -> str | None:
        return self.headers.get("Range")

    @property
    def authorization(self) -> str | None:
        return self.headers.get("Authorization")

    @property
    def accept(self) -> list[str]:
        """The single media types of all `Accept` lines, without their parameters."""
        lines = self.headers.getall("Accept", [])
        return [item.partition(";")[0].strip() for line in lines for item in line.split(",")]

    def __repr__(self) -> str:
        return f"<{self.method} {self.target}{' ' + self.range if self.range else ''}>"


class Content(Protocol):
    """Bytes that can be read from anywhere."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, end: int) -> Iterator[bytes]: ...


@dataclass(frozen=True)
class Held:
    """Content that is in memory."""

    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, start: int, end: int) -> Iterator[bytes]:
        for at in range(start, end, CHUNK):
            yield self.content[at : min(at + CHUNK, end)]


@dataclass
class Reply:
    """What the server is about to send. Faults change it."""

    status: int = 200
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    content: Content = field(default_factory=lambda: Held(b""))
    span: tuple[int, int] | None = None
    """The part of the content to send; None for the whole."""
    allow_range: bool = False
    """Whether the request's `Range` is to be looked at."""
    head: bool = False
    declared: int | None = None
    """`Content-Length`, where it lies."""
    chunked: bool = False
    before_headers: asyncio.Event | None = None
    pause: tuple[int, asyncio.Event] | None = None
    """After how many bytes of this body to wait, and for what."""
    cut: tuple[int, bool] | None = None
    """After how many bytes of this body to end the connection, and whether by a reset."""
    raw: bytes | None = None
    """Sent instead of everything, after which the connection ends."""
    bytes_per_second: float | None = None
    served: asyncio.Event | None = None
    """Set once this answer has been sent, or cut."""

    @property
    def body(self) -> bytes:
        """The whole content, for a fault that replaces it."""
        return b"".join(self.content.read(0, self.content.size))


def reply(status: int, body: bytes = b"", media_type: str = "application/json", **headers: str) -> Reply:
    """An answer of bytes at hand. Underscores in the names of headers become hyphens."""
    made = Reply(status, content=Held(body))
    made.headers["Content-Type"] = media_type
    for name, value in headers.items():
        made.headers[name.replace("_", "-")] = value
    return made


Action = Callable[[Reply], Reply | None]
"""Changes the reply in place, or returns another."""
Match = Callable[[Seen], bool] | tuple[str | None, str] | None
"""A predicate; or method (None: any) and a part of the path; or None for every request."""


@dataclass
class Fault:
    """A rule: which requests get which treatment, and how many of them (None: all). The first rule that
    matches and has turns left is applied, alone; several actions in a sequence one after another."""

    match: Match
    action: Action | Sequence[Action]
    times: int | None = None
    hits: int = 0
    """How many requests it has been applied to."""

    def takes(self, seen: Seen) -> bool:
        if self.times is not None and self.hits >= self.times:
            return False
        if self.match is None:
            return True
        if isinstance(self.match, tuple):
            method, part = self.match
            return method in (None, seen.method) and part in seen.path
        return self.match(seen)

    def apply(self, made: Reply) -> Reply:
        self.hits += 1
        for action in self.action if isinstance(self.action, Sequence) else (self.action,):
            made = action(made) or made
        return made


def apply_range(made: Reply, header: str) -> None:
    """One range of bytes (RFC 9110, section 14); several, or another unit, get the whole."""
    unit, _, spec = header.partition("=")
    if unit != "bytes" or "," in spec:
        return
    size = made.content.size
    first, _, last = spec.strip().partition("-")
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= size or start >= end:
        made.status, made.span = 416, (0, 0)
        made.headers["Content-Range"] = f"bytes */{size}"
        return
    made.status, made.span = 206, (start, end)
    made.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
