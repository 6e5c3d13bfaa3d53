"""The admin address as an office of the supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import web

from ..config import Address, Config
from ..server.listeners import ListenError, address_of, open_listeners
from ..server.supervisor import Supervisor
from .address import AdminAddress
from .api import AdminApi


class AdminOffice:
    """The admin address and `control.sock`, with these routes beside those of the server itself."""

    def __init__(self, routes: Sequence[web.RouteDef] = ()) -> None:
        self._routes = tuple(routes)
        self._address: AdminAddress | None = None

    async def open(self, supervisor: Supervisor) -> None:
        """Raises `ListenError`."""
        config, control = supervisor.config, supervisor.directory.control_socket
        listener = open_listeners(config.admin, 1, "--admin")[0]
        supervisor.admin = Address(config.admin.host, address_of(listener).port)
        self._address = AdminAddress(config, [*AdminApi(supervisor).routes(), *self._routes])
        try:
            await self._address.open(listener, control)
        except OSError as error:
            raise ListenError(f"{control} cannot be opened: {error.strerror or error}") from error

    async def reload(self, config: Config) -> None:
        if self._address is not None:
            await asyncio.to_thread(self._address.reload, config)

    async def close(self) -> None:
        address, self._address = self._address, None
        if address is not None:
            await address.close()
