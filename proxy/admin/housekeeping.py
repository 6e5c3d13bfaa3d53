"""What the supervisor does for the cache beside the workers: upkeep on demand, leftovers, the gauges."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from entrepot.cache.errors import IndexUnavailable

from ..config import Config
from ..mirror.mirror import Mirror
from ..mirror.upkeep import Upkeep
from ..server.observer import Teller
from ..server.supervisor import Supervisor

_MEASURE_EVERY: Final = 10.0
"""Seconds."""


class Housekeeping:
    """An office of the supervisor. Its mirror serves nobody, and shares generations with those that do."""

    def __init__(self) -> None:
        self._mirror: Mirror | None = None
        self._upkeep: Upkeep | None = None
        self._measuring: asyncio.Task[None] | None = None

    def upkeep(self) -> Upkeep:
        """The commands on the cache, by the configuration in force."""
        if self._upkeep is None:
            raise RuntimeError("housekeeping is not open")
        return self._upkeep

    async def open(self, supervisor: Supervisor) -> None:
        self._mirror = await Mirror.open(
            supervisor.config,
            leases=supervisor.leases,
            generations=supervisor.generations,
            clock=supervisor.clock,
            observer=Teller(supervisor.metrics),
            housekeeping=True,
        )
        self._upkeep = Upkeep(supervisor.config, self._mirror)
        self._measuring = asyncio.get_running_loop().create_task(self._measure(supervisor, self._mirror))

    async def reload(self, config: Config) -> None:
        if self._mirror is not None:
            self._mirror.reload(config)
            self._upkeep = Upkeep(config, self._mirror)

    async def close(self) -> None:
        if self._measuring is not None:
            self._measuring.cancel()
            await asyncio.gather(self._measuring, return_exceptions=True)
        if self._mirror is not None:
            await self._mirror.close()

    @staticmethod
    async def _measure(supervisor: Supervisor, mirror: Mirror) -> None:
        while True:
            with contextlib.suppress(IndexUnavailable):
                totals = await mirror.index.totals()
                held = {
                    "manifest": (totals.manifests, totals.manifest_bytes),
                    "blob": (totals.blobs - totals.manifests, totals.bytes - totals.manifest_bytes),
                }
                for kind, (count, size) in held.items():
                    supervisor.metrics.cache_blobs.labels(kind).set(count)
                    supervisor.metrics.cache_bytes.labels(kind).set(size)
            await asyncio.sleep(_MEASURE_EVERY)
