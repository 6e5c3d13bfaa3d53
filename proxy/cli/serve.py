"""`entrepot serve`: runs the mirror."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from importlib.metadata import version
from pathlib import Path

from entrepot.cache.errors import CacheError

from ..admin.cache_api import CacheApi
from ..admin.housekeeping import Housekeeping
from ..admin.office import AdminOffice
from ..config import ConfigError, Document, find_file, overrides_from_flags, parse
from ..server import log
from ..server.crew import CrewFailed
from ..server.data_plane import APP
from ..server.greeting import greeting
from ..server.limits import raise_descriptor_limit
from ..server.listeners import ListenError
from ..server.supervisor import Launch, Office, Supervisor


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the command line."""
    parser = subparsers.add_parser(
        "serve",
        help="run the mirror",
        description="Runs the mirror until it is told to stop. SIGTERM and SIGINT give what is under way its "
        "time (`drain`), a second one ends it at once; SIGHUP reads the configuration again.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="default: ./upstreams.yaml, else /etc/entrepot/upstreams.yaml, else the built-in one",
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="for clients (default: 127.0.0.1:5080)")
    parser.add_argument(
        "--admin", metavar="HOST:PORT", help="for people and monitoring (default: 127.0.0.1:5081)"
    )
    parser.add_argument("--cache-dir", metavar="DIR", help="default: the user's cache directory")
    parser.add_argument(
        "--workers", metavar="N", help="processes that serve (default: one a core, at most four)"
    )
    parser.add_argument(
        "--offline", action="store_true", help="serve what is in the cache, and ask no upstream"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, *, app: str = APP) -> int:
    """0: it has served, and what was under way had its time. 1: it could not serve, or was cut short. 2: the
    configuration is wrong."""
    try:
        overrides = overrides_from_flags(
            listen=args.listen,
            admin=args.admin,
            cache_dir=args.cache_dir,
            workers=args.workers,
            offline=args.offline,
        )
        path = find_file(args.config)
        document = Document.load(path)
        config = parse(document.text, document.source, document.base_dir, overrides)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    log.configure(config.log)
    descriptors = raise_descriptor_limit()

    def announce(supervisor: Supervisor) -> None:
        for warning in config.warnings:
            print(f"warning: {warning}", file=sys.stderr, flush=True)
        lines = greeting(config, supervisor.listen, supervisor.admin, descriptors)
        try:
            print("\n".join(lines), flush=True)
        except OSError:  # nobody reads it
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process

    async def serve() -> bool:
        offices: list[Office] = [AdminOffice()]
        if app == APP:  # another one has no cache to look after
            keeping = Housekeeping()
            offices = [keeping, AdminOffice(CacheApi(keeping.upkeep).routes())]
        supervisor = Supervisor(Launch(path, overrides), document, config, offices, announce, app=app)
        supervisor.metrics.info.labels(version("entrepot")).set(1)
        in_time = await supervisor.run()
        if not in_time:  # threads that wait for a disk or an upstream's name would hold it up
            log.close()
            os._exit(1)
        return in_time

    try:
        asyncio.run(serve())
    except (ListenError, CrewFailed, CacheError) as error:
        log.close()
        print(f"entrepot: {error}", file=sys.stderr)
        return 1
    finally:
        log.close()
    return 0
