"""Metrics of several processes as one: what each says of itself, and their sum.

What a process says is JSON: families, each with its samples. Sums are by sample name and labels. Counters
and histograms of a process that has ended stay in the sum, or its restart would look like a reset; its
gauges, which speak of what is there now, go with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from prometheus_client import generate_latest
from prometheus_client.core import Metric

Families = list[dict[str, Any]]
"""`name`, `help`, `type`, and `samples`: each a name, its labels and a value."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of `exposition` (Prometheus, Exposition formats)."""

_CUMULATIVE: Final = frozenset({"counter", "histogram"})


def families_of(metrics: Iterable[Metric]) -> Families:
    """What prometheus_client collected, without its times of creation."""
    return [
        {
            "name": metric.name,
            "help": metric.documentation,
            "type": metric.type,
            "samples": [
                [sample.name, dict(sample.labels), sample.value]
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ],
        }
        for metric in metrics
    ]


def merge(snapshots: Iterable[Families]) -> Families:
    """The sum."""
    merged: dict[str, dict[str, Any]] = {}
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for snapshot in snapshots:
        for family in snapshot:
            name = family["name"]
            merged.setdefault(name, family)
            of_family = sums.setdefault(name, {})
            for sample, labels, value in family["samples"]:
                key = (sample, tuple(labels.items()))
                of_family[key] = of_family.get(key, 0.0) + value
    return [
        {
            **family,
            "samples": [[sample, dict(labels), value] for (sample, labels), value in sums[name].items()],
        }
        for name, family in merged.items()
    ]


def cumulative(families: Families) -> Families:
    """What stays of a process that has ended."""
    return [family for family in families if family["type"] in _CUMULATIVE]


def exposition(families: Families) -> bytes:
    """In Prometheus's text format."""
    return generate_latest(_Collected(families))


class MetricsSum:
    """The last word of each process, and what those that have ended leave behind."""

    def __init__(self) -> None:
        self._living: dict[str, Families] = {}
        self._ended: Families = []

    def put(self, process: str, families: Families) -> None:
        """What a process says now, in place of what it said before."""
        self._living[process] = families

    def retire(self, process: str) -> None:
        """The process has ended."""
        families = self._living.pop(process, None)
        if families is not None:
            self._ended = merge((self._ended, cumulative(families)))

    def families(self) -> Families:
        return merge((*self._living.values(), self._ended))


class _Collected:
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family["name"], family["help"], family["type"])
            for name, labels, value in family["samples"]:
                metric.add_sample(name, labels, value)
            yield metric
