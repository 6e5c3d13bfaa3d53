"""Warm requests side by side: the mirror and docker-registry in proxy mode, in turn, with the same load.

    python bench/warm.py [--seconds 3] [--rounds 3] [--connections 16] [--workers N]

An upstream docker-registry is filled first; every answer is checked by its digest before it is timed.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from measure import Load, load, memory, table, write
from peers import BASE, OURS, Layout, Peer, Registry, need, started

REPOSITORY: Final = "library/bench"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
ACCEPT: Final = f"Accept: {MANIFEST}"
SIZES: Final = {"blob 1 KiB": 2**10, "blob 1 MiB": 2**20, "blob 256 MiB": 2**28}
BY_THE_MEGABYTE: Final = 2**20
"""From this size on what counts is bytes, below it requests."""


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    path: str
    digest: str
    size: int


def fill(upstream: Registry, directory: Path) -> list[Case]:
    """Pushes one image with a layer of each size, and says what can be asked for."""
    layout = Layout(directory)
    config = layout.add_blob("application/vnd.oci.image.config.v1+json", b"{}")
    layers = {
        name: layout.add_blob("application/octet-stream", _content(size)) for name, size in SIZES.items()
    }
    descriptor, manifest = layout.add_manifest(config, list(layers.values()))
    upstream.push_layout(layout.tag("1", descriptor), f"{REPOSITORY}:1")
    digest = descriptor["digest"]
    return [
        Case("manifest by tag", "manifests/1", digest, len(manifest)),
        Case("manifest by digest", f"manifests/{digest}", digest, len(manifest)),
        *(Case(name, f"blobs/{row['digest']}", row["digest"], row["size"]) for name, row in layers.items()),
    ]


def _content(size: int) -> bytes:
    """Bytes that no one compresses, always the same."""
    source = random.Random(size)
    return b"".join(source.randbytes(min(size, 2**20)) for _ in range(0, size, 2**20))


def check(url: str, case: Case) -> None:
    """Fetches once, and raises `AssertionError` when it is not what was pushed."""
    request = urllib.request.Request(url, headers=dict([ACCEPT.split(": ")]))
    hashed = hashlib.sha256()
    with urllib.request.urlopen(request, timeout=120) as response:
        while piece := response.read(2**20):
            hashed.update(piece)
    assert f"sha256:{hashed.hexdigest()}" == case.digest, f"{url} answered something else"


def measure(cases: Sequence[Case], peers: dict[str, Peer], options: argparse.Namespace) -> dict[str, Any]:
    """All rounds, peers in turn within each."""
    runs: dict[str, dict[str, list[Load]]] = {case.name: {name: [] for name in peers} for case in cases}
    idle = {name: memory(peer.pid) for name, peer in peers.items()}
    most = dict(idle)
    urls = {
        (case.name, name): f"http://{peer.address}/v2/{REPOSITORY}/{case.path}"
        for case in cases
        for name, peer in peers.items()
    }
    for case in cases:
        for name in peers:
            for _ in range(2):  # the first fills its cache, the second is answered from there
                check(urls[case.name, name], case)
    for round_ in range(options.rounds):
        for case in cases:
            for name, peer in peers.items():
                print(f"round {round_ + 1}: {case.name}, {name}", flush=True)
                run = load(
                    urls[case.name, name],
                    peer.pid,
                    seconds=options.seconds,
                    connections=options.connections,
                    headers=[ACCEPT],
                )
                runs[case.name][name].append(run)
                most[name] = max(most[name], memory(peer.pid))
    for case in cases:
        for name in peers:
            check(urls[case.name, name], case)
    return {
        "cases": {
            case.name: {name: _middle(case, loads) for name, loads in runs[case.name].items()}
            for case in cases
        },
        "memory": {name: {"idle": idle[name], "most": most[name]} for name in peers},
    }


def _middle(case: Case, loads: Sequence[Load]) -> dict[str, float | bool]:
    large = case.size >= BY_THE_MEGABYTE
    return {
        "large": large,
        "requests_per_second": median(one.requests for one in loads),
        "bytes_per_second": median(one.bytes for one in loads),
        "seconds_median": median(one.median for one in loads),
        "seconds_p99": median(one.p99 for one in loads),
        "cpu_seconds_per_request": median(one.cpu_per_request for one in loads),
        "cpu_seconds_per_megabyte": median(one.cpu_per_megabyte for one in loads),
    }


def report(results: dict[str, Any]) -> str:
    """Medians of the rounds, and the ratio of ours to the base; more is better for the first, less for
    the second."""
    rows = []
    for case, by_peer in results["cases"].items():
        base, ours = by_peer[BASE], by_peer[OURS]
        speed, cost = (
            ("bytes_per_second", "cpu_seconds_per_megabyte")
            if ours["large"]
            else ("requests_per_second", "cpu_seconds_per_request")
        )
        rows.append(
            [case]
            + [f"{_speed(one)}, {_cost(one)}" for one in (base, ours)]
            + [f"{ours[speed] / base[speed]:.2f}x", f"{ours[cost] / base[cost]:.3f}x" if base[cost] else "-"]
        )
    lines = [table(["warm, median", BASE, OURS, "speed", "CPU"], rows), ""]
    for name, held in results["memory"].items():
        lines.append(
            f"memory of {name} (PSS): {held['idle'] / 1e6:.0f} MB idle, {held['most'] / 1e6:.0f} MB at most"
        )
    return "\n".join(lines)


def _speed(one: dict[str, float]) -> str:
    if one["large"]:
        return f"{one['bytes_per_second'] / 1e6:,.0f} MB/s"
    return f"{one['requests_per_second']:,.0f} rps"


def _cost(one: dict[str, float]) -> str:
    if one["large"]:
        return f"{one['cpu_seconds_per_megabyte'] * 1e3:.3f} ms/MB"
    return f"{one['cpu_seconds_per_request'] * 1e6:,.0f} µs"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=3, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--workers", type=int, help="of the mirror; its own default otherwise")
    options = parser.parse_args(arguments)
    need("docker-registry", "skopeo", "wrk")
    home = Path(tempfile.mkdtemp(prefix="entrepot-bench-"))
    upstream = Registry(home / "upstream")
    try:
        upstream.start()
        cases = fill(upstream, home / "layout")
        with started(home, upstream.url, workers=options.workers) as peers:
            results = {"options": vars(options), **measure(cases, peers, options)}
    finally:
        upstream.stop()
        shutil.rmtree(home)
    print(f"\n{report(results)}\n\nkept in {write('warm', results)}")


if __name__ == "__main__":
    main()
