"""What a configuration takes from around it: the environment, files, the machine."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .problem import Mistake
from .secret import Secret

_SUBSTITUTION: Final = re.compile(r"(\$?)\$\{([^}]*)(\}?)")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_WORKERS: Final = 4


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a configuration is read."""

    base_dir: Path
    """What relative paths are relative to."""
    environ: Mapping[str, str] = field(repr=False)

    @classmethod
    def here(cls, base_dir: Path) -> Surroundings:
        """This process's own."""
        return cls(base_dir, dict(os.environ))


def expand(text: str, around: Surroundings) -> str:
    """`${NAME}` replaced from the environment; `$${` stands for `${`. Raises `Mistake`."""

    def replacement(match: re.Match[str]) -> str:
        escape, name, end = match.groups()
        if escape:
            return match[0][1:]
        if not end or _NAME.fullmatch(name) is None:
            raise Mistake(
                "must have `${` only as part of `${NAME}`; write `$${` for the characters themselves"
            )
        value = around.environ.get(name)
        if value is None:
            raise Mistake(f"needs {name}, which is not set in the environment")
        return value

    return _SUBSTITUTION.sub(replacement, text)


def password(text: str, around: Surroundings) -> Secret:
    """`${NAME}` alone is a secret from the environment; anything else a literal one."""
    match = _SUBSTITUTION.fullmatch(text)
    if match is not None and not match[1] and _NAME.fullmatch(match[2]) and match[3]:
        return Secret.from_env(match[2], around.environ)
    try:
        return Secret.literal(expand(text, around))
    except Mistake as mistake:
        reason = str(mistake)
    raise Mistake(reason, quotable=False)


def password_env(text: str, around: Surroundings) -> Secret:
    """The name of a variable that holds a secret."""
    if _NAME.fullmatch(text) is None:  # somebody put the secret itself here: it must not be shown
        raise Mistake("must be the name of an environment variable, without `$`", quotable=False)
    return Secret.from_env(text, around.environ)


def password_file(text: str, around: Surroundings) -> Secret:
    """The path of a file that holds a secret."""
    return Secret.from_file(path(text, around))


def secret_path(text: str, around: Surroundings) -> Path:
    """The path of a file that holds a secret, which can be read now."""
    found = path(text, around)
    Secret.from_file(found)
    return found


def certificates(text: str, around: Surroundings) -> Path:
    """The path of a file of certificates in PEM form."""
    found = path(text, around)
    try:
        found.read_bytes()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(found)
    except ssl.SSLError:
        raise Mistake(f"names {found}, which holds no certificate in PEM form", quotable=False) from None
    except OSError as error:
        raise Mistake(f"names {found}, which cannot be used: {error.strerror}", quotable=False) from None
    return found


def directory(text: str, around: Surroundings) -> Path:
    """The path of a directory, which may be made later."""
    found = path(text, around)
    if found.exists() and not found.is_dir():
        raise Mistake(f"names {found}, which is no directory", quotable=False)
    return found


def path(text: str, around: Surroundings) -> Path:
    """An absolute path; `~/` is the user's home."""
    if "\0" in text:
        raise Mistake("must be a path", quotable=False)
    if text == "~" or text.startswith("~/"):
        return _home(around) / text[2:]
    return around.base_dir / text


def cache_home(around: Surroundings) -> Path:
    """The user's cache directory (XDG Base Directory Specification), with ours in it."""
    named = around.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if named.startswith("/") else _home(around) / ".cache") / "entrepot"


def default_workers(around: Surroundings) -> int:
    """One for each core that this process may use, at most four."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_WORKERS, usable)


def _home(around: Surroundings) -> Path:
    named = around.environ.get("HOME", "")
    if named.startswith("/"):
        return Path(named)
    try:
        home = Path("~").expanduser()
    except RuntimeError:
        raise Mistake("must be given as an absolute path: this user has no home directory") from None
    return home
