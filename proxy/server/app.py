"""The data plane of one process: from a request to the mirror, and back."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Protocol

from aiohttp import web
from entrepot.cache.clock import Clock
from entrepot.cache.digest import Digest
from entrepot.cache.errors import CacheError
from entrepot.cache.generation import Generations
from entrepot.cache.index import Kind
from entrepot.cache.lease import Leases

from ..config import Config
from ..errors import INTERNAL, NOT_FOUND, STOPPING, RegistryError, as_answer
from ..metrics import Metrics
from ..mirror.mirror import Mirror
from ..mirror.parts import Pull
from . import responses
from .exchange import GONE, Exchange
from .observer import Teller
from .record import RequestRecorder
from .routes import Route, parse

log = logging.getLogger(__name__)

_LATER = "this mirror does not answer tags lists, referrers and the catalogue yet"


class Recorder(Protocol):
    """Who writes the log line of a request, and counts it."""

    def record(self, request: web.BaseRequest, exchange: Exchange) -> None: ...

    def reload(self, config: Config) -> None: ...


class App:
    """Answers the registry's API."""

    def __init__(self, config: Config, mirror: Mirror, recorder: Recorder, clock: Clock) -> None:
        self._config = config
        self._mirror = mirror
        self._clock = clock
        self._recorder = recorder
        self._draining = False
        self._requests = 0

    @classmethod
    async def open(
        cls,
        config: Config,
        *,
        leases: Leases,
        generations: Generations,
        metrics: Metrics,
        clock: Clock,
    ) -> App:
        """The whole data plane on a cache directory that exists and is ours."""
        mirror = await Mirror.open(
            config, leases=leases, generations=generations, clock=clock, observer=Teller(metrics)
        )
        metrics.flights.set_function(lambda: len(mirror.flights))
        metrics.followers.set_function(lambda: sum(flight.readers for flight in mirror.flights))
        return cls(config, mirror, RequestRecorder(config, metrics), clock)

    @property
    def mirror(self) -> Mirror:
        """What serves."""
        return self._mirror

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request of a client. Raises nothing of its own."""
        exchange = Exchange()
        self._requests += 1
        try:
            return await self._answer(request, exchange)
        except asyncio.CancelledError:
            exchange.broken = GONE
            raise
        finally:
            self._requests -= 1
            self._recorder.record(request, exchange)

    async def _answer(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        head = request.method == "HEAD"
        try:
            if self._draining:
                raise RegistryError(STOPPING, headers={"Retry-After": "1", "Connection": "close"})
            route = exchange.route = parse(request.raw_path, request.headers.get("Host", ""), self._config)
            if route.endpoint == "base":
                return responses.base(exchange)
            if request.method not in ("GET", "HEAD"):
                raise responses.write_refused()
            return await self._serve(request, exchange, route)
        except RegistryError as error:
            return responses.error(error, exchange, head=head)
        except CacheError as error:
            return responses.error(as_answer(error, _kind(exchange.route)), exchange, head=head)
        except Exception:
            log.exception("request %s failed in an unforeseen way", exchange.id)
            return responses.error(RegistryError(INTERNAL), exchange, head=head)

    async def _serve(self, request: web.BaseRequest, exchange: Exchange, route: Route) -> web.StreamResponse:
        if route.upstream is None or route.repository is None or route.reference is None:
            raise RegistryError(NOT_FOUND, _LATER)
        upstream = self._mirror.upstreams[route.upstream.name]
        pull = Pull(
            upstream,
            route.repository,
            head=request.method == "HEAD",
            arrived_at=self._clock.wall(),
            accept=tuple(request.headers.getall("Accept", ())),
        )
        reference = route.reference
        if route.endpoint == "manifest":
            answer = await self._mirror.manifest(pull, reference)
            return responses.manifest(request, exchange, answer, by_tag=isinstance(reference, str))
        if route.endpoint == "blob" and isinstance(reference, Digest):
            return await responses.blob(request, exchange, await self._mirror.blob(pull, reference))
        raise RegistryError(NOT_FOUND, _LATER)

    async def reload(self, config: Config) -> None:
        """Takes a new configuration for the requests from now on."""
        self._mirror.reload(config)
        self._config = config
        self._recorder.reload(config)

    async def drain(self) -> None:
        """No new requests; those under way go on, and so do the downloads that they wait for."""
        self._draining = True

    async def close(self) -> None:
        """Leaves what is under way to be resumed."""
        await self._mirror.close()

    def status(self) -> dict[str, Any]:
        """What is going on, for people."""
        flights = [
            {
                "digest": str(flight.digest),
                "present": flight.present,
                "total": flight.total,
                "leading": flight.leading,
                "sources": flight.sources,
            }
            for flight in self._mirror.flights
        ]
        return {"requests": self._requests, "flights": flights, "at": time.time()}


def _kind(route: Route | None) -> Kind:
    return "blob" if route is not None and route.endpoint == "blob" else "manifest"
