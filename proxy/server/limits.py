"""How many files and connections a process may have open."""

from __future__ import annotations

import resource
from typing import Final

_OWN: Final = 256
"""Descriptors that a worker needs for itself: index, listeners, connections to upstreams."""
_OF_A_CLIENT: Final = 2
"""A connection, and at worst a blob that nobody else reads."""
_SYSTEM_LIMIT: Final = 10_240
"""What macOS takes where it says that there is no limit (setrlimit(2), OPEN_MAX)."""


def raise_descriptor_limit() -> int:
    """Raises the limit of open files to the hard one, for this process and its children; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _SYSTEM_LIMIT if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):  # a limit beside the hard one, such as a container's: as it was, then
        return soft
    return wanted


def clients_for(descriptors: int, workers: int) -> int:
    """How many clients at once that many descriptors in each worker are good for."""
    return max(0, descriptors - _OWN) // _OF_A_CLIENT * workers
