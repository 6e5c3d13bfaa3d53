"""Time as a value that is passed in, so that a test can move it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """Two times: one that people and upstreams share, and one that only goes forward."""

    def wall(self) -> float:
        """Seconds since 1970, as other machines see it. May jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment at this machine's start, the same for all its processes."""
        ...


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The machine's own clock."""

    def wall(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass(slots=True)
class ManualClock:
    """A clock that a test moves by hand."""

    now: float = 1_700_000_000.0
    since_start: float = 1_000.0

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.since_start

    def advance(self, seconds: float) -> None:
        """Lets `seconds` pass on both times."""
        self.now += seconds
        self.since_start += seconds
