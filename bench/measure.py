"""What is measured: requests by wrk, processor time and memory of a process tree from /proc."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).parent / "results"
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_UNITS: Final = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}
_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True, slots=True)
class Load:
    """One run of wrk against one URL."""

    requests: float
    """Finished ones, per second."""
    bytes: float
    """Received, per second."""
    median: float
    """Seconds for a request."""
    p99: float
    cpu: float
    """Processor seconds of the server in one second."""

    @property
    def cpu_per_request(self) -> float:
        """Seconds."""
        return self.cpu / self.requests if self.requests else 0.0

    @property
    def cpu_per_megabyte(self) -> float:
        """Seconds for 10^6 bytes."""
        return self.cpu / (self.bytes / 1e6) if self.bytes else 0.0


def tree(pid: int) -> Iterator[int]:
    """A process and what descends from it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from tree(int(child))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process tree, ended children included."""
    total = 0
    for process in tree(pid):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(field) for field in fields[11:15])
    return total / _TICKS


def memory(pid: int) -> float:
    """Proportional set size of a process tree, in bytes."""
    total = 0
    for process in tree(pid):
        found = re.search(
            r"^Pss:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE
        )
        total += int(found[1]) * 1024 if found else 0
    return float(total)


def load(url: str, pid: int, *, seconds: int, connections: int, headers: Sequence[str] = ()) -> Load:
    """Raises `AssertionError` where any answer was not a 2xx, or a connection failed."""
    options = [option for header in headers for option in ("-H", header)]
    used, began = cpu_seconds(pid), time.monotonic()
    said = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "--latency", *options, url],
        capture_output=True,
        text=True,
        timeout=seconds + 90,
        check=True,
    ).stdout
    lasted = time.monotonic() - began
    used = cpu_seconds(pid) - used
    assert "Non-2xx" not in said, said
    assert "Socket errors" not in said, said
    return Load(
        requests=_number(r"Requests/sec:\s+([\d.]+)", said),
        bytes=_quantity(r"Transfer/sec:\s+([\d.]+)([KMGT]?)B", said, _UNITS),
        median=_quantity(r"50%\s+([\d.]+)(us|ms|s|m)", said, _SECONDS),
        p99=_quantity(r"99%\s+([\d.]+)(us|ms|s|m)", said, _SECONDS),
        cpu=used / lasted,
    )


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1])


def _quantity(pattern: str, text: str, units: dict[str, float]) -> float:
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1]) * units[found[2]]


def machine() -> dict[str, Any]:
    """Where figures come from: absolute ones differ between machines, ratios less."""
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": names[0] if names else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def write(name: str, results: dict[str, Any]) -> Path:
    """Keeps results as JSON; gives the file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n")
    return path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in line, the first to the left."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first, *rest = zip(row, widths, strict=True)
        return "  ".join([f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in rest)])

    return "\n".join([line(head), line(["-" * width for width in widths]), *(line(row) for row in rows)])
