"""The servers that are compared: the mirror, and Debian's docker-registry in proxy mode, each on an empty
cache and a port of its own. Built on the real parts of the tests."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from real.image import Layout
from real.mirror import Entrepot
from real.program import Program, answers, free_port
from real.registry import Registry

__all__ = ["Entrepot", "Layout", "Peer", "Program", "Registry", "answers", "free_port", "need", "started"]

BASE: Final = "docker-registry"
"""The peer that ratios are taken to."""
OURS: Final = "entrepot"


class Peer(Protocol):
    address: str

    @property
    def pid(self) -> int: ...
    def start(self) -> None: ...
    def stop(self) -> int | None: ...
    def tail(self) -> str: ...


def need(*programs: str) -> None:
    """Ends with a line that says what to install where one of these is missing."""
    if missing := [program for program in programs if shutil.which(program) is None]:
        sys.exit(f"not installed: {', '.join(missing)} (on Debian the packages are called the same)")


@contextmanager
def started(home: Path, upstream: str, *, workers: int | None) -> Iterator[dict[str, Peer]]:
    """All of them by name, mirroring the registry at this URL."""
    for name in (BASE, OURS):
        (home / name).mkdir()
    block = f"  docker.io:\n    url: {upstream}\n    default: true\n"
    peers: dict[str, Peer] = {
        BASE: Registry(home / BASE, remote=upstream),
        OURS: Entrepot(home / OURS, free_port(), block, tag_ttl="1h", workers=workers),
    }
    with ExitStack() as stack:
        for peer in peers.values():
            peer.start()
            stack.callback(peer.stop)
        try:
            yield peers
        except Exception:
            for name, peer in peers.items():
                print(f"\nthe end of the log of {name}:\n{peer.tail()}")
            raise
