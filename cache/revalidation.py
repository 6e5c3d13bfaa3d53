"""When a tag may be answered from what is held, and when its upstream must be asked. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from .index import TagEntry


class Verdict(Enum):
    """What to do with a request for a tag."""

    MISS = auto()
    """Nothing is known of it: ask, and wait."""
    FRESH = auto()
    """Answer without asking."""
    ASK = auto()
    """Ask, and wait; what is held may serve where the asking fails (`usable`)."""
    BEHIND = auto()
    """Answer with what is held, and ask behind it: the last asking failed, so nobody waits for the next."""
    STALE = auto()
    """Answer with what is held, without asking: it failed only just now."""
    FAILED = auto()
    """It failed only just now, and nothing may be served."""
    GONE = auto()
    """The upstream said only just now that the tag is no more."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Seconds."""

    ttl: float
    """A tag confirmed less than this ago is fresh. 0: ask each time, once for all who ask together."""
    negative_ttl: float
    """A no, or a failure, is remembered this long."""
    stale_if_error: float
    """How long after its last confirmation a tag may be served while its upstream fails."""
    serve_gone: bool = False
    """Whether a tag that the upstream has deleted is served on."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and whether what is held may serve if asking fails."""

    verdict: Verdict
    usable: bool
    fresh_for: float = 0.0
    """Seconds for which it stays fresh."""


def judge(
    entry: TagEntry | None, rules: Rules, now: float, arrived_at: float, *, outdated: bool = False
) -> Judgement:
    """What to do about a tag at `now` (wall-clock seconds) for a request that arrived at `arrived_at`.
    A clock that jumped back makes nothing fresh for longer than its time: what was confirmed in the future
    is asked for again. `outdated`: what it was resolved from has changed, so that its age is no excuse."""
    if entry is None:
        return Judgement(Verdict.MISS, usable=False)
    age = now - entry.confirmed_at
    usable = age <= rules.stale_if_error
    if entry.gone_at is not None:
        usable = usable and rules.serve_gone
        if 0 <= now - entry.gone_at < rules.negative_ttl:
            return Judgement(Verdict.STALE if usable else Verdict.GONE, usable)
        if entry.failed_at is None:
            return Judgement(Verdict.ASK, usable)
    elif not outdated and (0 <= age < rules.ttl or arrived_at <= entry.confirmed_at <= now):
        return Judgement(Verdict.FRESH, usable=True, fresh_for=max(0.0, rules.ttl - age))
    if entry.failed_at is not None:
        if 0 <= now - entry.failed_at < rules.negative_ttl:
            return Judgement(Verdict.STALE if usable else Verdict.FAILED, usable)
        return Judgement(Verdict.BEHIND if usable else Verdict.ASK, usable)
    return Judgement(Verdict.ASK, usable)
