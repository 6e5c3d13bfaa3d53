"""What the mirror tells of itself: counted, and where somebody should know, said in the log."""

from __future__ import annotations

import logging

from entrepot.cache.errors import IndexUnavailable, StorageError

from ..metrics import Metrics

log = logging.getLogger(__name__)


class Teller:
    """The mirror's observer. What happens again and again is one line a minute, with a count."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def revalidated(self, upstream: str, result: str) -> None:
        self._metrics.revalidated(upstream, result)

    def served_stale(self, upstream: str, reason: str) -> None:
        self._metrics.served_stale(upstream, reason)

    def mismatch(self, source: str) -> None:
        self._metrics.mismatch(source)
        log.error("%s delivered bytes that are not what their digest promises; thrown away", source)

    def uncached(self, error: StorageError) -> None:
        self._metrics.uncached(error)
        self._unkept(error)

    def unstored(self, error: StorageError) -> None:
        self._metrics.unstored(error)
        self._unkept(error)

    @staticmethod
    def _unkept(error: StorageError) -> None:
        log.warning(
            "cannot keep, passing through uncached: %s", error, extra={"repeated": type(error).__name__}
        )

    def unindexed(self, error: IndexUnavailable) -> None:
        self._metrics.unindexed(error)
        log.warning("going on without the index: %s", error, extra={"repeated": "index"})

    def resumed(self) -> None:
        self._metrics.resumed()

    def upstream_request(self, upstream: str, method: str, status: str) -> None:
        self._metrics.upstream_request(upstream, method, status)

    def bytes_received(self, upstream: str, count: int) -> None:
        self._metrics.bytes_received(upstream, count)

    def token_fetch(self, upstream: str, result: str) -> None:
        self._metrics.token_fetch(upstream, result)

    def credential_refused(self, upstream: str) -> None:
        self._metrics.credential_refused(upstream)
        log.error(
            "%s refuses our credential: it is set aside and tried again now and then; a new password in its "
            "file is taken at once",
            upstream,
        )
