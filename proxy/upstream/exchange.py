"""A request and what it takes to get its answer: redirects by hand, and another try where that may help."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Final

from entrepot.cache.clock import Clock
from entrepot.cache.errors import SourceTimeout, SourceUnavailable
from yarl import URL

from ..config.model import UpstreamConfig
from .address import origin, parse_url, same_origin
from .authorization import RealmAnswer
from .retry import WORTH_ANOTHER_TRY, Again, Retry, retry_after
from .token import BODY_LIMIT
from .transport import Answer, Cut, Route, Transport

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HOPS: Final = 5
_ERROR_BODY: Final = 64 * 1024
_ERROR_PATIENCE: Final = 2.0
_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{1,39}")


class Exchange:
    """Requests to one upstream, to where it redirects, and to its token server."""

    def __init__(self, config: UpstreamConfig, transport: Transport, *, clock: Clock, retry: Retry) -> None:
        self._transport = transport
        self._clock = clock
        self._retry = retry
        self._url = URL(config.url)
        self._patience = config.timeout.first_byte
        self._private_hosts = frozenset(config.allow_private_hosts)

    async def follow(
        self, method: str, url: URL, headers: Mapping[str, str], authorization: str | None
    ) -> tuple[Answer, bool]:
        """The answer at the end of all redirects, its body not yet read, and whether it is another origin's
        word: a place that the upstream redirected to, or was redirected to from there. The authorisation
        goes along while the origin is the upstream's own; once it has been left it never comes back, for
        from then on others say where to go. Raises a `SourceError`, or `Again` with one."""
        route: Route = "own"
        public = left = False
        for _ in range(_HOPS + 1):
            sent = dict(headers)
            if authorization is not None:
                sent["Authorization"] = authorization
            answer = await self._transport.send(route, method, url, sent)
            if answer.status not in _REDIRECTS:
                return answer, left
            location = answer.headers.get("Location")
            public = public or (answer.public and route == "own")
            await answer.discard()
            url = _next(url, location)
            left = left or not same_origin(url, self._url)
            if left:
                authorization = None
            route = self._route(url, public)
        raise SourceUnavailable(
            f"{origin(self._url)} redirects more than {_HOPS} times, at last to {origin(url)}"
        )

    async def ask_realm(self, url: URL, authorization: str | None, *, public: bool) -> RealmAnswer:
        """Asks a token server. It may redirect only within its own origin. Raises a `SourceError`."""

        async def attempt() -> RealmAnswer:
            place = url
            for _ in range(_HOPS + 1):
                headers = {"Accept": "application/json"}
                if authorization is not None:
                    headers["Authorization"] = authorization
                answer = await self._transport.send(self._route(place, public), "GET", place, headers)
                if answer.status not in _REDIRECTS:
                    return await self._realm_answer(answer)
                location = answer.headers.get("Location")
                await answer.discard()
                place = _next(place, location)
                if not same_origin(place, url):
                    raise SourceUnavailable(
                        f"{origin(url)} redirects our request for a token to another origin, {origin(place)}"
                    )
            raise SourceUnavailable(f"{origin(url)} redirects our request for a token in a circle")

        return await self._retry(attempt)

    async def _realm_answer(self, answer: Answer) -> RealmAnswer:
        await self.raise_if_passing(answer)
        wait = self.retry_after(answer)
        if answer.status != 200:
            return RealmAnswer(answer.status, b"", wait, await self.short(answer))
        try:
            async with asyncio.timeout(self._patience):
                body = await read_whole(answer, BODY_LIMIT)
        except TimeoutError:
            answer.close()
            raise SourceTimeout(f"{answer.host}: a token took more than {self._patience:g} s") from None
        return RealmAnswer(answer.status, body, wait, f"{answer.host} answered {answer.status}")

    async def raise_if_passing(self, answer: Answer) -> None:
        """Raises `Again` for an answer that may be another one in a moment."""
        if answer.status in WORTH_ANOTHER_TRY:
            wait = self.retry_after(answer)
            error = SourceUnavailable(await self.short(answer))
            error.answer = answer.status
            raise Again(error, wait)

    def retry_after(self, answer: Answer) -> float | None:
        """Seconds, if it says so."""
        return retry_after(answer.headers.get("Retry-After"), self._clock.wall())

    async def short(self, answer: Answer) -> str:
        """Tells people of an answer that is an error, in one line, and is done with it. Of its body no more
        than the specification's code: the rest is the upstream's, and may be anything."""
        text = f"{answer.host} answered {answer.status}"
        try:
            async with asyncio.timeout(_ERROR_PATIENCE):
                body = await read_whole(answer, _ERROR_BODY)
            code = json.loads(body)["errors"][0]["code"]
        except (TimeoutError, SourceUnavailable, Again, ValueError, LookupError, TypeError, RecursionError):
            return text
        finally:
            answer.close()
        return f"{text} {code}" if isinstance(code, str) and _CODE.fullmatch(code) else text

    def _route(self, url: URL, public: bool) -> Route:
        """By which connections to go to a place that an upstream named."""
        if not public:
            return "own" if same_origin(url, self._url) else "free"
        return "free" if (url.host or "").lower() in self._private_hosts else "checked"


async def read_whole(answer: Answer, limit: int) -> bytes:
    """A body that is small. Raises `SourceUnavailable` where it is not, or is encoded, and `Again` where it
    breaks off: nobody has seen any of it yet."""
    check_encoding(answer)
    if (answer.length or 0) > limit:
        answer.close()
        raise SourceUnavailable(
            f"{answer.host}: an answer of {answer.length} bytes, over the limit of {limit}"
        )
    body = bytearray()
    while True:
        try:
            piece = await answer.read()
        except Cut as cut:
            raise Again(SourceUnavailable(f"{answer.host}: cut off after {len(body)} bytes: {cut}")) from None
        if not piece:
            answer.close()
            return bytes(body)
        body += piece
        if len(body) > limit:
            answer.close()
            raise SourceUnavailable(f"{answer.host}: an answer over the limit of {limit} bytes")


def check_encoding(answer: Answer) -> None:
    """Raises `SourceUnavailable` for an encoded body: its bytes are not those that the digest names."""
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        answer.close()
        raise SourceUnavailable(f"{answer.host}: sends encoded bytes that nobody asked for")


def _next(url: URL, location: str | None) -> URL:
    """Where a redirect leads. Raises `SourceUnavailable`."""
    target = parse_url(location, url) if location else None
    if target is None:
        raise SourceUnavailable(f"{origin(url)} redirects to what is no http or https URL")
    if url.scheme == "https" and target.scheme != "https":
        raise SourceUnavailable(f"{origin(url)} redirects from https to http, which is not followed")
    return target
