"""Mistakes in a configuration, gathered so that all of them can be shown at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, or one warning, and where it stands. Never holds a secret."""

    source: str
    """The file as it was named, `built-in`, or the flag such as `--listen`."""
    line: int | None
    """Counted from 1; None where no line is to blame."""
    key: str
    """The key with those above it, such as `cache.max_size`; empty where no key is to blame."""
    message: str

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


class ConfigError(Exception):
    """A configuration that cannot be used. As text: all its mistakes, one a line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class Mistake(ValueError):
    """A value that cannot be read. The text goes on from the key's name (`must be …`) and holds nothing of
    the value itself, which may have come from the environment."""

    def __init__(self, message: str, *, quotable: bool = True) -> None:
        super().__init__(message)
        self.quotable = quotable
        """Whether the value as it stands in the file may be shown beside the message."""
