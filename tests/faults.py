"""What can be done to a reply: the actions of a `Fault`, each made by a function that says how much of it."""

from __future__ import annotations

import asyncio
import gzip as gzip_module
from collections.abc import Iterator
from dataclasses import dataclass

from fake_http import Action, Content, Held, Reply, reply


def status(code: int, body: bytes = b"", media_type: str = "application/json", **headers: str) -> Action:
    """Another status, with headers such as `Retry_After="7"`."""
    return lambda _: reply(code, body, media_type, **headers)


def html_page(code: int = 200) -> Action:
    """A captive portal, a login page, a proxy's apology."""
    page = b"<!DOCTYPE html><html><body>Please log in</body></html>"
    return lambda _: reply(code, page, "text/html; charset=utf-8")


def answer(made: Reply) -> Action:
    """This answer instead."""

    def act(_: Reply) -> Reply:
        return made

    return act


def hang(release: asyncio.Event) -> Action:
    """No headers until `release` is set."""

    def act(made: Reply) -> None:
        made.before_headers = release

    return act


def hang_after(count: int, release: asyncio.Event) -> Action:
    """Headers and `count` bytes of the body, then nothing until `release` is set."""

    def act(made: Reply) -> None:
        made.pause = (count, release)

    return act


def cut_after(count: int, *, reset: bool = False) -> Action:
    """Ends the connection after `count` bytes of the body; by a reset, or as a process does that ends."""

    def act(made: Reply) -> None:
        made.cut = (count, reset)

    return act


def no_answer() -> Action:
    """The connection ends without a byte."""
    return raw(b"")


def raw(data: bytes) -> Action:
    """These bytes instead of an answer."""

    def act(made: Reply) -> None:
        made.raw = data

    return act


def slow(bytes_per_second: float) -> Action:
    def act(made: Reply) -> None:
        made.bytes_per_second = bytes_per_second

    return act


def notify(event: asyncio.Event) -> Action:
    """Sets `event` once the answer has been sent, or cut."""

    def act(made: Reply) -> None:
        made.served = event

    return act


def wrong_bytes(at: int = 0) -> Action:
    """One bit of the content is another."""

    def act(made: Reply) -> None:
        made.content = _Flipped(made.content, at)

    return act


def too_much(extra: bytes = b"?") -> Action:
    """The content goes on after its end, and `Content-Length` says so."""

    def act(made: Reply) -> None:
        made.content = Held(made.body + extra)

    return act


def too_little(missing: int = 1) -> Action:
    """The content ends early, and `Content-Length` says so."""

    def act(made: Reply) -> None:
        made.content = Held(made.body[: max(0, made.content.size - missing)])

    return act


def declare_length(length: int) -> Action:
    """`Content-Length` lies; if it promises more than there is, the connection ends after what there is."""

    def act(made: Reply) -> None:
        made.declared = length

    return act


def no_length() -> Action:
    """Chunked, or a HEAD without a length."""

    def act(made: Reply) -> None:
        made.chunked = True

    return act


def gzip() -> Action:
    """Encoded, though nobody asked for it."""

    def act(made: Reply) -> None:
        made.content = Held(gzip_module.compress(made.body))
        made.headers["Content-Encoding"] = "gzip"
        made.allow_range = False

    return act


def ignore_range() -> Action:
    def act(made: Reply) -> None:
        made.allow_range = False

    return act


def content_range(value: str, code: int = 206) -> Action:
    """The status and `Content-Range` say this, whatever was asked for; the whole content is sent."""

    def act(made: Reply) -> None:
        made.allow_range = False
        made.status = code
        made.headers["Content-Range"] = value

    return act


def with_header(name: str, value: str) -> Action:
    def act(made: Reply) -> None:
        made.headers[name] = value

    return act


def without_header(name: str) -> Action:
    """An answer without this header; ECR leaves out `Docker-Content-Digest`."""

    def act(made: Reply) -> None:
        if name.lower() == "content-length":
            made.chunked = True
        made.headers.popall(name, None)

    return act


def redirect(location: str, code: int = 307) -> Action:
    """Elsewhere; the location may be relative."""
    return lambda _: reply(code, b"", Location=location)


@dataclass(frozen=True)
class _Flipped:
    content: Content
    at: int

    @property
    def size(self) -> int:
        return self.content.size

    def read(self, start: int, end: int) -> Iterator[bytes]:
        position = start
        for piece in self.content.read(start, end):
            if position <= self.at < position + len(piece):
                changed = bytearray(piece)
                changed[self.at - position] ^= 1
                yield bytes(changed)
            else:
                yield piece
            position += len(piece)
