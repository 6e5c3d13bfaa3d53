"""Answers: the headers that go with a manifest and a blob, conditional requests, errors."""

from __future__ import annotations

import math
from typing import Final

from aiohttp import web
from entrepot.cache.digest import Digest

from .. import byte_range
from ..byte_range import ByteRange, Unsatisfiable
from ..errors import RANGE_INVALID, UNSUPPORTED, RegistryError
from ..mirror.outcome import Outcome
from ..mirror.parts import BlobAnswer, ManifestAnswer
from . import content
from .exchange import Exchange

API_VERSION: Final = {"Docker-Distribution-API-Version": "registry/2.0", "Server": "entrepot"}
ALLOW: Final = {"Allow": "GET, HEAD"}


def base(exchange: Exchange) -> web.Response:
    """`/v2/`: the registry is here, and wants no credentials."""
    exchange.answering(200)
    headers = _common(exchange)
    return web.Response(body=b"{}", headers=headers, content_type="application/json")


def error(failure: RegistryError, exchange: Exchange, *, head: bool) -> web.Response:
    """The specification's JSON. A HEAD gets the headers alone."""
    exchange.answering(failure.code.status)
    exchange.error = failure
    body = failure.body(exchange.id)
    headers = {**_common(exchange), **failure.headers}
    headers["Content-Type"] = "application/json"
    if head:
        headers["Content-Length"] = str(len(body))
        body = b""
    return web.Response(status=failure.code.status, body=body, headers=headers)


def write_refused() -> RegistryError:
    """Nothing is pushed to a mirrored repository."""
    return RegistryError(UNSUPPORTED, "this repository is a mirror: push to its registry itself", dict(ALLOW))


def manifest(
    request: web.BaseRequest, exchange: Exchange, answer: ManifestAnswer, *, by_tag: bool
) -> web.Response:
    """A manifest, whole and as the upstream sent it."""
    headers = _content_headers(exchange, answer.digest, answer.outcome)
    if by_tag:
        headers["Vary"] = "Accept"
    if _matches(request.headers.get("If-None-Match"), answer.digest):
        exchange.answering(304)
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = answer.media_type or "application/octet-stream"
    if answer.size is not None:
        headers["Content-Length"] = str(answer.size)
    body = answer.content or b""
    exchange.answering(200)
    exchange.sent = len(body)
    return web.Response(body=body, headers=headers)


async def blob(request: web.BaseRequest, exchange: Exchange, answer: BlobAnswer) -> web.StreamResponse:
    """A blob, or the ranges asked for. Raises `RegistryError` for ranges that are not there."""
    headers = _content_headers(exchange, answer.digest, answer.outcome)
    headers["Accept-Ranges"] = "bytes"
    headers["Cache-Control"] = "max-age=31536000, immutable"
    if _matches(request.headers.get("If-None-Match"), answer.digest):
        exchange.answering(304)
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = "application/octet-stream"
    if request.method == "HEAD" or answer.reader is None:
        if answer.size is not None:
            headers["Content-Length"] = str(answer.size)
        exchange.answering(200)
        return web.Response(headers=headers)
    return await content.send(request, exchange, headers, answer.reader, _ranges(request, answer))


def _ranges(request: web.BaseRequest, answer: BlobAnswer) -> tuple[ByteRange, ...] | None:
    header = request.headers.get("Range")
    if header is None or answer.size is None:
        return None
    if_range = request.headers.get("If-Range")
    if if_range is not None and if_range.strip() != _etag(answer.digest):
        return None  # a strong comparison (RFC 9110, 13.1.5): anything else means 'the whole, please'
    try:
        return byte_range.parse(header, answer.size)
    except Unsatisfiable as unsatisfiable:
        headers = {"Content-Range": f"bytes */{answer.size}"}
        raise RegistryError(RANGE_INVALID, headers=headers) from unsatisfiable


def _etag(digest: Digest) -> str:
    return f'"{digest}"'


def _matches(header: str | None, digest: Digest) -> bool:
    """`If-None-Match`, quoted, weak or bare: some clients forget the quotes."""
    if header is None:
        return False
    text = str(digest)
    return any(item.strip().removeprefix("W/").strip('"') in (text, "*") for item in header.split(","))


def _common(exchange: Exchange) -> dict[str, str]:
    headers = {**API_VERSION, "X-Request-Id": exchange.id}
    if exchange.route is not None and exchange.route.namespace is not None:
        headers["OCI-Namespace"] = exchange.route.namespace
    return headers


def _content_headers(exchange: Exchange, digest: Digest, outcome: Outcome) -> dict[str, str]:
    exchange.outcome = outcome
    exchange.digest = text = str(digest)
    headers = _common(exchange)
    headers["Docker-Content-Digest"] = text
    headers["ETag"] = f'"{text}"'
    headers["Cache-Status"] = outcome.cache_status()
    if outcome.age is not None:
        headers["Age"] = str(math.floor(outcome.age))
    if outcome.warning is not None:
        headers["Warning"] = outcome.warning
    return headers
