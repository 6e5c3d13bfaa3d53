"""What flags of the command line say, read by the same table as the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from .key import Place, Scalar
from .keys import keys_of
from .model import Overrides
from .problem import ConfigError, Mistake, Problem
from .surroundings import Surroundings

_FLAGS: Final[tuple[tuple[str, str, Place, str], ...]] = (
    ("--listen", "listen", "top", "listen"),
    ("--admin", "admin", "top", "admin"),
    ("--cache-dir", "cache_dir", "cache", "dir"),
    ("--workers", "workers", "top", "workers"),
)
"""Flag, field of `Overrides`, and the key that it beats."""


def overrides_from_flags(
    *,
    listen: str | None = None,
    admin: str | None = None,
    cache_dir: str | None = None,
    workers: str | None = None,
    offline: bool = False,
) -> Overrides:
    """Flags as they were typed; paths are relative to the working directory. Raises `ConfigError` with every
    mistake in them."""
    typed = {"listen": listen, "admin": admin, "cache_dir": cache_dir, "workers": workers}
    around = Surroundings(Path.cwd(), os.environ)
    said: dict[str, Any] = {"offline": True} if offline else {}
    problems = []
    for flag, field, place, name in _FLAGS:
        text = typed[field]
        scalar = keys_of(place)[name].value
        if text is None or not isinstance(scalar, Scalar):
            continue
        try:
            if not text:
                raise Mistake("must not be empty", quotable=False)
            said[field] = scalar.read(text, around)
        except Mistake as mistake:
            found = f" (found: {text})" if mistake.quotable else ""
            problems.append(Problem(flag, None, "", f"{mistake}{found}"))
    if problems:
        raise ConfigError(problems)
    return Overrides(**said)
