"""Challenges: what an upstream says it wants to see before it answers (RFC 9110, 11.6.1 WWW-Authenticate)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

_SIZE_LIMIT: Final = 16 * 1024
"""Characters of all challenges of one answer together; real ones have a few hundred."""
_CHALLENGES: Final = 16
_PARAMETERS: Final = 32

_SEPARATOR: Final = re.compile(r"[\s,]*")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Bare values are wider than the grammar's token: realms with slashes and colons are sent without quotes.
_VALUE: Final = re.compile(r'[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=][^\s,"]*))')
_TOKEN68: Final = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")
_ESCAPE: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme that the upstream would take, and what it says of it."""

    scheme: str
    """In lower case, such as `bearer`."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case, values without their quotes."""

    def get(self, name: str) -> str:
        """A parameter's value; empty where it is not given."""
        return self.parameters.get(name, "")


def parse(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """All challenges of an answer's `WWW-Authenticate` lines, in order. What cannot be read is left out, and
    nothing at all is read of lines that are longer than any honest ones. Never raises."""
    text = ",".join(headers)
    if len(text) > _SIZE_LIMIT:
        return ()
    return tuple(_challenges(text))


def choose(challenges: Iterable[Challenge]) -> Challenge | None:
    """The challenge to answer: a Bearer that names its realm, else Basic, else none."""
    offered = list(challenges)
    for challenge in offered:
        if challenge.scheme == "bearer" and challenge.get("realm"):
            return challenge
    return next((challenge for challenge in offered if challenge.scheme == "basic"), None)


def _challenges(text: str) -> Iterator[Challenge]:
    scheme: str | None = None
    parameters: dict[str, str] = {}
    count = at = 0
    while True:
        at = _end(_SEPARATOR, text, at)
        name = _TOKEN.match(text, at)
        if name is None:
            if at >= len(text):
                break
            at += 1  # a character that belongs nowhere: begin again behind it
            continue
        value = _VALUE.match(text, name.end()) if scheme is not None else None
        if value is not None:
            quoted, bare = value.groups()
            if len(parameters) < _PARAMETERS:
                parameters.setdefault(name[0].lower(), bare if quoted is None else _ESCAPE.sub(r"\1", quoted))
            at = value.end()
            continue
        if scheme is not None:
            yield Challenge(scheme, parameters)
            count += 1
            if count == _CHALLENGES:
                return
        scheme, parameters = name[0].lower(), {}
        token68 = _TOKEN68.match(text, name.end())
        at = token68.end() if token68 else name.end()
    if scheme is not None:
        yield Challenge(scheme, parameters)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()
