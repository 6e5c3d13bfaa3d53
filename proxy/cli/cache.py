"""`entrepot cache …`: looking after the cache, while a server runs on it or not."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from ..config import find_file, overrides_from_flags, read
from ..mirror.upkeep import Json
from .control import Control, Refused, connected

_COLUMN = 71
"""Width of a digest."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its parts to the command line."""
    parser = subparsers.add_parser(
        "cache",
        help="look after the cache",
        description="Looks after the cache, whether a server runs on it or not.",
    )
    parts = parser.add_subparsers(title="commands", dest="part", required=True, metavar="COMMAND")
    commands: list[tuple[str, str, Callable[[Control, argparse.Namespace], Awaitable[int]], str | None]] = [
        ("list", "the tags that are here", _list, "prefix"),
        ("show", "one image: what its tag means, and what of it is here", _show, "image"),
        ("stats", "how much is here", _stats, None),
        ("remove", "take an image out", _remove, "image"),
        ("refresh", "ask the upstream now what a tag means", _refresh, "image"),
    ]
    for name, meaning, do, argument in commands:
        part = parts.add_parser(name, help=meaning, description=meaning[0].upper() + meaning[1:] + ".")
        if argument == "prefix":
            part.add_argument("prefix", nargs="?", default="", help="such as docker.io/library/")
        elif argument == "image":
            part.add_argument("image", metavar="IMAGE", help="such as docker.io/library/alpine:3.20")
        part.add_argument("--config", type=Path, metavar="FILE")
        part.add_argument("--cache-dir", metavar="DIR")
        part.add_argument("--json", action="store_true", help="print the result as JSON")
        part.set_defaults(run=run, do=do)


def run(args: argparse.Namespace) -> int:
    """0: done. 1: it did not work."""
    config = read(find_file(args.config), overrides_from_flags(cache_dir=args.cache_dir))

    async def work() -> int:
        async with connected(config) as control:
            return int(await args.do(control, args))

    try:
        return asyncio.run(work())
    except Refused as refusal:
        print(f"entrepot: {refusal}", file=sys.stderr)
        return 1


async def _list(control: Control, args: argparse.Namespace) -> int:
    rows: AsyncIterator[Json] = control.list(args.prefix)
    async for row in rows:
        if args.json:
            print(json.dumps(row))
        else:
            print(f"{row['image']:<60} {row['digest']:<{_COLUMN}} {_age(row)}")
    return 0


async def _show(control: Control, args: argparse.Namespace) -> int:
    image = await control.get("show", image=args.image)
    if args.json:
        print(json.dumps(image, indent=2))
        return 0
    print(image["image"])
    print(f"  digest     {image['digest']}")
    if image["tag"] is not None:
        print(f"  confirmed  {_age(image['tag'])}")
    print(
        f"  here       {image['pieces_here']} of {image['pieces']} pieces, {_readable(image['bytes_here'])}"
    )
    for part in image["contents"]:
        state = "here" if part["held"] else "not here"
        state += "" if part["proved"] else ", only claimed"
        size = "?" if part["size"] is None else _readable(part["size"])
        print(f"  {part['digest']}  {size:>10}  {state:<22} {part['media_type'] or part['kind']}")
    return 0


async def _stats(control: Control, args: argparse.Namespace) -> int:
    stats = await control.get("stats")
    if args.json:
        print(json.dumps(stats, indent=2))
        return 0
    print(f"directory   {stats['directory']}")
    print(f"blobs       {stats['blobs']}, {_readable(stats['bytes'])}")
    print(f"manifests   {stats['manifests']}, {_readable(stats['manifest_bytes'])} of these")
    print(f"tags        {stats['tags']}")
    print(f"on the way  {_readable(stats['partial_bytes'])}")
    limits = _readable(stats["max_size"]), _readable(stats["min_free"])
    print(f"allowed     {limits[0]}; {limits[1]} of the disk stay free")
    return 0


async def _remove(control: Control, args: argparse.Namespace) -> int:
    removed = await control.post("remove", image=args.image)
    if args.json:
        print(json.dumps(removed, indent=2))
    else:
        size = _readable(removed["bytes"])
        print(f"removed {removed['image']}: {removed['blobs']} blobs, {size} freed")
    return 0


async def _refresh(control: Control, args: argparse.Namespace) -> int:
    refreshed = await control.post("refresh", image=args.image)
    if args.json:
        print(json.dumps(refreshed, indent=2))
    elif refreshed["changed"]:
        print(f"{refreshed['image']}: {refreshed['before'] or 'unknown'} -> {refreshed['after']}")
    else:
        print(f"{refreshed['image']}: unchanged, {refreshed['after']}")
    return 0


def _age(tag: dict[str, Any]) -> str:
    if tag["gone"]:
        return "deleted upstream"
    seconds = int(tag["age"])
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit} ago"
    return f"{seconds}s ago"


def _readable(count: int) -> str:
    """Bytes for people: three digits and a unit."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
