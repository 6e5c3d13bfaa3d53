"""`/api/cache/…`: what `entrepot cache` asks of a running server."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from entrepot.cache.errors import CacheError, InvalidReference, SourceError

from ..mirror.upkeep import Json, NotKnown, Upkeep


class CacheApi:
    """The routes, on whatever upkeep the server has at the time."""

    def __init__(self, upkeep: Callable[[], Upkeep]) -> None:
        self._upkeep = upkeep

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/cache/list", self.list),
            web.get("/api/cache/show", self.show),
            web.get("/api/cache/stats", self.stats),
            web.post("/api/cache/remove", self.remove),
            web.post("/api/cache/refresh", self.refresh),
        ]

    async def list(self, request: web.Request) -> web.StreamResponse:
        """A line of JSON for each tag, as they are read: a million are never in memory."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        lines: list[str] = []
        async for row in self._upkeep().list(request.query.get("prefix", "")):
            lines.append(json.dumps(row))
            if len(lines) >= 256:
                await response.write("\n".join([*lines, ""]).encode())
                lines.clear()
        if lines:
            await response.write("\n".join([*lines, ""]).encode())
        await response.write_eof()
        return response

    async def show(self, request: web.Request) -> web.Response:
        return await _answer(self._upkeep().show, request.query.get("image", ""))

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response(await self._upkeep().stats())

    async def remove(self, request: web.Request) -> web.Response:
        return await _answer(self._upkeep().remove, await _image(request))

    async def refresh(self, request: web.Request) -> web.Response:
        return await _answer(self._upkeep().refresh, await _image(request))


async def _image(request: web.Request) -> str:
    try:
        value: Any = await request.json()
    except ValueError:
        value = None
    image = value.get("image") if isinstance(value, dict) else None
    if not isinstance(image, str):
        raise web.HTTPBadRequest(
            text=json.dumps({"error": 'the body must be {"image": "…"}'}), content_type="application/json"
        )
    return image


async def _answer(do: Callable[[str], Awaitable[Json]], image: str) -> web.Response:
    try:
        return web.json_response(await do(image))
    except InvalidReference as error:
        return web.json_response({"error": str(error)}, status=400)
    except NotKnown as error:
        return web.json_response({"error": str(error)}, status=404)
    except SourceError as error:
        return web.json_response({"error": error.detail}, status=502)
    except CacheError as error:
        return web.json_response({"error": str(error)}, status=500)
