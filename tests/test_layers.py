"""Imports run one way: a module imports only what stands above it in this table (CONTRIBUTING, the rooms)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent

TABLE: Final = (
    # Each entry is how names of modules begin; the longest that fits a module ranks it. What begins alike
    # may import one another, but never in a circle; two entries of one row may not.
    ("cache.__init__", "cache.errors", "cache.clock", "cache.generation", "cache.media_type"),
    ("cache.threads", "cache.watch", "cache.flight_state"),
    ("cache.digest", "cache.lease", "cache.directory"),
    ("cache.reference", "cache.descriptor", "cache.blob_store", "cache.source", "cache.index"),
    ("cache.manifest", "cache.revalidation", "cache.inventory", "cache.filesystem"),
    ("cache.embedded", "cache.remembered_index", "cache.held", "cache.partials"),
    ("cache.room", "cache.flight"),
    ("proxy.__init__", "proxy.errors", "proxy.metrics", "proxy.byte_range", "proxy.config."),
    ("proxy.upstream.",),
    ("proxy.mirror.",),
    ("proxy.server.",),
    ("proxy.admin.",),
    ("proxy.cli.",),
    ("proxy.__main__",),
)

FOREIGN: Final = {
    "cache": {"aiofiles", "asyncinotify", "diskcache"},
    "proxy": {"aiohttp", "multidict", "prometheus_client", "yaml", "yarl"},
}
"""What of others each room may import. That `cache/` knows nothing of HTTP is this row."""
HTTP: Final = {"http", "urllib", "socketserver"}


def modules_of(root: Path) -> dict[str, str]:
    """Name and source of every module; a package is `NAME.__init__`."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): path.read_text()
        for room in FOREIGN
        for path in sorted((root / room).rglob("*.py"))
    }


def imported_by(name: str, source: str) -> Iterator[tuple[str, bool]]:
    """Every import as an absolute dotted name, deepest first where it may be a name in a module, and
    whether it was written relative."""
    package = name.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{start}.{alias.name}", node.level > 0) for alias in node.names)


def resolve(target: str, modules: Mapping[str, str]) -> str | None:
    """The module that a dotted name is, or is in."""
    parts = target.removeprefix("entrepot.").split(".")
    for end in (len(parts), len(parts) - 1):
        name = ".".join(parts[:end])
        for candidate in (name, f"{name}.__init__"):
            if candidate in modules:
                return candidate
    return None


def entry_of(name: str) -> tuple[int, str] | None:
    """The row of a module and the entry that ranks it."""
    fitting = [
        (row, entry) for row, entries in enumerate(TABLE) for entry in entries if name.startswith(entry)
    ]
    return max(fitting, key=lambda found: len(found[1]), default=None)


def mistakes(modules: Mapping[str, str]) -> list[str]:
    """Everything that is imported and may not be, and every module that the table does not rank."""
    found = []
    graph: dict[str, set[str]] = {}
    for name, source in modules.items():
        room = name.partition(".")[0]
        if entry_of(name) is None:
            found.append(f"{name} is not in the table")
        for target, relative in imported_by(name, source):
            top = target.partition(".")[0]
            if relative or top == "entrepot":
                if not relative and target.startswith(f"entrepot.{room}"):
                    found.append(f"{name} imports {target}: relative inside a room")
                found += _ranked(name, target, modules, graph)
            elif top in FOREIGN:
                found.append(f"{name} imports {target}: a second copy of entrepot.{target}")
            elif top in sys.stdlib_module_names:
                if room == "cache" and top in HTTP:
                    found.append(f"{name} imports {target}: cache/ knows nothing of HTTP")
            elif top not in FOREIGN[room]:
                found.append(f"{name} imports {target}: not for {room}/")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"a circle: {' <- '.join(error.args[1])}")
    return found


def _ranked(name: str, target: str, modules: Mapping[str, str], graph: dict[str, set[str]]) -> Iterator[str]:
    module = resolve(target, modules)
    if module is None or module == name:
        yield f"{name} imports {target}: there is no such module"
        return
    if module == f"{name.rpartition('.')[0]}.__init__" and not target.endswith("__init__"):
        yield f"{name} imports its own package, which imports it"
    graph.setdefault(name, set()).add(module)
    mine, theirs = entry_of(name), entry_of(module)
    if mine is not None and theirs is not None and mine != theirs and mine[0] <= theirs[0]:
        yield f"{name} imports {module}, which does not stand above it"


def test_imports_run_one_way() -> None:
    assert mistakes(modules_of(ROOT)) == []


def test_every_entry_ranks_something() -> None:
    ranked = {entry_of(name) for name in modules_of(ROOT)}
    assert [
        entry for row, entries in enumerate(TABLE) for entry in entries if (row, entry) not in ranked
    ] == []


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("cache.digest", "from entrepot.proxy.errors import X", "does not stand above it"),
        ("cache.digest", "from .flight import X", "does not stand above it"),
        ("cache.digest", "from . import flight", "does not stand above it"),
        ("cache.digest", "import aiohttp", "not for cache/"),
        ("cache.digest", "from urllib.parse import quote", "knows nothing of HTTP"),
        ("cache.digest", "from entrepot.cache.errors import X", "relative inside a room"),
        ("proxy.errors", "import cache.digest", "a second copy"),
        ("proxy.errors", "def f():\n    from proxy.cli import main", "a second copy"),
        ("proxy.errors", "from .config import Config", "does not stand above it"),
        ("proxy.errors", "from .nowhere import X", "no such module"),
        ("cache.flight_lead", "from .flight import X", "a circle"),
        ("proxy.config.model", "from . import Config", "imports its own package"),
        ("proxy.novelty", "", "not in the table"),
    ],
)
def test_what_the_table_refuses(name: str, source: str, said: str) -> None:
    modules = {
        "cache.errors": "",
        "cache.digest": "",
        "cache.flight": "from . import flight_lead",
        "cache.flight_lead": "",
        "proxy.errors": "from entrepot.cache.errors import CacheError\nfrom entrepot.cache import digest",
        "proxy.config.__init__": "from .model import Config",
        "proxy.config.model": "",
        "proxy.cli.__init__": "from ..config import Config\nimport aiohttp",
    }
    assert mistakes(modules) == []
    assert any(said in mistake for mistake in mistakes(modules | {name: source}))
