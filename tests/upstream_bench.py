"""A client of an upstream with everything around it that a test looks at."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from entrepot.cache.clock import ManualClock
from entrepot.cache.lease import Leases, LocalLeases
from entrepot.proxy.config.model import Credential, TagRule, TagTtl, Timeouts, UpstreamConfig
from entrepot.proxy.config.secret import Secret
from entrepot.proxy.upstream.address import IpAddress, is_global_address
from entrepot.proxy.upstream.client import UpstreamClient
from entrepot.proxy.upstream.flavour import Flavour

PATIENT = Timeouts(connect=5.0, first_byte=10.0, idle=10.0, answer=20.0, revalidate=2.0)


def upstream_config(url: str, **changes: Any) -> UpstreamConfig:
    """The configuration of an upstream at `url`, with the defaults of the product but for the changes."""
    plain = UpstreamConfig(
        name="registry.test",
        url=url,
        prefixes=(),
        default=True,
        credential=None,
        ca_file=None,
        token_realms=(),
        allow_private_hosts=(),
        offline=False,
        tag_ttl=TagTtl((TagRule("*", 60.0),)),
        negative_ttl=10.0,
        stale_if_error=float("inf"),
        timeout=PATIENT,
        on_gone="obey",
        on_denied="obey",
    )
    return replace(plain, **changes)


def credential(password: str = "secret", username: str = "ann") -> Credential:
    return Credential(username, Secret.literal(password))


def credential_file(path: Path, clock: ManualClock, username: str = "ann") -> Credential:
    return Credential(username, Secret.from_file(path, clock=clock))


@dataclass
class Recorder:
    """An observer that counts."""

    requests: list[tuple[str, str]] = field(default_factory=list)
    bytes: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    refused: int = 0

    def upstream_request(self, upstream: str, method: str, status: str) -> None:
        assert upstream
        self.requests.append((method, status))

    def bytes_received(self, upstream: str, count: int) -> None:
        self.bytes += count

    def token_fetch(self, upstream: str, result: str) -> None:
        self.tokens[result] += 1

    def credential_refused(self, upstream: str) -> None:
        self.refused += 1


class Names(AbstractResolver):
    """Answers look-ups from a table, each time with the next of several answers, the last for ever."""

    def __init__(self, **names: list[str]) -> None:
        self.names = {name.replace("_", "."): addresses for name, addresses in names.items()}
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        answers = self.names.get(host)
        if not answers:
            raise OSError(None, "no such name")
        address = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None: ...


@dataclass
class Bench:
    """The client, and what a test moves or looks at."""

    client: UpstreamClient
    clock: ManualClock
    leases: Leases
    seen: Recorder
    sleeps: list[float]


@asynccontextmanager
async def bench(
    url: str,
    *,
    clock: ManualClock | None = None,
    leases: Leases | None = None,
    flavour: Flavour | None = None,
    resolver: AbstractResolver | None = None,
    is_global: Callable[[IpAddress], bool] = is_global_address,
    **changes: Any,
) -> AsyncIterator[Bench]:
    """A client that sleeps not at all between two tries, and is closed in the end."""
    clock = clock or ManualClock()
    leases = leases or LocalLeases(clock)
    seen, sleeps = Recorder(), []

    async def sleep(seconds: float) -> None:
        sleeps.append(seconds)

    client = UpstreamClient(
        upstream_config(url, **changes),
        leases=leases,
        clock=clock,
        metrics=seen,
        resolver=resolver,
        is_global=is_global,
        flavour=flavour,
        sleep=sleep,
        random=lambda: 1.0,
    )
    try:
        yield Bench(client, clock, leases, seen, sleeps)
    finally:
        await client.close()
