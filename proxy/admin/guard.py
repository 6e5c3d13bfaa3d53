"""Who may do what at the admin address.

`/metrics`, `/healthz` and `/readyz` are open. All else needs `control.sock`, whose file is its guard, or a
token; and over TCP a known `Host`, against names that are made to point here (DNS rebinding), and no foreign
`Origin`. A change has a JSON body, which no form of a foreign page can send without being asked first.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from ..config import Config, Secret

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN: Final = frozenset({"/metrics", "/healthz", "/readyz"})
_READING: Final = frozenset({"GET", "HEAD"})

_LOG: Final = logging.getLogger(__name__)


class Guard:
    """Judges requests by the configuration that is in force."""

    def __init__(self, config: Config) -> None:
        self._host = ""
        self._token: Secret | None = None
        self.reload(config)

    def reload(self, config: Config) -> None:
        self._host = config.admin.host.lower()
        path = config.admin_token_file
        self._token = None if path is None else Secret("file", str(path), None)

    @web.middleware
    async def over_control_socket(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The middleware for who could open the socket's file."""
        return await _answered(request, self._checked(request, handler))

    @web.middleware
    async def over_network(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The middleware for everybody else."""
        if request.path in OPEN:
            return await _answered(request, handler(request))
        return await _answered(request, self._guarded(request, handler))

    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._knows_host(request):
            raise _refusal(
                web.HTTPForbidden, "this name is not known here; use localhost or the address itself"
            )
        origin = request.headers.get("Origin")
        if origin is not None and origin not in (f"http://{request.host}", f"https://{request.host}"):
            raise _refusal(web.HTTPForbidden, "a page from elsewhere may not ask this")
        await self._check_token(request)
        return await self._checked(request, handler)

    async def _checked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in _READING and request.path not in OPEN:
            await json_body(request)
        return await handler(request)

    def _knows_host(self, request: web.Request) -> bool:
        host = request.headers.get("Host", "").lower()
        host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if host in ("localhost", self._host):
            return bool(host)
        local = request.get_extra_info("sockname")
        return isinstance(local, tuple) and _same_address(host, str(local[0]))

    async def _check_token(self, request: web.Request) -> None:
        if self._token is None:
            raise _refusal(
                web.HTTPForbidden,
                "this needs control.sock, or a token: none is configured (admin_token_file)",
            )
        try:
            token = await asyncio.to_thread(self._token.read)
        except OSError as error:
            _LOG.error("admin_token_file cannot be read: %s", error, extra={"repeated": "admin token"})
            raise _refusal(web.HTTPForbidden, "this needs a token, which the server cannot read") from error
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), token.encode())
        if scheme.lower() != "bearer" or not right:
            raise _refusal(
                web.HTTPUnauthorized, "this needs the token of admin_token_file as Authorization: Bearer"
            )


async def json_body(request: web.Request) -> dict[str, Any]:
    """The object that came with a request. Raises a refusal for whatever else came."""
    if request.content_type != "application/json":
        raise _refusal(
            web.HTTPUnsupportedMediaType, "a change needs a JSON body (Content-Type: application/json)"
        )
    try:
        value = await request.json()
    except (ValueError, RecursionError) as error:
        raise _refusal(web.HTTPBadRequest, "the body is no JSON") from error
    if not isinstance(value, dict):
        raise _refusal(web.HTTPBadRequest, "the body must be an object, such as {}")
    return value


def answer(value: Any, status: int = 200) -> web.Response:
    """JSON on one line."""
    return web.Response(text=json.dumps(value) + "\n", status=status, content_type="application/json")


async def _answered(request: web.Request, work: Awaitable[web.StreamResponse]) -> web.StreamResponse:
    """What comes of it, errors as JSON on one line."""
    try:
        return await work
    except web.HTTPException as error:
        if error.content_type == "application/json":
            raise
        response = answer({"error": error.reason}, error.status)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except ConnectionError:
        raise
    except Exception:  # noqa: BLE001 - logged whole, and answered without a trace
        _LOG.exception("%s %s failed in an unforeseen way", request.method, request.path)
        return answer({"error": "this failed in an unforeseen way; the server's log says more"}, 500)


def _refusal(kind: type[web.HTTPException], why: str) -> web.HTTPException:
    refusal = kind(text=json.dumps({"error": why}) + "\n", content_type="application/json")
    if kind is web.HTTPUnauthorized:
        refusal.headers["WWW-Authenticate"] = "Bearer"
    return refusal


def _same_address(host: str, local: str) -> bool:
    try:
        return _bare(host) == _bare(local)
    except ValueError:
        return False


def _bare(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped
