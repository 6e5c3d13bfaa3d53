"""The command line: one module a command."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

from entrepot.cache.errors import CacheError

from ..config import ConfigError
from . import cache, check, serve

_COMMANDS = (serve, check, cache)


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    top = argparse.ArgumentParser(
        prog="entrepot", description="A pull-through caching mirror of OCI container registries."
    )
    top.add_argument("--version", action="version", version=f"entrepot {version('entrepot')}")
    commands = top.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. 0: done, 1: it did not work, 2: wrong usage or configuration. What goes wrong is said
    in a line on stderr, never as a traceback."""
    options = parser().parse_args(arguments)
    try:
        result: int = options.run(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except CacheError as error:
        print(f"entrepot: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            sys.stdout.close()
        return 1
    except KeyboardInterrupt:
        return 130
    return result
