"""The flights of a process, and the tasks that keep them going."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from .digest import Digest
from .errors import SourceUnavailable, StorageError
from .flight import Flight, FlightContext
from .flight_follow import Follower
from .flight_lead import Leader
from .flight_state import Phase
from .partials import Led
from .threads import off_loop

log = logging.getLogger(__name__)

_BEATS_BEFORE_HUNG = 5


class Flights:
    """The flights of a process."""

    def __init__(self, context: FlightContext) -> None:
        self.context = context
        self._flights: dict[Digest, Flight] = {}
        self._tasks: dict[Flight, asyncio.Task[None]] = {}
        self._beat: asyncio.Task[None] | None = None
        self._closed = False

    def __iter__(self) -> Iterator[Flight]:
        return iter(self._flights.values())

    def __len__(self) -> int:
        return len(self._flights)

    def find(self, digest: Digest) -> Flight | None:
        """The flight under way in this process."""
        return self._flights.get(digest)

    async def join(self, digest: Digest, source: str) -> Flight:
        """The flight under way, or a new one that begins with this source. To one that is under way the
        caller adds its source itself, once it is authorised. Raises `SourceUnavailable` while stopping."""
        flight = self._flights.get(digest)
        if flight is None:
            if self._closed:
                raise SourceUnavailable("the mirror is stopping")
            flight = self._flights[digest] = Flight(digest, self.context)
            flight.sources.append(source)
            task = asyncio.get_running_loop().create_task(self._fly(flight), name=f"flight {digest}")
            self._tasks[flight] = task
            if self._beat is None:
                self._beat = asyncio.get_running_loop().create_task(self._beats(), name="flights' heartbeat")
        return flight

    async def _fly(self, flight: Flight) -> None:
        """Leads or follows until the download is over."""
        try:
            while not flight.over:
                if await self._here(flight):
                    return
                claim = await off_loop(
                    self.context.executor,
                    self.context.partials.claim,
                    flight.digest,
                    self.context.clock.monotonic(),
                )
                if isinstance(claim, Led):
                    await Leader(flight, claim).lead()
                else:
                    await Follower(flight, claim).follow()
        except StorageError as error:
            flight.phase = Phase.REFUSED
            flight.error = error
            self.context.observer.unstored(error)
        except asyncio.CancelledError:
            flight.error = SourceUnavailable("the mirror is stopping")
            raise
        except Exception as error:
            log.exception("a download failed in an unforeseen way: %s", flight.digest)
            flight.error = SourceUnavailable(f"internal error: {type(error).__name__}")
        finally:
            flight.over = True
            flight.tell()
            del self._tasks[flight]
            if self._flights.get(flight.digest) is flight:
                del self._flights[flight.digest]

    async def _here(self, flight: Flight) -> bool:
        """Whether the blob has got its name meanwhile."""
        size = await self.context.store.stat(flight.digest)
        file = None if size is None else await self.context.store.open(flight.digest)
        if size is None or file is None:
            return False
        flight.file = file
        flight.total = flight.present = size
        flight.phase = Phase.STORED
        return True

    async def _beats(self) -> None:
        """Shows that this process lives, on the state of every flight that it leads."""
        while True:
            await asyncio.sleep(self.context.partials.hung_after / _BEATS_BEFORE_HUNG)
            for flight in list(self._flights.values()):
                if flight.beat is not None:
                    with contextlib.suppress(OSError):
                        await off_loop(self.context.executor, flight.beat)

    async def close(self) -> None:
        """Ends all flights; what they have is good to go on with."""
        self._closed = True
        tasks = list(self._tasks.values())
        if self._beat is not None:
            tasks.append(self._beat)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
