"""Listening sockets, opened by the supervisor and inherited by workers."""

from __future__ import annotations

import errno
import socket
from typing import Final

from ..config import Address
from .port_holder import port_holder

BACKLOG: Final = 4096
"""Connections that wait to be accepted; the system has its own limit (net.core.somaxconn)."""


class ListenError(Exception):
    """An address cannot be listened on. As text: one line that says why and what to do."""


def open_listeners(address: Address, count: int, flag: str) -> list[socket.socket]:
    """`count` sockets that share one address, listening. `flag` is how another address is chosen. With one,
    nobody else can have the port; for several, a plain bind first shows that it is free: with SO_REUSEPORT
    alone, two servers of one user would share its connections and nobody would know. Raises `ListenError`.

    What the system queues on such a socket is lost when it is closed, so that a worker's successor inherits
    it instead of getting a new one."""
    family, where = _resolve(address, flag)
    listeners: list[socket.socket] = []
    try:
        if count == 1:
            listeners.append(_bound(family, where, shared=False))
        else:
            probe = _bound(family, where, shared=False)
            where = _with_port(where, probe.getsockname()[1])
            probe.close()
            for _ in range(count):
                listeners.append(_bound(family, where, shared=True))  # noqa: PERF401 - closed below if one fails
        for listener in listeners:
            listener.listen(BACKLOG)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise ListenError(_explain(error, address, flag)) from error
    return listeners


def address_of(listener: socket.socket) -> Address:
    """Where it is bound, the port that the system chose for port 0 included."""
    host, port = listener.getsockname()[:2]
    return Address(host, port)


def _resolve(address: Address, flag: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise ListenError(
            f"{address.host} is no address of this machine; choose another with {flag}"
        ) from error
    # For a name with both, IPv4: it is what clients that were told 127.0.0.1 connect to.
    family, _, _, _, where = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, (str(where[0]), int(where[1]))


def _with_port(where: tuple[str, int], port: int) -> tuple[str, int]:
    return where[0], port


def _bound(family: socket.AddressFamily, where: tuple[str, int], *, shared: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Not to be refused for connections of a server that has just ended (TIME_WAIT).
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            every = where[0] == "::"  # then IPv4 too, as people expect who write [::]
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if every else 1)
        listener.bind(where)
    except BaseException:
        listener.close()
        raise
    return listener


def _explain(error: OSError, address: Address, flag: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{address} is taken by {port_holder(address)}; stop that, or choose another with {flag}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{address} needs privileges, as ports below 1024 do; choose another with {flag}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{address.host} is no address of this machine; choose another with {flag}"
    return f"{address} cannot be listened on ({error.strerror or error}); choose another with {flag}"
