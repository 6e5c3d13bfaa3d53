"""A blob as it comes from an upstream."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Self

from entrepot.cache.errors import SourceUnavailable

from .exchange import check_encoding
from .transport import Answer, Cut

_CONTENT_RANGE: Final = re.compile(r"bytes\s+(\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.IGNORECASE | re.ASCII)
_UNSATISFIED: Final = re.compile(r"bytes\s+\*/(\d{1,19})", re.IGNORECASE | re.ASCII)


class BlobStream:
    """One answer, read once from front to back. Whoever has it closes it."""

    def __init__(
        self,
        answer: Answer,
        asked: int,
        end: int | None,
        *,
        received: Callable[[int], None],
        done: Callable[[], None],
    ) -> None:
        """`asked` and `end`: the range that was asked for. `received` is told of bytes as they come, and
        `done` once, when it has been closed. Raises `SourceUnavailable` where the answer is not what was
        asked for."""
        check_encoding(answer)
        self._answer = answer
        self._received = received
        self._done = done
        self._open = True
        self.start = 0
        """The offset of the first byte that comes: 0 where the upstream cannot start in the middle."""
        self.total = answer.length
        """The size of the whole blob as the upstream says, in bytes."""
        self._came = 0
        self._expected = answer.length
        if answer.status == 206:
            first, behind, self.total = content_range(answer)
            if first != asked:
                raise SourceUnavailable(
                    f"{answer.host}: asked for bytes from {asked} on, it sends from {first}"
                )
            self.start = first
            self._expected = (behind if end is None else min(behind, end)) - first

    async def read(self) -> bytes:
        """The next bytes, at most 256 KiB; empty at the end. Raises `SourceTimeout`, `SourceUnavailable`."""
        if not self._open:
            return b""
        try:
            piece = await self._answer.read()
        except Cut:
            raise self._cut() from None
        left = None if self._expected is None else self._expected - self._came
        if left is not None and len(piece) > left:
            piece = piece[:left]  # more than was asked for
        self._came += len(piece)
        self._received(len(piece))
        if piece and left != len(piece):
            return piece
        if not piece and left:
            raise self._cut()
        await self.close()
        return piece

    async def close(self) -> None:
        """Ends it where it is. Closing again does nothing."""
        if self._open:
            self._open = False
            self._answer.close()
            self._done()

    aclose = close

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _cut(self) -> SourceUnavailable:
        whole = "an unknown number of" if self._expected is None else self._expected
        return SourceUnavailable(f"{self._answer.host}: cut off at {self._came} of {whole} bytes")


def content_range(answer: Answer) -> tuple[int, int, int | None]:
    """First byte, the one behind the last, and the whole's size of a 206 (RFC 9110, 14.4). Raises
    `SourceUnavailable`."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if match is not None:
        first, last = int(match[1]), int(match[2])
        total = None if match[3] == "*" else int(match[3])
        if first <= last and (total is None or last < total):
            return first, last + 1, total
    answer.close()
    raise SourceUnavailable(f"{answer.host}: answered 206 and does not say which range it sends")


def unsatisfied_size(answer: Answer) -> int | None:
    """The whole's size that a 416 tells."""
    match = _UNSATISFIED.fullmatch(answer.headers.get("Content-Range", "").strip())
    return int(match[1]) if match else None
