"""Secrets: read where they are kept each time they are needed, and shown nowhere."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from entrepot.cache.clock import Clock, SystemClock

from .problem import Mistake

_LOG: Final = logging.getLogger(__name__)
_SIZE_LIMIT: Final = 64 * 1024
"""Bytes. Google's service account keys, the longest passwords of the field, have under 3 KiB."""
_LOOK_AGAIN: Final = 1.0
"""Seconds between two looks at a secret's file."""
_ROUNDS: Final = 20_000
"""Of PBKDF2: some milliseconds, once for each password, against guessing a password from a log."""

_Version = tuple[int, int, int, int]


class Secret:
    """A password, or whatever else must not be seen.

    It cannot be printed, pickled or turned into JSON; only `read` gives it out. A file's content is read
    again when the file has changed."""

    __slots__ = (
        "_clock",
        "_complained",
        "_fingerprint",
        "_kind",
        "_looked_at",
        "_value",
        "_version",
        "_where",
    )

    def __init__(
        self,
        kind: Literal["env", "file", "literal"],
        where: str,
        value: str | None,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._kind = kind
        self._where = where
        self._value = value
        self._clock = clock or SystemClock()
        self._version: _Version | None = None
        self._looked_at = float("-inf")
        self._complained = False
        self._fingerprint: tuple[str, str, str] | None = None

    @classmethod
    def from_env(cls, name: str, environ: Mapping[str, str]) -> Secret:
        """The value of a variable of the environment, as it is now. Raises `Mistake`."""
        value = environ.get(name)
        if value is None:
            raise Mistake(f"names {name}, which is not set in the environment", quotable=False)
        if not value:
            raise Mistake(f"names {name}, which is empty in the environment", quotable=False)
        if not _is_text(value):
            raise Mistake(f"names {name}, which is not UTF-8 in the environment", quotable=False)
        return cls("env", name, value)

    @classmethod
    def from_file(cls, path: Path, *, clock: Clock | None = None) -> Secret:
        """The content of a file without the line end that closes it. Raises `Mistake` where it cannot be
        read now."""
        secret = cls("file", str(path), None, clock=clock)
        try:
            secret.read()
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            return secret
        raise Mistake(f"names {path}, which cannot be used: {reason}", quotable=False)

    @classmethod
    def literal(cls, value: str) -> Secret:
        """A value that stands in the configuration itself. Raises `Mistake`."""
        if not _is_text(value):
            raise Mistake("must be text", quotable=False)
        return cls("literal", "", value)

    @property
    def is_literal(self) -> bool:
        """Whether it stands in the configuration itself."""
        return self._kind == "literal"

    @property
    def origin(self) -> str:
        """Where it is kept, for people: `$HUB_TOKEN`, `/run/secrets/ghcr`, `a literal`."""
        if self._kind == "literal":
            return "a literal"
        return f"${self._where}" if self._kind == "env" else self._where

    def read(self) -> str:
        """The secret. Looks at its file at most once a second, and reads it only if it has changed: a
        moment's work on a local disk; on any other call it off the event loop.

        A file that has vanished or become unreadable leaves the last content in use, and says so in the log
        once. Raises `OSError`, which names the file, where there is no last content."""
        if self._kind == "file":
            now = self._clock.monotonic()
            if now - self._looked_at >= _LOOK_AGAIN:
                self._looked_at = now
                self._look()
        value = self._value
        if value is None:
            raise FileNotFoundError(f"{self._where} has not been read yet")
        return value

    def fingerprint(self, label: str) -> str:
        """Sixteen hexadecimal digits that differ for each label and each value, and from which the value
        cannot be guessed cheaply. The same in all processes."""
        value = self.read()
        known = self._fingerprint
        if known is None or known[0] != label or known[1] != value:
            salt = b"entrepot credential\0" + label.encode()
            digits = hashlib.pbkdf2_hmac("sha256", value.encode(), salt, _ROUNDS, 8).hex()
            known = self._fingerprint = (label, value, digits)
        return known[2]

    def _look(self) -> None:
        try:
            version, content = _read_changed(self._where, self._version)
        except OSError as error:
            if self._value is None:
                raise
            if not self._complained:
                self._complained = True
                _LOG.warning(
                    "secret file %s cannot be used (%s); its last content stays in use",
                    self._where,
                    error.strerror or error,
                )
            return
        if content is not None:
            self._value, self._version = content, version
        if self._complained:
            self._complained = False
            _LOG.info("secret file %s is in use again", self._where)

    def __repr__(self) -> str:
        return f"<Secret from {self.origin}>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        """Whether both are kept in the same place and, unless that is a file, have the same value."""
        if not isinstance(other, Secret):
            return NotImplemented
        if (self._kind, self._where) != (other._kind, other._where):
            return False
        return self._kind == "file" or hmac.compare_digest(
            (self._value or "").encode(), (other._value or "").encode()
        )

    def __hash__(self) -> int:
        return hash((self._kind, self._where))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a secret is not pickled: it is read where it is needed")


def _read_changed(path: str, known: _Version | None) -> tuple[_Version, str | None]:
    """The file's version and, if that is not the known one, its content. Raises `OSError` with a reason that
    holds nothing of the content."""
    if known is not None and _version(os.stat(path)) == known:
        return known, None
    with open(path, "rb", opener=_opener) as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(0, "it is no regular file", path)
        raw = file.read(_SIZE_LIMIT + 1)
    text, reason = _decoded(raw)
    if reason:
        raise OSError(0, reason, path)
    return _version(facts), text


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO must not hang the start


def _version(facts: os.stat_result) -> _Version:
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _is_text(value: str) -> bool:
    """Whether it can be sent: no half of a character, as YAML's escapes and the environment can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _decoded(raw: bytes) -> tuple[str, str]:
    """The secret and an empty reason, or the other way round."""
    if len(raw) > _SIZE_LIMIT:
        return "", f"it is longer than {_SIZE_LIMIT} bytes"
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:  # which carries the bytes: it must not travel on
        return "", "it is not UTF-8 text"
    text = text.removesuffix("\n").removesuffix("\r")
    return (text, "") if text else ("", "it is empty")
