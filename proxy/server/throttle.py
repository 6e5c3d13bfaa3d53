"""What is repeated is said once a minute, with how often it happened."""

from __future__ import annotations

from typing import Final

from entrepot.cache.clock import Clock

_KEYS_LIMIT: Final = 1000


class Throttle:
    """Lets the first occurrence of a key through at once, and then one an interval."""

    def __init__(self, clock: Clock, interval: float = 60.0) -> None:
        self._clock = clock
        self._interval = interval
        self._keys: dict[str, tuple[float, int]] = {}

    def due(self, key: str) -> int | None:
        """Counts an occurrence. None: keep quiet. Else how many there were since the last time that it was
        said, this one included."""
        now = self._clock.monotonic()
        said_at, held_back = self._keys.pop(key, (None, 0))
        if said_at is not None and now - said_at < self._interval:
            self._keys[key] = (said_at, held_back + 1)
            return None
        if len(self._keys) >= _KEYS_LIMIT:
            del self._keys[next(iter(self._keys))]  # the one that has been quiet for longest
        self._keys[key] = (now, 0)
        return held_back + 1

    def overdue(self) -> list[tuple[str, int]]:
        """The keys whose interval has passed with something held back, each with how often; they are taken
        as said now. Keys with nothing held back are forgotten."""
        now = self._clock.monotonic()
        passed = [
            (key, held_back)
            for key, (said_at, held_back) in self._keys.items()
            if now - said_at >= self._interval
        ]
        for key, held_back in passed:
            del self._keys[key]
            if held_back:
                self._keys[key] = (now, 0)
        return [(key, held_back) for key, held_back in passed if held_back]
