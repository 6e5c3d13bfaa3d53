"""The end of a request: its line in the log, and its place in the metrics."""

from __future__ import annotations

import logging
import time

from aiohttp import web

from ..config import Config
from ..errors import NotConfigured
from ..metrics import Metrics
from . import access_log
from .access_log import AccessRecord
from .client_address import ClientAddresses
from .exchange import GONE, Exchange

log = logging.getLogger(__name__)


class RequestRecorder:
    """Records every request but probes of `/v2/` by nobody in particular."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._metrics = metrics
        self._addresses = ClientAddresses(config.trusted_proxies)

    def reload(self, config: Config) -> None:
        self._addresses = ClientAddresses(config.trusted_proxies)

    def record(self, request: web.BaseRequest, exchange: Exchange) -> None:
        seconds = time.monotonic() - exchange.began_at
        route, outcome = exchange.route, exchange.outcome
        upstream = route.upstream.name if route is not None and route.upstream is not None else ""
        endpoint = route.endpoint if route is not None else "none"
        name = "error" if exchange.error is not None else outcome.name if outcome is not None else "none"
        self._metrics.request_done(
            upstream=upstream,
            kind=endpoint if endpoint in ("manifest", "blob") else "other",
            status=exchange.status,
            outcome=name,
            sent=exchange.sent,
            seconds=seconds,
            first_byte=exchange.first_byte,
        )
        if isinstance(exchange.error, NotConfigured):
            self._metrics.names_not_configured.inc()
        self._complain(upstream, exchange)
        if endpoint == "base":
            return  # clients ask this before everything else, and load balancers all the time
        headers = request.headers
        access_log.emit(
            AccessRecord(
                request_id=exchange.id,
                client=self._addresses.of(request.remote or "", headers.getall("X-Forwarded-For", ())),
                user_agent=headers.get("User-Agent", ""),
                method=request.method,
                upstream=upstream,
                repository="" if route is None or route.repository is None else route.repository.name,
                reference=request.raw_path if route is None else str(route.reference or ""),
                digest=exchange.digest or "",
                status=exchange.status,
                outcome=name,
                bytes=exchange.sent,
                first_byte=exchange.first_byte,
                duration=seconds,
            )
        )

    @staticmethod
    def _complain(upstream: str, exchange: Exchange) -> None:
        """Says what an operator should know; of one upstream once a minute, with how often it happened."""
        outcome, error = exchange.outcome, exchange.error
        if error is not None and (error.code.status >= 500 or error.code.status == 429):
            text, key = error.message, "failing"
        elif outcome is not None and outcome.warning is not None:
            text, key = f"serving stale: {outcome.warning}", "stale"
        elif exchange.broken is not None and exchange.broken != GONE:
            text, key = f"an answer was cut off: {exchange.broken}", "cut"
        else:
            return
        fields = {"upstream": upstream, "request_id": exchange.id}
        log.warning("%s", text, extra={"repeated": f"{key}:{upstream}", "fields": fields})
