"""Who counts what is asked of upstreams."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """The contract. Upstreams are named as in the configuration."""

    def upstream_request(self, upstream: str, method: str, status: str) -> None:
        """A request, redirects and token servers included, and what came of it: a status such as `200`,
        `timeout` or `error`."""
        ...

    def bytes_received(self, upstream: str, count: int) -> None:
        """Bytes of content."""
        ...

    def token_fetch(self, upstream: str, result: str) -> None:
        """`ok`, `refused`, `limited` or `failed`."""
        ...

    def credential_refused(self, upstream: str) -> None:
        """Our credential was refused and has been set aside."""
        ...


class NoObserver:
    """Counts nothing."""

    def upstream_request(self, upstream: str, method: str, status: str) -> None: ...

    def bytes_received(self, upstream: str, count: int) -> None: ...

    def token_fetch(self, upstream: str, result: str) -> None: ...

    def credential_refused(self, upstream: str) -> None: ...
