"""What a reload cannot change."""

from __future__ import annotations

import operator

from .key import Key, NotBuilt, Place, Section
from .keys import keys_of
from .model import Config


def changed_without_reload(old: Config, new: Config) -> list[str]:
    """The keys, such as `cache.dir`, that differ and take effect only when the server is started again."""
    return [path for path, key in _walk("top") if not key.reloadable and _differs(path, old, new)]


def _differs(path: str, old: Config, new: Config) -> bool:
    value = operator.attrgetter(path)
    return bool(value(old) != value(new))


def _walk(place: Place, above: str = "") -> list[tuple[str, Key]]:
    """The keys that hold for the whole server, with their paths."""
    found: list[tuple[str, Key]] = []
    for key in keys_of(place).values():
        path = above + key.name
        if isinstance(key.value, Section):
            if key.value.make is not None:
                found += _walk(key.value.place, path + ".")
        elif not isinstance(key.value, NotBuilt):
            found.append((path, key))
    return found
