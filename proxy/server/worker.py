"""A worker process: the data plane behind one listener, under a supervisor.

Started by exec with the number of its end of the channel; all else it is told over that. Signals are the
supervisor's business: they reach a whole process group or control group, and a worker that acted on one by
itself would leave its listener with nobody. It drains when told to, and soon when its supervisor has ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from entrepot.cache.clock import Clock, SystemClock
from entrepot.cache.errors import CacheError
from entrepot.cache.generation import Generations

from ..config import Address, Config, ConfigError, Document, Overrides, parse
from ..metrics import Metrics
from . import log
from .channel import Channel, ChannelError, Message, RequestRefused
from .data_plane import DataPlane, app_class
from .shared_leases import SharedLeases

_LOG: Final = logging.getLogger(__name__)

PUSH_EVERY: Final = 2.0
"""Seconds between two reports of metrics: what a worker that is killed takes with it."""
_ORPHAN_DRAIN: Final = 5.0
"""Seconds that requests under way are given when the supervisor has ended. Its successor waits for that."""

IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Blocked by the supervisor while it starts a worker, so that none ends it before it can ignore them."""


@dataclass(frozen=True, slots=True)
class Brief:
    """What a worker must know to start. Descriptors are those that it inherits."""

    slot: int
    writer: int
    listener: int
    generations: int
    app: str
    document: Document
    overrides: Overrides

    def to_message(self) -> Message:
        return {
            "slot": self.slot,
            "writer": self.writer,
            "listener": self.listener,
            "generations": self.generations,
            "app": self.app,
            **configuration_message(self.document, self.overrides),
        }

    @classmethod
    def from_message(cls, message: Message) -> Brief:
        document, overrides = configuration_of(message)
        return cls(
            int(message["slot"]),
            int(message["writer"]),
            int(message["listener"]),
            int(message["generations"]),
            str(message["app"]),
            document,
            overrides,
        )


def configuration_message(document: Document, overrides: Overrides) -> Message:
    """A configuration as it goes over the channel: its text, so that both sides mean the same."""
    said = {name: value for name, value in asdict(overrides).items() if value is not None}
    if "cache_dir" in said:
        said["cache_dir"] = str(said["cache_dir"])
    return {
        "text": document.text,
        "source": document.source,
        "base_dir": str(document.base_dir),
        "overrides": said,
    }


def configuration_of(message: Message) -> tuple[Document, Overrides]:
    """The other way round."""
    said: dict[str, Any] = dict(message["overrides"])
    for name in ("listen", "admin"):
        if name in said:
            said[name] = Address(**said[name])
    if "cache_dir" in said:
        said["cache_dir"] = Path(said["cache_dir"])
    document = Document(str(message["text"]), str(message["source"]), Path(message["base_dir"]))
    return document, Overrides(**said)


async def parsed(document: Document, overrides: Overrides) -> Config:
    """The configuration of a text; off the loop, since it reads secret files. Raises `ConfigError`."""
    return await asyncio.to_thread(parse, document.text, document.source, document.base_dir, overrides)


class Worker:
    """What a supervisor asks of a worker, over the channel."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._metrics = Metrics()
        self._channel: Channel | None = None
        self._plane: DataPlane | None = None
        self._generations: Generations | None = None
        self._drain = 0.0
        self._reloading = asyncio.Lock()

    async def run(self, end: socket.socket) -> None:
        """Until the supervisor has ended, or has said farewell."""
        self._channel = channel = await Channel.open(
            end,
            {
                "start": self._start,
                "reload": self._reload,
                "status": self._status,
                "metrics": self._snapshot,
                "drain": self._drained,
            },
        )
        pushing = asyncio.create_task(self._push(channel))
        try:
            await channel.wait_ended()
        finally:
            pushing.cancel()
            await asyncio.gather(pushing, return_exceptions=True)
            await channel.close()
            plane, self._plane = self._plane, None
            if plane is not None:
                await plane.drain(min(self._drain, _ORPHAN_DRAIN))
            if self._generations is not None:
                self._generations.close()

    async def _start(self, message: Message) -> Message:
        brief = Brief.from_message(message)
        if self._plane is not None or self._channel is None:
            raise RequestRefused("the worker has started already")
        try:
            config = await parsed(brief.document, brief.overrides)
            log.configure(config.log)
            self._drain = config.drain
            self._generations = Generations(brief.generations, brief.writer)
            app = await app_class(brief.app).open(
                config,
                leases=SharedLeases(self._channel, self._clock),
                generations=self._generations,
                metrics=self._metrics,
                clock=self._clock,
            )
        except (ConfigError, CacheError, OSError) as error:
            raise RequestRefused(str(error)) from error
        try:
            self._plane = await DataPlane.start(app, socket.socket(fileno=brief.listener), self._metrics)
        except BaseException:
            await app.close()
            raise
        return {"pid": os.getpid()}

    async def _reload(self, message: Message) -> Message:
        async with self._reloading:
            document, overrides = configuration_of(message)
            try:
                config = await parsed(document, overrides)
                await self._serving().reload(config)
            except (ConfigError, CacheError, OSError) as error:
                raise RequestRefused(str(error)) from error
            log.configure(config.log)
            self._drain = config.drain
        return {}

    def _status(self, _: Message) -> Message:
        return self._serving().status()

    async def _snapshot(self, _: Message) -> Message:
        return {"families": await self._serving().snapshot()}

    async def _drained(self, message: Message) -> Message:
        plane = self._serving()
        self._plane = None
        await plane.drain(float(message["seconds"]))
        return {"families": await plane.snapshot()}

    def _serving(self) -> DataPlane:
        if self._plane is None:
            raise RequestRefused("the worker does not serve")
        return self._plane

    async def _push(self, channel: Channel) -> None:
        while True:
            await asyncio.sleep(PUSH_EVERY)
            plane = self._plane
            if plane is None or not channel.idle:
                continue
            try:
                channel.notify("metrics", {"families": await plane.snapshot()})
            except (ChannelError, OSError) as error:  # the next report has it all again
                _LOG.warning("metrics are not reported: %s", error, extra={"repeated": "metrics"})


def main(arguments: list[str]) -> int:
    """`python -m entrepot.proxy.server.worker CHANNEL`, started by the supervisor alone."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    if len(arguments) != 1 or not arguments[0].isdecimal():
        print("a worker is started by `entrepot serve`", file=sys.stderr)
        return 2
    end = socket.socket(fileno=int(arguments[0]))
    asyncio.run(Worker(SystemClock()).run(end))
    log.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
