"""Trying again: what is worth it, how long to wait, and what `Retry-After` means."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

from entrepot.cache.errors import SourceError

T = TypeVar("T")

WORTH_ANOTHER_TRY: Final = frozenset({500, 502, 503, 504})
TRIES: Final = 3
_BASE: Final = 0.25
"""Seconds: the longest first wait; each further one may be twice as long."""
_PATIENCE: Final = 2.0
"""Seconds. Whoever asks us to wait longer is left alone, and so is our client."""
_SHORTEST: Final = 1.0
_LONGEST: Final = 3600.0
_SECONDS: Final = re.compile(r"[0-9]+")


class Again(Exception):
    """`error` happened, and may be over in a moment."""

    def __init__(self, error: SourceError, retry_after: float | None = None) -> None:
        super().__init__(error.detail)
        self.error = error
        self.retry_after = retry_after


class Retry:
    """Tries with exponential backoff and full jitter. The sleep and the dice are passed in for tests."""

    def __init__(
        self,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._sleep = sleep
        self._dice = dice

    async def __call__(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of the first attempt that does not raise `Again`; raises the last one's error."""
        longest = _BASE
        for _ in range(TRIES - 1):
            try:
                return await attempt()
            except Again as again:
                asked = again.retry_after or 0.0
                if asked > _PATIENCE:
                    raise again.error from None
            await self._sleep(max(asked, self._dice() * longest))
            longest *= 2
        try:
            return await attempt()
        except Again as again:
            raise again.error from None


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a `Retry-After` asks for (RFC 9110, 10.2.3), a date counted from the wall time `now`.
    Between one second and an hour, whatever it says; None for what is neither a number nor a date."""
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        seconds = float(text[:12])
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, TypeError, IndexError, OverflowError, OSError):
            return None
    return min(max(seconds, _SHORTEST), _LONGEST)
