"""From a configuration's text to `Config`: walks its tree by the table of keys, and gathers every mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, Final

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from . import crosschecks, values
from .built_in import BUILT_IN
from .crosschecks import KeyPath
from .document import MERGE, Document, is_empty, line_of, refusal, tree
from .key import ABOVE, Key, NotBuilt, Place, Scalar, Section, Several, Single, TagDurations
from .keys import KEYS, keys_of
from .model import Config, Overrides, TagRule, TagTtl, UpstreamConfig, canonical_name
from .problem import ConfigError, Mistake, Problem
from .surroundings import Surroundings, expand

Given = dict[str, Any]
"""What was written and could be read, by the names of its fields."""

_HUB: Final = "docker.io"
_HUB_URL: Final = "https://registry-1.docker.io"
_SHOWN_LIMIT: Final = 60
_TTL: Final = Scalar("duration", lambda text, around: values.duration(text))


def read_document(document: Document, overrides: Overrides, around: Surroundings) -> Config:
    """Raises `ConfigError` with every mistake that there is, in the order of the file."""
    reader = _Reader(document, around)
    config = reader.config(overrides)
    if reader.problems:
        raise ConfigError(sorted(reader.problems, key=lambda problem: problem.line or 0))
    return config


class _Reader:
    """Reads one document. What cannot be read is a problem, and as if it were not there."""

    def __init__(self, document: Document, around: Surroundings) -> None:
        self._document = document
        self._around = around
        self._lines: dict[KeyPath, int] = {}
        self._warnings: list[Problem] = []
        self.problems: list[Problem] = []

    def config(self, overrides: Overrides) -> Config:
        """Of use only while there are no `problems`."""
        root = tree(self._document)
        given = {} if root is None else self._section(root, "top", ())
        if "upstreams" not in given and ("upstreams",) not in self._lines:
            root = tree(Document(BUILT_IN, self._document.source, self._document.base_dir))
            given |= {} if root is None else self._section(root, "top", ())
        top = self._complete("top", _layer(overrides), given)
        upstreams = {
            name: self._upstream(name, said, given.get("defaults", {}), top["offline"])
            for name, said in given.get("upstreams", {}).items()
        }
        config = Config(
            **top, upstreams=upstreams, source=self._document.source, warnings=tuple(self._warnings)
        )
        self.problems += crosschecks.problems(config, self._lines)
        return config

    def _upstream(self, name: str, said: Given, defaults: Given, offline: bool) -> UpstreamConfig:
        known = self._complete("upstream", said, defaults)
        known["url"] = known["url"] or (_HUB_URL if name == _HUB else f"https://{name}")
        known["offline"] = known["offline"] or offline
        return UpstreamConfig(name=name, **known)

    # What was written

    def _section(self, node: Node, place: Place, path: KeyPath) -> Given:
        given: Given = {}
        known = keys_of(place)
        for name, name_node, node_under in self._pairs(node, path, f"keys, such as `{next(iter(known))}:`"):
            here = (*path, name)
            key = known.get(name)
            if key is None:
                self._problem(name_node, here, _unknown(name, place))
            elif isinstance(key.value, NotBuilt):
                self._problem(name_node, here, "is not built yet in this version")
            else:
                self._lines[here] = line_of(name_node)
                value = self._value(key, node_under, here)
                if value is not None:
                    given[key.attribute] = value
        return given

    def _value(self, key: Key, node: Node, path: KeyPath) -> object | None:
        match key.value:
            case Section(place="upstreams"):
                return self._upstreams(node, path)
            case Section(listed=True) as section:
                return self._credential(section, node, path)
            case Section(place):
                return self._section(node, place, path)
            case TagDurations():
                return self._tag_rules(node, path)
            case Several(item):
                nodes = node.value if isinstance(node, SequenceNode) else [node]
                read = [self._scalar(item, each, path) for each in nodes]
                return tuple(value for value in read if value is not None)
            case Single(item):
                only = self._only(node, path, f"one {item.form}")
                return None if only is None else self._scalar(item, only, path)
            case Scalar() as scalar:
                return self._scalar(scalar, node, path)
            case NotBuilt():
                return None

    def _scalar(self, scalar: Scalar, node: Node, path: KeyPath) -> object | None:
        if not isinstance(node, ScalarNode):
            what = "a list" if isinstance(node, SequenceNode) else "a mapping"
            self._problem(node, path, f"must be one value ({scalar.form}), not {what}")
            return None
        if (refused := refusal(node)) is not None:
            self._problem(node, path, refused)
            return None
        if is_empty(node):
            self._problem(node, path, f"has no value ({scalar.form}): give it one, or leave the key out")
            return None
        try:
            text = expand(node.value, self._around) if scalar.expanded else node.value
            if not text:
                raise Mistake("must not be empty", quotable=bool(node.value))
            return scalar.read(text, self._around)
        except Mistake as error:
            mistake = error
        found = f" (found: {_shown(node.value)})" if mistake.quotable else ""
        self._problem(node, path, f"{mistake}{found}")
        return None

    def _upstreams(self, node: Node, path: KeyPath) -> dict[str, Given]:
        given: dict[str, Given] = {}
        before = len(self.problems)
        for name, name_node, node_under in self._pairs(node, path, "registries, such as `quay.io: {}`"):
            canonical = canonical_name(name)
            here = (*path, canonical)
            try:
                _check_upstream_name(name)
            except Mistake as mistake:
                self._problem(name_node, (*path, name), str(mistake))
                continue
            if canonical in given:
                line = self._lines[here]
                self._problem(
                    name_node,
                    (*path, name),
                    f"is another name of {canonical}, which is in line {line} already",
                )
                continue
            self._lines[here] = line_of(name_node)
            given[canonical] = self._section(node_under, "upstream", here)
        if not given and len(self.problems) == before:
            self._problem(
                node,
                path,
                "names no registry, so nothing is mirrored: name one, such as `quay.io: {}`, or leave the "
                "key out for the built-in ones",
            )
        return given

    def _credential(self, section: Section, node: Node, path: KeyPath) -> object | None:
        only = self._only(node, path, "one credential")
        if only is None:
            return None
        before = len(self.problems)
        given = self._section(only, section.place, path)
        passwords = [
            name
            for name, key in keys_of(section.place).items()
            if key.attribute == "password" and (*path, name) in self._lines
        ]
        if len(passwords) > 1:
            self._problem(only, path, f"has {' and '.join(f'`{name}`' for name in passwords)}: keep one")
        if len(self.problems) > before:
            return None
        if "username" not in given:
            self._problem(only, path, "needs a `username`")
        if not passwords:
            self._problem(only, path, "needs a `password_file`, `password_env` or `password`")
        if len(self.problems) > before or section.make is None:
            return None
        credential = section.make(**given)
        if given["password"].is_literal:
            self._warnings.append(
                Problem(
                    self._document.source,
                    self._lines[(*path, "password")],
                    ".".join((*path, "password")),
                    "the password can be read here: `password_file`, `password_env` or `${NAME}` keep it "
                    "elsewhere",
                )
            )
        return credential

    def _tag_rules(self, node: Node, path: KeyPath) -> tuple[TagRule, ...]:
        if isinstance(node, ScalarNode):
            ttl = self._scalar(_TTL, node, path)
            return () if not isinstance(ttl, float) else (TagRule("*", ttl),)
        rules: list[TagRule] = []
        every = ""
        for pattern, pattern_node, node_under in self._pairs(node, path, 'patterns, such as `"latest": 0s`'):
            here = (*path, pattern)
            try:
                values.tag_pattern(pattern)
            except Mistake as mistake:
                self._problem(pattern_node, here, str(mistake))
                continue
            if every:
                self._warnings.append(
                    self._said(pattern_node, here, f"is never used: `{every}` above it matches every tag")
                )
            if _matches_all(pattern):
                every = every or pattern
            ttl = self._scalar(_TTL, node_under, here)
            if isinstance(ttl, float):
                rules.append(TagRule(pattern, ttl))
        return tuple(rules)

    def _pairs(self, node: Node, path: KeyPath, what: str) -> Iterator[tuple[str, Node, Node]]:
        """A mapping's keys as text, their nodes, and what stands under them."""
        if is_empty(node):
            return
        if (refused := refusal(node)) is not None:
            self._problem(node, path, refused)
            if isinstance(node, ScalarNode):
                return
        if not isinstance(node, MappingNode):
            found = "a list" if isinstance(node, SequenceNode) else "a single value"
            self._problem(node, path, f"must hold {what}, not {found}")
            return
        seen: dict[str, int] = {}
        for name_node, node_under in node.value:
            if (refused := refusal(name_node)) is not None:
                self._problem(name_node, path, f"holds a key that {refused}")
            elif not isinstance(name_node, ScalarNode) or is_empty(name_node):
                self._problem(name_node, path, "holds a key that is no text")
            elif name_node.value in seen:
                line = seen[name_node.value]
                message = f"stands here a second time, after line {line}: keep one"
                self._problem(name_node, (*path, name_node.value), message)
            elif name_node.tag == MERGE:
                self._problem(
                    name_node, path, "holds `<<`: YAML's merging is not read; `defaults:` is for that"
                )
            else:
                seen[name_node.value] = line_of(name_node)
                yield name_node.value, name_node, node_under

    def _only(self, node: Node, path: KeyPath, what: str) -> Node | None:
        """The one element of a list, or what stands where a list may stand."""
        if not isinstance(node, SequenceNode):
            return node
        if len(node.value) == 1:
            found: Node = node.value[0]
            return found
        count = len(node.value)
        instead = f"not {count}: more are not built yet in this version" if count else "not an empty list"
        self._problem(node, path, f"must be {what}, {instead}")
        return None

    # What was not

    def _complete(self, place: Place, *layers: Given) -> Given:
        """Every field of a place: from the first layer that has it, else by the table."""
        whole: Given = {}
        for key in keys_of(place).values():
            name = key.attribute
            said = [layer[name] for layer in layers if name in layer]
            match key.value:
                case NotBuilt() | Section(make=None):
                    continue
                case Section(listed=True):
                    whole[name] = said[0] if said else None
                case Section(below, make) if make is not None:
                    whole[name] = make(**self._complete(below, *said))
                case TagDurations():
                    whole[name] = self._tag_ttl(key, said)
                case _:
                    whole[name] = said[0] if said else self._default(key)
        return whole

    def _tag_ttl(self, key: Key, said: list[tuple[TagRule, ...]]) -> TagTtl:
        assert isinstance(key.default, str)
        last = TagRule("*", values.duration(key.default))
        rules: list[TagRule] = []
        for rule in (*(rule for layer in said for rule in layer), last):
            rules.append(rule)
            if _matches_all(rule.pattern):
                break
        return TagTtl(tuple(rules))

    def _default(self, key: Key) -> object:
        if callable(key.default):
            try:
                return key.default(self._around)
            except Mistake as mistake:
                section = "cache." if "cache" in key.where else ""
                self.problems.append(Problem(self._document.source, None, section + key.name, str(mistake)))
                return None
        match key.value:
            case Several(item) | Single(item) | (Scalar() as item) if key.default is not None:
                return item.read(key.default, self._around)
            case Several():
                return ()
        return None

    def _problem(self, node: Node, path: KeyPath, message: str) -> None:
        self.problems.append(self._said(node, path, message))

    def _said(self, node: Node, path: KeyPath, message: str) -> Problem:
        return Problem(self._document.source, line_of(node), ".".join(_shown(part) for part in path), message)


def _layer(overrides: Overrides) -> Given:
    said = {
        "listen": overrides.listen,
        "admin": overrides.admin,
        "workers": overrides.workers,
        "offline": overrides.offline,
        "cache": None if overrides.cache_dir is None else {"dir": overrides.cache_dir},
    }
    return {name: value for name, value in said.items() if value is not None}


def _check_upstream_name(name: str) -> None:
    """Raises `Mistake`."""
    if name in keys_of("upstreams"):
        raise Mistake("is not built yet in this version: name each registry")
    if name in keys_of("upstream"):
        raise Mistake(_elsewhere(keys_of("upstream")[name]))
    values.upstream_name(name)


def _unknown(name: str, place: Place) -> str:
    """What to say of a key that does not stand where it was found."""
    for key in KEYS:
        if key.name == name:
            return _elsewhere(key)
    if place == "top" and _is_upstream_name(name):
        return "is no key; registries stand under `upstreams:`"
    here = [known for known, key in keys_of(place).items() if not isinstance(key.value, NotBuilt)]
    for known in difflib.get_close_matches(name, here, 1):
        return f"is no key; did you mean `{known}`?"
    built = {key.name: key for key in KEYS if not isinstance(key.value, NotBuilt)}
    for known in difflib.get_close_matches(name, built, 1, 0.75):
        return f"is no key; did you mean `{known}`? That {_elsewhere(built[known])}"
    return f"is no key; {ABOVE[place]} may stand: {', '.join(here)}"


def _elsewhere(key: Key) -> str:
    return f"stands {' or '.join(ABOVE[place] for place in key.where)}, not here"


def _is_upstream_name(name: str) -> bool:
    try:
        values.upstream_name(name)
    except Mistake:
        return False
    return True


def _matches_all(pattern: str) -> bool:
    return "*" in pattern.split("|")


def _shown(text: str) -> str:
    """As it stands in the file, on one line and not too long."""
    text = text if text.isprintable() else text.encode("unicode_escape").decode()
    return text if len(text) <= _SHOWN_LIMIT else f"{text[:_SHOWN_LIMIT]}…"
