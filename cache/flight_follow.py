"""Following a download that another process leads."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from .blob_store import OpenFile
from .flight import Flight, failure_of
from .flight_state import FlightState, Phase
from .partials import Followed
from .threads import off_loop

LOOK_EVERY: Final = 0.5
"""Seconds after which a follower looks whether its leader still lives. Bytes wake it at once."""
_LOOK_UNWOKEN: Final = 0.02
"""The same where the system has nothing that wakes, and before a leader has written its first state."""


class Follower:
    """Makes another process's state the view of a flight."""

    def __init__(self, flight: Flight, claim: Followed) -> None:
        self._flight = flight
        self._context = flight.context
        self._claim = claim

    async def follow(self) -> None:
        """Returns when the download is over, or when that process no longer leads."""
        context, state, page = self._context, self._claim.state, self._claim.page
        file: OpenFile | None = None
        if page is not None and state is not None:
            file = await off_loop(context.executor, context.partials.reader, self._flight.digest, state.epoch)
        if page is None or state is None or file is None:
            await asyncio.sleep(_LOOK_UNWOKEN)
            return
        look_every = LOOK_EVERY if context.watcher.waking else _LOOK_UNWOKEN
        with context.watcher.watching(context.partials.state_path(self._flight.digest)) as woken:
            looked_at = context.clock.monotonic()
            while True:
                woken.clear()
                current = page.load()
                if current is not None:
                    self._take(current, file)
                if self._flight.over:
                    return
                now = context.clock.monotonic()
                if now - looked_at >= look_every:
                    looked_at = now
                    if not await self._led(page.inode, current, state.epoch, now):
                        return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(look_every):
                        await woken.wait()

    async def _led(self, inode: int, state: FlightState | None, epoch: int, now: float) -> bool:
        """Whether the leader still lives, and still leads."""
        partials, executor = self._context.partials, self._context.executor
        if state is not None and state.phase == Phase.FILLING and now - state.beat_at > partials.hung_after:
            return False
        path = partials.state_path(self._flight.digest)
        try:
            same = await off_loop(executor, path.stat)
        except FileNotFoundError:
            return False
        if same.st_ino != inode:
            return False
        return not await off_loop(executor, partials.leaderless, self._flight.digest, epoch)

    def _take(self, state: FlightState, file: OpenFile) -> None:
        flight = self._flight
        if state.phase == Phase.FILLING and state.contiguous < flight.present and flight.file is not None:
            return  # a new leader has to catch up; what the old one had is as good
        flight.file = file
        flight.total = state.total
        flight.present = state.contiguous
        flight.answering = flight.answering or state.answering
        flight.answered = list(dict.fromkeys([*flight.answered, *state.answered]))
        flight.phase = state.phase
        if state.phase in (Phase.BAD, Phase.ABANDONED, Phase.REFUSED):
            flight.error = failure_of(state)
        flight.over = state.phase != Phase.FILLING
        flight.tell()
