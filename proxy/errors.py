"""What goes wrong, as clients of a registry see it: one table of codes, and one place that maps to it.

Codes and the shape of the body: distribution-spec, Error Codes. `UNAVAILABLE` and `UNKNOWN` are
distribution's own, for what the specification has no code for.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Final

from entrepot.cache.errors import (
    CacheError,
    ContentMismatch,
    InvalidDigest,
    InvalidReference,
    SourceLimited,
    SourceMissing,
    SourceRefused,
    SourceTimeout,
    SourceUnavailable,
    StorageError,
)
from entrepot.cache.index import Kind


@dataclass(frozen=True, slots=True)
class Code:
    """A code of the specification with the status that goes with it and what it means."""

    name: str
    status: int
    message: str


BLOB_UNKNOWN: Final = Code("BLOB_UNKNOWN", 404, "blob unknown to registry")
DENIED: Final = Code("DENIED", 403, "requested access to the resource is denied")
DIGEST_INVALID: Final = Code("DIGEST_INVALID", 400, "provided digest is not supported")
MANIFEST_UNKNOWN: Final = Code("MANIFEST_UNKNOWN", 404, "manifest unknown to registry")
NAME_INVALID: Final = Code("NAME_INVALID", 400, "invalid repository name")
NAME_UNKNOWN: Final = Code("NAME_UNKNOWN", 404, "repository name not known to registry")
RANGE_INVALID: Final = Code("SIZE_INVALID", 416, "no such range")
TAG_INVALID: Final = Code("MANIFEST_INVALID", 400, "invalid tag")
TOO_MANY_REQUESTS: Final = Code("TOOMANYREQUESTS", 429, "too many requests")
UNSUPPORTED: Final = Code("UNSUPPORTED", 405, "the operation is unsupported")
NOT_FOUND: Final = Code("UNSUPPORTED", 404, "no such endpoint")
BAD_GATEWAY: Final = Code("UNAVAILABLE", 502, "the upstream failed")
GATEWAY_TIMEOUT: Final = Code("UNAVAILABLE", 504, "the upstream did not answer in time")
STOPPING: Final = Code("UNAVAILABLE", 503, "the mirror is stopping")
INTERNAL: Final = Code("UNKNOWN", 500, "the mirror failed")


class RegistryError(Exception):
    """An answer that is an error. `headers` go with it."""

    def __init__(self, code: Code, message: str | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(message or code.message)
        self.code = code
        self.message = message or code.message
        self.headers = headers or {}

    def body(self, request_id: str) -> bytes:
        """The JSON of the specification, with the request's id for whoever asks about it."""
        detail = {"requestId": request_id}
        error = {"code": self.code.name, "message": self.message, "detail": detail}
        return json.dumps({"errors": [error]}).encode()


class NotConfigured(RegistryError):
    """A registry that clients ask for and that the configuration does not name."""

    def __init__(self, name: str) -> None:
        super().__init__(NAME_UNKNOWN, f"{name} is not configured; add `{name}: {{}}` to upstreams")


class NotHere(RegistryError):
    """Offline, and not held."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(_UNKNOWN[kind], "not held here, and the mirror is offline")


_UNKNOWN: Final[dict[Kind, Code]] = {"manifest": MANIFEST_UNKNOWN, "blob": BLOB_UNKNOWN}


def as_answer(error: CacheError, kind: Kind = "manifest") -> RegistryError:
    """What a client is told of something that went wrong. Never an upstream's challenge, which would send
    the client's credentials to the wrong place."""
    match error:
        case InvalidDigest():
            return RegistryError(DIGEST_INVALID, str(error))
        case InvalidReference():
            return RegistryError(NAME_INVALID, str(error))
        case SourceMissing():
            return RegistryError(_UNKNOWN[kind], error.detail)
        case SourceRefused():
            return RegistryError(DENIED, error.detail)
        case SourceLimited():
            after = error.retry_after
            headers = {} if after is None else {"Retry-After": str(max(1, math.ceil(after)))}
            return RegistryError(TOO_MANY_REQUESTS, error.detail, headers)
        case SourceTimeout():
            return RegistryError(GATEWAY_TIMEOUT, error.detail)
        case SourceUnavailable():
            return RegistryError(BAD_GATEWAY, error.detail)
        case ContentMismatch():
            return RegistryError(BAD_GATEWAY, f"the upstream's answer is not what was asked for: {error}")
        case StorageError():
            return RegistryError(INTERNAL, f"the cache cannot be read: {error}")
        case _:
            return RegistryError(INTERNAL, str(error))
