"""One request and its answer, as the log and the metrics will tell it."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Final

from ..errors import RegistryError
from ..mirror.outcome import Outcome
from .routes import Route

GONE: Final = "the client has gone"
"""Why an answer ended that a client did not want any more."""


@dataclass(slots=True)
class Exchange:
    """Filled in on the way. Times are monotonic seconds."""

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    """In every answer, and in every error's body."""
    began_at: float = field(default_factory=time.monotonic)
    route: Route | None = None
    outcome: Outcome | None = None
    status: int = 0
    digest: str | None = None
    sent: int = 0
    """Bytes of content."""
    first_byte: float | None = None
    """Seconds until our headers went out."""
    broken: str | None = None
    """Why the answer was cut off."""
    error: RegistryError | None = None
    """What was answered instead."""

    def answering(self, status: int) -> None:
        """The headers are out."""
        self.status = status
        self.first_byte = time.monotonic() - self.began_at
