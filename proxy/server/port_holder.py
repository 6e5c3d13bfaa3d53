"""Who listens on a port, as far as this system tells (Linux, proc(5))."""

from __future__ import annotations

import itertools
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ..config import Address

_PROC: Final = Path("/proc")
_LISTEN: Final = "0A"
_ANYWHERE: Final = frozenset({"00000000", "0" * 32})
_NAME_LIMIT: Final = 64
UNKNOWN: Final = "another program"


class _Listening(NamedTuple):
    anywhere: bool
    user: int
    inode: str


def port_holder(address: Address) -> str:
    """Such as `docker-registry (process 4711)`; `UNKNOWN` where that cannot be found out. Names the program
    alone: its arguments may hold what is nobody's business. Reads /proc, which blocks for a moment."""
    try:
        listening = sorted(_listening(address.port))
    except OSError:
        return UNKNOWN
    for one in listening:
        process = _process_with(f"socket:[{one.inode}]")
        if process is not None:
            return f"{_name(process)} (process {process})"
    if listening:
        return f"a program of {_user(listening[0].user)}"
    return UNKNOWN


def _listening(port: int) -> Iterator[_Listening]:
    for table in ("tcp", "tcp6"):
        file = _PROC / "net" / table
        if not file.exists():
            continue
        for line in file.read_text().splitlines()[1:]:
            fields = line.split()
            host, _, number = fields[1].partition(":")
            if fields[3] == _LISTEN and int(number, 16) == port:
                yield _Listening(host in _ANYWHERE, int(fields[7]), fields[9])


def _process_with(link: str) -> int | None:
    found = []
    for folder in _PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            with os.scandir(folder / "fd") as entries:
                if any(_read_link(entry.path) == link for entry in entries):
                    found.append(int(folder.name))
        except OSError:  # another user's, or it has just ended
            continue
    return min(found, default=None)  # of a server with workers that share it: the one that began


def _read_link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:  # closed meanwhile
        return ""


def _name(process: int) -> str:
    """The program's name; for one that an interpreter runs, that of its script or module."""
    try:
        words = (_PROC / str(process) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return UNKNOWN
    name = os.path.basename(words[0])
    if name.startswith("python"):
        for before, word in itertools.pairwise(words):
            if before == "-m" or (word and not word.startswith("-")):
                name = f"{name} {os.path.basename(word)}"
                break
    name = "".join(letter for letter in name if letter.isprintable())
    return name[:_NAME_LIMIT] or UNKNOWN


def _user(number: int) -> str:
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"
