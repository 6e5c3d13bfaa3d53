"""`entrepot check`: whether the configuration is good, and what it means."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config import (
    BUILT_IN_SOURCE,
    Config,
    ConfigError,
    Problem,
    UpstreamConfig,
    find_file,
    format_size,
    read,
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the command line."""
    parser = subparsers.add_parser(
        "check",
        help="validate the configuration",
        description="Reads the configuration as the server would. Says what it means, or everything that is "
        "wrong with it, line by line (exit code 2).",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="default: ./upstreams.yaml, else /etc/entrepot/upstreams.yaml, else the built-in one",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0: it is good. 2: it is not."""
    try:
        config = read(find_file(args.config))
    except ConfigError as error:
        if args.json:
            print(json.dumps({"ok": False, "problems": _listed(error.problems)}, indent=2))
        else:
            print(error, file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(_as_json(config), indent=2))
    else:
        print("\n".join(_summary(config)))
    return 0


def _summary(config: Config) -> Iterator[str]:
    if config.source == BUILT_IN_SOURCE:
        yield "no configuration file found: the built-in configuration is good"
    else:
        yield f"{config.source} is good"
    yield ""
    yield f"  clients  {config.listen}"
    yield f"  admin    {config.admin}"
    limit = "80% of the disk" if config.cache.max_size is None else format_size(config.cache.max_size)
    yield f"  cache    {config.cache.dir} (at most {limit})"
    offline = ", all offline: only what is in the cache" if config.offline else ""
    yield f"  mirrors  {_count(config.upstreams)}{offline}"
    width = max((len(name) for name in config.upstreams), default=0)
    for upstream in config.upstreams.values():
        yield f"    {upstream.name:{width}}  {_described(upstream, config.offline)}"
    if config.default_upstream() is None:
        yield "  No upstream has `default: true`: a request that names no registry finds nothing."
    if config.warnings:
        yield ""
        yield from (f"warning: {warning}" for warning in config.warnings)


def _count(upstreams: Mapping[str, UpstreamConfig]) -> str:
    return "1 registry" if len(upstreams) == 1 else f"{len(upstreams)} registries"


def _described(upstream: UpstreamConfig, all_offline: bool) -> str:
    facts = [upstream.url]
    if upstream.default:
        facts.append("the default")
    facts.extend(f"also as {prefix}/" for prefix in upstream.prefixes)
    facts.append("anonymous" if upstream.credential is None else f"as {upstream.credential.username}")
    if upstream.offline and not all_offline:
        facts.append("offline")
    return ", ".join(facts)


def _listed(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(problem) for problem in problems]


def _as_json(config: Config) -> dict[str, Any]:
    return {
        "ok": True,
        "source": config.source,
        "listen": str(config.listen),
        "admin": str(config.admin),
        "cache_dir": str(config.cache.dir),
        "max_size": config.cache.max_size,
        "workers": config.workers,
        "offline": config.offline,
        "upstreams": [
            {
                "name": upstream.name,
                "url": upstream.url,
                "prefixes": list(upstream.prefixes),
                "default": upstream.default,
                "username": None if upstream.credential is None else upstream.credential.username,
                "offline": upstream.offline,
            }
            for upstream in config.upstreams.values()
        ],
        "warnings": _listed(config.warnings),
    }
