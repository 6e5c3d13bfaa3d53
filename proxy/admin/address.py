"""The admin address: one TCP listener for people and monitoring, and `control.sock` for commands."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from ..config import Config
from .guard import Guard

_BODY_LIMIT: Final = 1024 * 1024
_BACKLOG: Final = 128
_PATH_LIMIT: Final = 107
"""Bytes of a socket's path (unix(7))."""


class AdminAddress:
    """Serves one table of routes on both."""

    def __init__(self, config: Config, routes: Sequence[web.RouteDef]) -> None:
        self._guard = Guard(config)
        self._routes = routes
        self._runners: list[web.AppRunner] = []
        self._control: Path | None = None

    async def open(self, listener: socket.socket, control: Path) -> None:
        """Serves on a socket that is bound, which is its own from now on, and on one at `control`. Raises
        `OSError`; `close` then ends what has been opened."""
        try:
            await self._serve(listener, self._guard.over_network)
        except BaseException:
            listener.close()
            raise
        own = bind_control(control)
        self._control = control
        try:
            await self._serve(own, self._guard.over_control_socket)
        except BaseException:
            own.close()
            raise

    def reload(self, config: Config) -> None:
        self._guard.reload(config)

    async def close(self) -> None:
        if self._control is not None:
            with contextlib.suppress(FileNotFoundError):
                self._control.unlink()
            self._control = None
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    async def _serve(self, listener: socket.socket, middleware: Middleware) -> None:
        application = web.Application(middlewares=[middleware], client_max_size=_BODY_LIMIT)
        application.add_routes(self._routes)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        await web.SockSite(runner, listener, backlog=_BACKLOG).start()


def bind_control(path: Path) -> socket.socket:
    """A socket at this path that only its owner may connect to (0600). What lies there is left by a server
    that was killed: who holds the directory's lock may take it away. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with reachable(path) as name:
            control.bind(name)
        path.chmod(0o600)
        control.listen(_BACKLOG)  # only now can anyone connect
    except BaseException:
        control.close()
        raise
    return control


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name for a socket's path that is short enough for the system, which takes 107 bytes, while this
    lasts. To bind, and to connect."""
    name = str(path)
    if len(os.fsencode(name)) <= _PATH_LIMIT or not os.path.isdir("/proc/self/fd"):
        yield name
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
