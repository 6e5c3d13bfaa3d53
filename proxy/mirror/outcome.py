"""How an answer came about, for its headers, the log and the metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

Name = Literal["hit", "miss", "joined", "revalidated", "stale", "head", "uncached", "negative", "error"]
"""The outcome as metrics and the log have it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer's story (RFC 9211). Times are seconds."""

    name: Name
    ttl: float | None = None
    forwarded: Literal["uri-miss", "stale", "request", "bypass"] | None = None
    forwarded_status: int | None = None
    stored: bool = False
    collapsed: bool = False
    detail: str | None = None
    age: float | None = None
    """Since the upstream last confirmed it."""
    warning: str | None = None
    """Said to clients when what they get is stale."""

    def cache_status(self) -> str:
        """The value of `Cache-Status`."""
        parts = ["entrepot"]
        if self.forwarded is None:
            parts.append("hit")
        else:
            parts.append(f"fwd={self.forwarded}")
        if self.forwarded_status is not None:
            parts.append(f"fwd-status={self.forwarded_status}")
        if self.ttl is not None:
            parts.append(f"ttl={math.ceil(self.ttl)}")
        if self.stored:
            parts.append("stored")
        if self.collapsed:
            parts.append("collapsed")
        if self.detail is not None:
            parts.append(f"detail={self.detail}")
        return "; ".join(parts)


HIT: Final = Outcome("hit")
MISS: Final = Outcome("miss", forwarded="uri-miss", forwarded_status=200, stored=True)
JOINED: Final = Outcome("joined", forwarded="uri-miss", forwarded_status=200, collapsed=True)
PROVED: Final = Outcome("revalidated", forwarded="request", forwarded_status=200, detail="proved")
HEAD: Final = Outcome("head", forwarded="request", forwarded_status=200)
UNCACHED: Final = Outcome("uncached", forwarded="bypass", forwarded_status=200, detail="no-room")
OFFLINE: Final = Outcome("hit", detail="offline")
