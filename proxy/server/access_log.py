"""One line a request."""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

from . import log

_AGENT_LIMIT: Final = 256
_NAME_LIMIT: Final = 512


class AccessRecord(NamedTuple):
    """What is said of a request. The names are those of the JSON log. A tuple, because one is made for each
    request, and a frozen dataclass takes four times as long."""

    request_id: str
    """As in the answer's header and in an error's body."""
    client: str
    """The client's address, through `trusted_proxies`."""
    user_agent: str
    method: str
    upstream: str
    """By its name in the configuration; empty where the request named none that there is."""
    repository: str
    """By the upstream's own name for it."""
    reference: str
    """The tag or digest that was asked for."""
    digest: str
    """What it meant; empty where that was not found out."""
    status: int
    outcome: str
    """How the answer came about, as in the metrics: `hit`, `miss`, `joined`, …"""
    bytes: int
    """Of content, as far as they were sent."""
    first_byte: float | None
    """Seconds until the answer's headers were sent; None if they were not."""
    duration: float
    """Seconds until its end."""


def emit(record: AccessRecord) -> None:
    """Writes the line, if the level of the log is `info` or below. Never waits."""
    to = log.current()
    if to is None or to.level > logging.INFO:
        return
    first_byte = None if record.first_byte is None else round(record.first_byte, 6)
    agent, repository = record.user_agent[:_AGENT_LIMIT], record.repository[:_NAME_LIMIT]
    reference = record.reference[:_NAME_LIMIT]
    if to.as_json:
        line = log.to_json(
            {
                "time": to.timestamp(),
                "level": "info",
                "logger": "entrepot.access",
                "event": "request",
                "request_id": record.request_id,
                "client": record.client,
                "user_agent": agent,
                "method": record.method,
                "upstream": record.upstream,
                "repository": repository,
                "reference": reference,
                "digest": record.digest,
                "status": record.status,
                "outcome": record.outcome,
                "bytes": record.bytes,
                "first_byte": first_byte,
                "duration": round(record.duration, 6),
            }
        )
    else:
        line = (
            f"{to.timestamp()} INFO entrepot.access request {log.quoted(record.method)}"
            f" upstream={log.quoted(record.upstream)} repository={log.quoted(repository)}"
            f" reference={log.quoted(reference)} digest={log.quoted(record.digest)}"
            f" status={record.status} outcome={record.outcome} bytes={record.bytes}"
            f" first_byte={'-' if first_byte is None else format(first_byte, '.6f')}"
            f" duration={record.duration:.6f} client={log.quoted(record.client)}"
            f" user_agent={log.quoted(agent)} request_id={record.request_id}"
        )
    to.sink.write(line)
