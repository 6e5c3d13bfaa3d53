"""The routes of the admin address. Further ones are added as a table, such as `CacheApi.routes()`."""

from __future__ import annotations

from typing import Any, Protocol

from aiohttp import web

from ..metrics_merge import CONTENT_TYPE
from .guard import answer


class Supervision(Protocol):
    """The server, as far as it is asked and told here."""

    @property
    def state(self) -> str:
        """`starting`, `serving` or `draining`."""
        ...

    async def exposition(self) -> bytes: ...

    async def status(self) -> dict[str, Any]: ...

    async def reload(self) -> list[str]:
        """What is wrong with the new configuration; then the old one stays in force."""
        ...


class AdminApi:
    """What concerns the server as a whole."""

    def __init__(self, supervision: Supervision) -> None:
        self._supervision = supervision

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/metrics", self.metrics),
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/api/status", self.status),
            web.post("/api/reload", self.reload),
        ]

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._supervision.exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def healthz(self, _: web.Request) -> web.Response:
        """The process lives."""
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        """503 while starting or draining; never because an upstream is down: what is held is served."""
        state = self._supervision.state
        return web.Response(text=f"{state}\n", status=200 if state == "serving" else 503)

    async def status(self, _: web.Request) -> web.Response:
        return answer(await self._supervision.status())

    async def reload(self, _: web.Request) -> web.Response:
        problems = await self._supervision.reload()
        if problems:
            return answer({"error": "; ".join(problems), "problems": problems}, 422)
        return answer({"reloaded": True})
