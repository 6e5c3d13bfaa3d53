"""The state of a download on disk: what the size of its file cannot say.

Beside a partial's data lies `<algorithm>-<hex>.state`: one page, rewritten in place, holding a header line
(format, checksum, length) and a JSON object. A page that was torn by a crash fails its checksum and counts
as no state.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

FORMAT: Final = 1
_PAGE: Final = 4096
_HEADER: Final = 32
_FAILURES_KEPT: Final = 8


class Phase(StrEnum):
    """How far a download is."""

    FILLING = "filling"
    VERIFIED = "verified"
    """All bytes are there and right; the file has not got its name yet."""
    STORED = "stored"
    BAD = "bad"
    """The bytes were wrong. Nobody goes on with them."""
    ABANDONED = "abandoned"
    """No source is left for now. The bytes so far are good to go on with."""
    REFUSED = "refused"
    """There is no room to keep it."""


@dataclass(slots=True)
class FlightState:
    """What a leader writes and followers read. Offsets and sizes are bytes."""

    epoch: int
    phase: Phase = Phase.FILLING
    total: int | None = None
    contiguous: int = 0
    """Everything before this is in the data file."""
    hashed: int = 0
    """Everything before this has gone through the verifier."""
    leader: int = 0
    """Process id, for people."""
    beat_at: float = 0.0
    """Monotonic seconds when the leader last showed life."""
    progressed_at: float = 0.0
    """Wall-clock seconds when the last bytes came."""
    answering: bool = False
    """Whether a source has answered the present leader."""
    answered: list[str] = field(default_factory=list)
    """The sources that have delivered, first to last."""
    failure: str | None = None
    """Why it was abandoned or refused: the error's type, and a line for people."""
    failure_kind: str | None = None
    retry_after: float | None = None
    mismatches: list[tuple[str, float]] = field(default_factory=list)
    """Sources whose bytes were wrong, and when (wall-clock seconds)."""

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The ranges present, start and end."""
        return [(0, self.contiguous)] if self.contiguous else []

    def to_json(self) -> bytes:
        value = asdict(self)
        value["mismatches"] = value["mismatches"][-_FAILURES_KEPT:]
        value["ranges"] = self.ranges
        return json.dumps(value, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        known["phase"] = Phase(known["phase"])
        known["mismatches"] = [(str(source), float(when)) for source, when in known.get("mismatches", [])]
        return cls(**known)


class StateFile:
    """An open state page. It stays readable and writable after it has lost its name."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self.inode = os.fstat(descriptor).st_ino

    @classmethod
    def open(cls, path: Path) -> StateFile | None:
        try:
            return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            return None

    @classmethod
    def create(cls, path: Path, state: FlightState) -> StateFile:
        """A fresh page under this name, over whatever had it."""
        temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        file = cls(descriptor)
        try:
            file.save(state)
            temporary.rename(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        return file

    def save(self, state: FlightState) -> None:
        with self._lock:
            body = state.to_json()
            if len(body) > _PAGE - _HEADER:  # what is for people goes first
                state.failure = (state.failure or "")[:200]
                state.answered = state.answered[-4:]
                state.mismatches = state.mismatches[-2:]
                body = state.to_json()
            header = b"entrepot %d %08x %d\n" % (FORMAT, zlib.crc32(body), len(body))
            os.pwrite(self._descriptor, (header.ljust(_HEADER, b" ") + body).ljust(_PAGE), 0)

    def load(self) -> FlightState | None:
        """None for a page that is torn, foreign or of another format."""
        for _ in range(3):  # a page that is being rewritten just now is whole the next time
            page = os.pread(self._descriptor, _PAGE, 0)
            fields = page[:_HEADER].split()
            if len(fields) == 4 and fields[0] == b"entrepot" and fields[1] == b"%d" % FORMAT:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    body = page[_HEADER : _HEADER + int(fields[3])]
                    if zlib.crc32(body) == int(fields[2], 16):
                        return FlightState.from_json(json.loads(body))
        return None

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
