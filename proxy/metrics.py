"""What is counted. No label has unbounded values: upstreams are those of the configuration, and repositories
are no labels."""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass
from typing import Final

from entrepot.cache.errors import CacheError, StorageError, StorageFull, StorageReadOnly
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from .metrics_merge import Families, families_of

_FIRST_BYTE_SECONDS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30),
)
_REQUEST_SECONDS: Final = (*_FIRST_BYTE_SECONDS, 60, 120, 300, 600, 1800)
_PAGE: Final = resource.getpagesize()


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What the system says of this process."""

    resident_bytes: int
    open_descriptors: int
    cpu_seconds: float

    @classmethod
    def read(cls) -> ProcessFacts:
        """Reads /proc where there is one: a moment's work, but with files; not for the event loop."""
        cpu = time.process_time()
        if sys.platform != "linux":  # pragma: no cover - the best that other systems offer
            return cls(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, cpu)
        with open("/proc/self/statm", "rb") as file:
            resident = int(file.read().split()[1]) * _PAGE
        # Since Linux 6.2 the folder's size is the number of its entries; before, it is 0.
        descriptors = os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
        return cls(resident, descriptors, cpu)


class Metrics:
    """The metrics of one process, in a registry of their own. The observer of mirror and upstreams too."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests: dict[tuple[str, str, int, str], tuple[Counter, Counter, Histogram, Histogram]] = {}
        self._received: dict[str, Counter] = {}
        self._cpu_seconds = 0.0
        self._dropped = 0

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"entrepot_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"entrepot_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"entrepot_{name}", text, labels, buckets=buckets, registry=registry)

        # clients
        self.requests = counter(
            "requests_total",
            "Requests of clients, by how the answer came about.",
            *("upstream", "kind", "status", "outcome"),
        )
        self.bytes_to_clients = counter("client_bytes_total", "Bytes of content sent to clients.", "upstream")
        self.request_seconds = histogram(
            "request_seconds", "From a request to the end of its answer.", _REQUEST_SECONDS, "kind"
        )
        self.first_byte_seconds = histogram(
            "first_byte_seconds",
            "From a request to the headers of its answer.",
            _FIRST_BYTE_SECONDS,
            *("kind", "outcome"),
        )
        self.clients = gauge("clients", "Connections of clients that are open.")
        self.names_not_configured = counter(
            "names_not_configured_total", "Requests for a registry that is not configured."
        )
        self.stale_served = counter(
            "stale_served_total", "Tags served though their age is over.", "upstream", "reason"
        )
        # upstreams
        self.upstream_requests = counter(
            "upstream_requests_total",
            "Requests to upstreams, their token servers and redirects included.",
            *("upstream", "method", "status"),
        )
        self.bytes_from_upstream = counter(
            "upstream_bytes_total", "Bytes of content received from upstreams.", "upstream"
        )
        self.token_fetches = counter("token_fetches_total", "Tokens asked for.", "upstream", "result")
        self.credentials_refused = counter(
            "credentials_refused_total", "Times that a credential of ours was refused.", "upstream"
        )
        self.revalidations = counter(
            "revalidations_total",
            "Tags that an upstream was asked for, and what it said.",
            "upstream",
            "result",
        )
        self.verification_failures = counter(
            "verification_failures_total",
            "Downloads whose bytes were not what their digest names.",
            "upstream",
        )
        # downloads and the cache
        self.flights = gauge("flights", "Downloads under way.")
        self.followers = gauge("followers", "Clients that read a download under way.")
        self.partials_resumed = counter(
            "partials_resumed_total", "Downloads gone on with that another process had begun."
        )
        self.uncached_answers = counter(
            "uncached_total", "What went through to a client without being kept.", "reason"
        )
        self.index_failures = counter(
            "index_failures_total", "Times that the index could not be read or written."
        )
        self.cache_bytes = gauge("cache_bytes", "Bytes of content held.", "kind")
        self.cache_blobs = gauge("cache_blobs", "Number of contents held.", "kind")
        # the processes
        self.workers = gauge("workers", "Worker processes that serve.")
        self.worker_restarts = counter(
            "worker_restarts_total", "Workers that were started in place of a dead one."
        )
        self.reloads = counter("reloads_total", "Reloads of the configuration.", "result")
        self.log_lines_dropped = counter("log_lines_dropped_total", "Log lines that found no room.")
        self.resident_bytes = gauge("resident_bytes", "Memory in use, shared pages counted for each process.")
        self.open_descriptors = gauge("open_descriptors", "Open files and connections.")
        self.cpu = counter("cpu_seconds_total", "Processor time used.")
        self.start_time = gauge("start_time_seconds", "When the server started, in seconds since 1970.")
        self.info = gauge("info", "Which version this is; always 1.", "version")

    def request_done(
        self,
        *,
        upstream: str,
        kind: str,
        status: int,
        outcome: str,
        sent: int,
        seconds: float,
        first_byte: float | None,
    ) -> None:
        """Counts a request at its end. `upstream` is empty where none was named; `kind` is `manifest`,
        `blob` or `other`; times are in seconds, `first_byte` None where no headers were sent."""
        key = (upstream, kind, status, outcome)
        bound = self._requests.get(key)
        if bound is None:
            bound = self._requests[key] = (
                self.requests.labels(upstream, kind, str(status), outcome),
                self.bytes_to_clients.labels(upstream),
                self.request_seconds.labels(kind),
                self.first_byte_seconds.labels(kind, outcome),
            )
        requests, to_clients, request_seconds, first_byte_seconds = bound
        requests.inc()
        to_clients.inc(sent)
        request_seconds.observe(seconds)
        if first_byte is not None:
            first_byte_seconds.observe(first_byte)

    # what the upstream clients tell (`proxy.upstream.observer`)

    def upstream_request(self, upstream: str, method: str, status: str) -> None:
        self.upstream_requests.labels(upstream, method, status).inc()

    def bytes_received(self, upstream: str, count: int) -> None:
        bound = self._received.get(upstream)
        if bound is None:
            bound = self._received[upstream] = self.bytes_from_upstream.labels(upstream)
        bound.inc(count)

    def token_fetch(self, upstream: str, result: str) -> None:
        self.token_fetches.labels(upstream, result).inc()

    def credential_refused(self, upstream: str) -> None:
        self.credentials_refused.labels(upstream).inc()

    # what the mirror tells (`proxy.mirror.mirror.MirrorObserver`)

    def revalidated(self, upstream: str, result: str) -> None:
        self.revalidations.labels(upstream, result).inc()

    def served_stale(self, upstream: str, reason: str) -> None:
        self.stale_served.labels(upstream, reason).inc()

    def mismatch(self, source: str) -> None:
        self.verification_failures.labels(source.partition("/")[0]).inc()

    def uncached(self, error: StorageError) -> None:
        self.uncached_answers.labels(_reason(error)).inc()

    def unstored(self, error: CacheError) -> None:
        self.uncached_answers.labels(_reason(error)).inc()

    def unindexed(self, error: CacheError) -> None:
        self.index_failures.inc()

    def resumed(self) -> None:
        self.partials_resumed.inc()

    # for the sum over processes

    def observe_process(self, facts: ProcessFacts) -> None:
        self.resident_bytes.set(facts.resident_bytes)
        self.open_descriptors.set(facts.open_descriptors)
        self.cpu.inc(max(0.0, facts.cpu_seconds - self._cpu_seconds))
        self._cpu_seconds = facts.cpu_seconds

    def observe_dropped_lines(self, so_far: int) -> None:
        self.log_lines_dropped.inc(so_far - self._dropped)
        self._dropped = so_far

    def snapshot(self) -> Families:
        """All of it as JSON: see `metrics_merge`."""
        return families_of(self._registry.collect())


def _reason(error: CacheError) -> str:
    if isinstance(error, StorageFull):
        return "full"
    return "read-only" if isinstance(error, StorageReadOnly) else "failed"
