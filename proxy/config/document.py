"""A configuration's text and the tree in it, each node with its line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import yaml
from yaml.error import Mark
from yaml.nodes import Node, ScalarNode

from .built_in import BUILT_IN
from .problem import ConfigError, Problem

SIZE_LIMIT: Final = 1024 * 1024
"""Bytes of a configuration file."""
_DEPTH_LIMIT: Final = 16
"""Nested lists and mappings; the table of keys needs six."""
_CORE_TAGS: Final = "tag:yaml.org,2002:"
MERGE: Final = _CORE_TAGS + "merge"
"""The tag of YAML's key `<<`."""
_ALIAS, _ANCHOR, _TAG = "!alias", "!anchor", "!tag"
_REFUSED: Final = {
    _ALIAS: "begins with `*`, a YAML alias, which is not read: put it in quotes, or write it out",
    _ANCHOR: "begins with `&`, a YAML anchor, which is not read: put it in quotes, or leave the anchor out",
    _TAG: "begins with `!`, a YAML tag, which is not read: put it in quotes, or leave the tag out",
}

BUILT_IN_SOURCE: Final = "built-in"
PLACES: Final = (Path("upstreams.yaml"), Path("/etc/entrepot/upstreams.yaml"))
"""Where a configuration is looked for, in this order, when none is named."""


@dataclass(frozen=True, slots=True)
class Document:
    """A configuration's text as it was read once, so that several processes can mean the same."""

    text: str = field(repr=False)  # it may hold a literal password
    source: str
    base_dir: Path
    """What relative paths in it are relative to."""

    @classmethod
    def load(cls, path: Path | None) -> Document:
        """Reads a file; None: the built-in configuration. Raises `ConfigError`."""
        if path is None:
            return cls(BUILT_IN, BUILT_IN_SOURCE, Path.cwd())
        try:
            with open(path, "rb") as file:
                raw = file.read(SIZE_LIMIT + 1)
        except OSError as error:
            reason = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror
            raise ConfigError([Problem(str(path), None, "", f"cannot be read: {reason}")]) from None
        if len(raw) > SIZE_LIMIT:
            raise ConfigError([Problem(str(path), None, "", f"is longer than {SIZE_LIMIT} bytes")])
        return cls(_decoded(raw, str(path)), str(path), path.absolute().parent)


def find_file(config: Path | None = None) -> Path | None:
    """The configuration file to read: the one named, else the first of `PLACES` that there is, else None for
    the built-in configuration. One that is there but cannot be read is found: to pass over it in silence
    would run a mirror that nobody meant."""
    return config if config is not None else next((path for path in PLACES if _is_there(path)), None)


def tree(document: Document) -> Node | None:
    """The root of a document; None for an empty one. Raises `ConfigError` where it is no YAML."""
    try:
        loader = _Loader(document.text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = Problem(document.source, mark.line + 1 if mark else None, "", _syntax(error))
    except yaml.reader.ReaderError as error:
        line = document.text.count("\n", 0, error.position) + 1
        problem = Problem(document.source, line, "", "holds a control character")
    raise ConfigError([problem])  # not from there: the parser's errors carry the text, passwords included


def refusal(node: Node) -> str | None:
    """Why a node is not to be read as it stands, if it is not."""
    return _REFUSED.get(node.tag)


def is_empty(node: Node) -> bool:
    """Whether nothing stands here: `key:`, `~` or `null`."""
    return bool(node.tag == _CORE_TAGS + "null")


def line_of(node: Node) -> int:
    """Counted from 1."""
    return int(node.start_mark.line) + 1


class _Loader(yaml.SafeLoader):
    """Marks anchors, aliases and tags instead of acting on them: none is needed, aliases can make a small
    file huge, and an unquoted `*`, `&` or `!` at the head of a value is far oftener a slip."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs say nothing of it
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]  # as above
            return ScalarNode(_ALIAS, "", cast("Mark", event.start_mark), cast("Mark", event.end_mark))
        refused = _ANCHOR if event.anchor is not None else _TAG if event.tag is not None else None
        event.anchor = event.tag = None
        if self._depth >= _DEPTH_LIMIT:
            raise yaml.MarkedYAMLError(None, None, "nested too deeply", event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and refused is not None:
            node.tag = refused
        return node


def _syntax(error: yaml.MarkedYAMLError) -> str:
    """The parser's complaint, without what it quotes of the file beyond a character or two."""
    problem, context = error.problem or "it cannot be understood", error.context or ""
    for sign, advice in _ADVICE:
        if sign in problem or sign in context:
            return advice
    begun = ""
    if error.context_mark and error.problem_mark and error.context_mark.line != error.problem_mark.line:
        begun = f" ({context}, begun in line {error.context_mark.line + 1})"
    return f"is not YAML: {problem}{begun}"


_ADVICE: Final = (
    ("'\\t'", "is not YAML: indent with spaces, not with tabs"),
    ("undefined tag handle", "is not YAML: what begins with `!` must stand in quotes"),
    ("scanning an alias", "is not YAML: what begins with `*` must stand in quotes"),
    ("scanning an anchor", "is not YAML: what begins with `&` must stand in quotes"),
    ("cannot start any token", "is not YAML: what begins with `@`, `%` or a backtick must stand in quotes"),
    ("but got '{'", "is not YAML: within braces or brackets `${NAME}` must stand in quotes"),
    ("expected a single document", "holds a second document after `---`: put everything into one"),
    (
        "mapping values are not allowed",
        "is not YAML: a second `: ` in a line, or a wrong indentation; a value with `: ` in it must stand in "
        "quotes",
    ),
)
"""What people mean, by what the parser says."""


def _decoded(raw: bytes, source: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
    raise ConfigError([Problem(source, line, "", "is not UTF-8 text")])


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
