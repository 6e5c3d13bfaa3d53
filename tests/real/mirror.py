"""The mirror as users run it: `entrepot serve` with a configuration file, in processes of its own."""

from __future__ import annotations

import re
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from real.program import Program, answers, free_port
from real.registry import Registry

FRESH = "1.0"
"""A tag that the mirror under test believes for an hour."""
STALE = "edge"
"""One that it asks about each time, as all other tags."""


class Mirror(Protocol):
    """What a test wants of a mirror."""

    address: str

    def start(self) -> None: ...
    def stop(self) -> int | None: ...
    def tail(self) -> str: ...


class Entrepot:
    """`entrepot serve` with these upstreams, the `upstreams:` of its configuration file."""

    def __init__(
        self, home: Path, port: int, upstreams: str, *, tag_ttl: str, workers: int | None = None
    ) -> None:
        self.address = f"127.0.0.1:{port}"
        self.admin = f"127.0.0.1:{free_port()}"
        self._program = Program(
            home, sys.executable, "-m", "entrepot.proxy", "serve", "--config", home / "upstreams.yaml"
        )
        (home / "upstreams.yaml").write_text(
            f"listen: {self.address}\n"
            f"admin: {self.admin}\n"
            f"{'' if workers is None else f'workers: {workers}'}\n"
            f"cache:\n"
            f"  dir: {home}/cache\n"
            f"defaults:\n"
            f"  tag_ttl: {tag_ttl}\n"
            f"upstreams:\n{upstreams}"
        )

    @property
    def pid(self) -> int:
        return self._program.pid

    def start(self) -> None:
        self._program.start(lambda: answers(f"http://{self.admin}/readyz", 200))

    def stop(self) -> int | None:
        """Asks it to drain and end; gives its exit code."""
        return self._program.stop()

    def tail(self) -> str:
        """The end of its log."""
        return self._program.tail()

    def log(self) -> str:
        """The whole of its log."""
        return self._program.log.read_text()

    def answered(self, status: int) -> int:
        """How many requests it has answered with this status, by its own metrics."""
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=5) as response:
            metrics = response.read().decode()
        pattern = rf'^entrepot_requests_total{{[^}}]*status="{status}"[^}}]*}} (\S+)$'
        return int(sum(float(value) for value in re.findall(pattern, metrics, re.MULTILINE)))


class DockerRegistry(Registry):
    """docker-registry in proxy mode in the mirror's place (`ENTREPOT_REAL_MIRROR=docker-registry`): what
    fails with it too is a client's doing, or a test's. It knows one upstream alone."""

    def __init__(self, home: Path, port: int, hub: Registry) -> None:
        super().__init__(home, remote=hub.url, remote_tokens=hub.tokens, port=port)


def hub_and_quay(home: Path, hub: Registry, quay: Registry) -> str:
    """One registry that takes credentials as docker.io, and one that takes none as quay.io."""
    assert hub.tokens is not None
    (home / "password").write_text(hub.tokens.password + "\n")
    return (
        f"  docker.io:\n"
        f"    url: {hub.url}\n"
        f"    default: true\n"
        f'    token_realms: ["{hub.tokens.origin}"]\n'
        f"    credentials: {{username: {hub.tokens.username}, password_file: password}}\n"
        f"  quay.io:\n"
        f"    url: {quay.url}\n"
    )


@contextmanager
def running(mirror: Mirror) -> Iterator[None]:
    """From here to there; shows the end of its log where the test fails (pytest captures it)."""
    mirror.start()
    try:
        yield
    finally:
        mirror.stop()
        print(mirror.tail())
