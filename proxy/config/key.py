"""What a row of the table of keys is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from .surroundings import Surroundings

Place = Literal["top", "cache", "log", "defaults", "upstreams", "upstream", "timeout", "credentials"]
"""A mapping in which keys stand; `upstreams` is the one whose keys are names."""

ABOVE: Final[Mapping[Place, str]] = {
    "top": "at the top",
    "cache": "under `cache:`",
    "log": "under `log:`",
    "defaults": "under `defaults:`",
    "upstreams": "under `upstreams:`",
    "upstream": "under an upstream",
    "timeout": "under `timeout:`",
    "credentials": "under `credentials:`",
}
"""Where a place is, for people."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value, read from its text whether it stands in quotes or not."""

    form: str
    """What it looks like, for people."""
    read: Callable[[str, Surroundings], object]
    """Raises `Mistake`."""
    expanded: bool = True
    """Whether `${NAME}` is replaced before reading."""


@dataclass(frozen=True, slots=True)
class Several:
    """A list of values, of which one alone may stand without being a list. Read as a tuple."""

    item: Scalar


@dataclass(frozen=True, slots=True)
class Single:
    """One value, which may stand in a list; lists of more are later work."""

    item: Scalar


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with keys of its own."""

    place: Place
    make: Callable[..., object] | None
    """Called with the keys' values by name; None where the reader has its own way."""
    listed: bool = False
    """Whether it may stand in a list; lists of more than one are later work."""


@dataclass(frozen=True, slots=True)
class TagDurations:
    """A duration, or a mapping of tag patterns to durations."""


@dataclass(frozen=True, slots=True)
class NotBuilt:
    """A key that the design has and this version does not: refused by name."""


Value = Scalar | Several | Single | Section | TagDurations | NotBuilt


@dataclass(frozen=True, slots=True)
class Key:
    """A row of the table."""

    name: str
    where: tuple[Place, ...]
    value: Value
    default: str | Callable[[Surroundings], object] | None = None
    """As it would be written, or how it is found; None: no value, or an empty list."""
    meaning: str = ""
    shown: str = ""
    """The default in words, where `default` cannot say it."""
    reloadable: bool = True
    """Whether a reload can change it; if not, the server must be started again."""
    field: str = ""
    """Its name in `model`, where it is not the key's own."""

    @property
    def attribute(self) -> str:
        """The field of `model` that holds its value."""
        return self.field or self.name
