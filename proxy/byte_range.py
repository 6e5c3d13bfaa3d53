"""`Range` requests (RFC 9110, section 14)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

LIMIT: Final = 1024
"""Ranges served in one answer. Clients of zstd:chunked layers ask for hundreds."""

_SPEC: Final = re.compile(r"(\d{0,19})-(\d{0,19})")


class Unsatisfiable(Exception):
    """None of the ranges lies in the content, or there are too many of them."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes from `start` up to, not including, `end`."""

    start: int
    end: int

    @property
    def count(self) -> int:
        return self.end - self.start

    def content_range(self, size: int) -> str:
        """The value of `Content-Range`."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


def parse(header: str, size: int) -> tuple[ByteRange, ...] | None:
    """The ranges of a header on content of `size` bytes, in the order asked for, overlapping ones merged.
    None where the header is to be ignored: another unit, or not by the grammar (14.2). Raises
    `Unsatisfiable` where nothing asked for is there (14.1.2), and for more than `LIMIT` ranges."""
    unit, equals, specs = header.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    wanted: list[ByteRange] = []
    count = 0
    for item in specs.split(","):
        spec = item.strip(" \t")
        if not spec:
            continue  # empty elements of a list are to be passed over (5.6.1.2)
        match = _SPEC.fullmatch(spec)
        if match is None or match.group() == "-":
            return None
        count += 1
        first, last = match.groups()
        if not first:
            start, end = max(0, size - int(last)), size
            if int(last) == 0:
                continue
        else:
            start, end = int(first), int(last) + 1 if last else size
            if last and int(last) < int(first):
                return None
        if start < min(end, size):
            wanted.append(ByteRange(start, min(end, size)))
    if count == 0:
        return None
    if count > LIMIT or not wanted:
        raise Unsatisfiable
    return _merged(wanted)


def _merged(ranges: list[ByteRange]) -> tuple[ByteRange, ...]:
    """Overlapping ranges as one, standing where the first of them stood: overlaps are how a small request
    makes a large answer (RFC 9110, 17.15)."""
    order = sorted(range(len(ranges)), key=lambda position: ranges[position].start)
    runs: list[tuple[int, ByteRange]] = []
    for position in order:
        item = ranges[position]
        if runs and item.start < runs[-1][1].end:
            place, run = runs[-1]
            runs[-1] = (min(place, position), ByteRange(run.start, max(run.end, item.end)))
        else:
            runs.append((position, item))
    return tuple(run for _, run in sorted(runs, key=lambda placed: placed[0]))
