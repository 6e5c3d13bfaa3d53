"""One request and its answer: connections, time-outs, and which addresses may be connected to."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver
from entrepot.cache.errors import SourceError, SourceTimeout, SourceUnavailable
from multidict import CIMultiDictProxy
from yarl import URL

from ..config.model import UpstreamConfig
from .address import IsGlobal, host_of, is_global_address, parse_address
from .observer import Observer
from .retry import Again

Route: TypeAlias = Literal["own", "checked", "free"]
"""Which connections a request uses: those to the upstream's own URL; those to other origins, which may only
have global addresses; those to origins that may have any."""

_HEADER_LIMIT: Final = 64 * 1024
_BUFFER: Final = 256 * 1024
_CONNECTIONS: Final = 96
"""Of each route. More than blobs may take, so that a HEAD never waits behind downloads."""
_KEEP_ALIVE: Final = 30.0
_DISCARDED: Final = 64 * 1024
"""Bytes of a body that nobody reads which are still read, to keep the connection."""
_DISCARD_PATIENCE: Final = 1.0


class ForbiddenAddress(OSError):
    """A public upstream names a host whose address is not a global one."""


class Cut(Exception):
    """A body broke off; why, in a few words."""


class Transport:
    """The connections of one upstream in one process. Nothing is opened before the first request."""

    def __init__(
        self,
        config: UpstreamConfig,
        *,
        observer: Observer,
        resolver: AbstractResolver | None = None,
        is_global: IsGlobal = is_global_address,
    ) -> None:
        self._config = config
        self._observer = observer
        self._resolver = resolver
        self._is_global = is_global
        self._sessions: dict[Route, aiohttp.ClientSession] = {}
        self._opening = asyncio.Lock()
        self._closed = False

    async def send(self, route: Route, method: str, url: URL, headers: Mapping[str, str]) -> Answer:
        """One request, no redirect followed. The body is the caller's to read and close. Raises
        `SourceTimeout`, `SourceUnavailable`, or `Again` with one where another try may help."""
        host = host_of(url)
        session = await self._session(route)
        watch = _Watch(self._config.timeout.first_byte)
        status = "error"
        try:
            async with asyncio.timeout(self._config.timeout.connect) as watch.limit:
                response = await session.request(
                    method, url, headers=headers, allow_redirects=False, trace_request_ctx=watch
                )
            status = str(response.status)
        except TimeoutError:
            status = "timeout"
            raise SourceTimeout(f"{host}: {watch.complaint(self._config)}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failure(host, error) from None
        except RuntimeError:
            if not self._closed:
                raise
            raise SourceUnavailable(f"{host}: the client has been closed") from None
        finally:
            self._observer.upstream_request(self._config.name, method, status)
        assert isinstance(response, _Response)
        address = parse_address(response.peer)
        # An address that is not known is judged as the one that is trusted least.
        public = address is None or self._is_global(address)
        return Answer(response, url, self._config, public, route)

    async def close(self) -> None:
        """Ends all connections."""
        self._closed = True
        sessions, self._sessions = self._sessions, {}
        async with AsyncExitStack() as stack:
            for session in sessions.values():
                stack.push_async_callback(session.close)

    async def _session(self, route: Route) -> aiohttp.ClientSession:
        session = self._sessions.get(route)
        if session is not None:
            return session
        async with self._opening:
            if self._closed:
                raise SourceUnavailable(f"{self._config.name}: the client has been closed")
            if route not in self._sessions:
                try:
                    trusted, agent = await asyncio.to_thread(_prepare, self._config)
                except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                    reason = getattr(error, "strerror", None) or type(error).__name__
                    raise SourceUnavailable(
                        f"{self._config.name}: ca_file {self._config.ca_file} cannot be used: {reason}"
                    ) from None
                self._sessions[route] = self._open(route, trusted, agent)
            return self._sessions[route]

    def _open(self, route: Route, trusted: ssl.SSLContext | None, agent: str) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=_CONNECTIONS,
            ssl=True if trusted is None else trusted,
            resolver=self._resolver,
            keepalive_timeout=_KEEP_ALIVE,
            socket_factory=self._checked_socket if route == "checked" else None,
        )
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(_sent)
        return aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": agent, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            response_class=_Response,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None, sock_read=None),
            auto_decompress=False,
            trust_env=False,
            requote_redirect_url=False,
            read_bufsize=_BUFFER,
            max_line_size=_HEADER_LIMIT,
            max_field_size=_HEADER_LIMIT,
            trace_configs=[tracing],
        )

    def _checked_socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """The last to see an address before it is connected to: no second look-up comes after this."""
        family, kind, protocol, _, target = info
        address = parse_address(str(target[0]))
        if address is None or not self._is_global(address):
            raise ForbiddenAddress(errno.EACCES, "its address is not a global one")
        return socket.socket(family, kind, protocol)


class Answer:
    """An upstream's answer, its body not yet read."""

    __slots__ = ("_config", "_response", "headers", "public", "route", "status", "url")

    def __init__(
        self, response: aiohttp.ClientResponse, url: URL, config: UpstreamConfig, public: bool, route: Route
    ) -> None:
        self._response = response
        self._config = config
        self.url = url
        self.status = response.status
        self.headers: CIMultiDictProxy[str] = response.headers
        self.public = public
        """Whether the address that answered is a global one."""
        self.route = route

    @property
    def host(self) -> str:
        """For people."""
        return host_of(self.url)

    @property
    def length(self) -> int | None:
        """`Content-Length`, where it is given and a number."""
        value = self.headers.get("Content-Length", "")
        return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else None

    async def read(self, count: int = _BUFFER) -> bytes:
        """The next bytes of the body, at most `count`; empty at the end. Raises `SourceTimeout` where
        nothing comes, and `Cut` where the body breaks off."""
        idle = self._config.timeout.idle
        try:
            async with asyncio.timeout(idle):
                return await self._response.content.read(count)
        except TimeoutError:
            self.close()
            raise SourceTimeout(f"{self.host}: nothing came for {idle:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            self.close()
            raise Cut(_reason(error)) from None
        except RuntimeError:  # what aiohttp calls reading from a connection that has been closed here
            connection = self._response.connection
            if connection is not None and not connection.closed:
                raise
            self.close()
            raise Cut("the connection has been closed") from None

    async def discard(self) -> None:
        """Is done with the answer. A short body is read, so that the connection can be used again."""
        length = self.length
        if length is None or length > _DISCARDED:
            self.close()
            return
        try:
            async with asyncio.timeout(_DISCARD_PATIENCE):
                while await self._response.content.read(_BUFFER):
                    pass
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass  # the answer was of no use any more, and now its connection is not either
        finally:
            self.close()

    def close(self) -> None:
        """Is done with the answer. What was not read ends the connection."""
        self._response.close()


class _Response(aiohttp.ClientResponse):
    """Remembers which address it came from: once the body has been read the connection is gone."""

    peer = ""

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        transport = connection.transport
        name = None if transport is None else transport.get_extra_info("peername")
        self.peer = str(name[0]) if isinstance(name, tuple) else ""
        return await super().start(connection)


@dataclass(slots=True)
class _Watch:
    """The time-out of a request: first for the connection, and once it is sent for the first byte."""

    first_byte: float
    limit: asyncio.Timeout | None = None
    sent: bool = False

    def complaint(self, config: UpstreamConfig) -> str:
        if self.sent:
            return f"no answer within {config.timeout.first_byte:g} s"
        return f"no connection within {config.timeout.connect:g} s"


async def _sent(_session: aiohttp.ClientSession, context: Any, _parameters: object) -> None:
    watch: _Watch = context.trace_request_ctx
    if watch.limit is not None and not watch.limit.expired():
        watch.sent = True
        watch.limit.reschedule(asyncio.get_running_loop().time() + watch.first_byte)


def _prepare(config: UpstreamConfig) -> tuple[ssl.SSLContext | None, str]:
    """What takes reading files. None: the certificates that the system trusts, and no others."""
    trusted = None
    if config.ca_file is not None:
        trusted = ssl.create_default_context()
        trusted.load_verify_locations(cafile=config.ca_file)
    try:
        return trusted, f"entrepot/{version('entrepot')}"
    except PackageNotFoundError:
        return trusted, "entrepot"


_PERMANENT: Final = (
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ClientConnectorSSLError,
    aiohttp.ClientResponseError,
)


def _failure(host: str, error: Exception) -> Exception:
    """What a request that got no answer raises."""
    unavailable: SourceError = SourceUnavailable(f"{host}: {_reason(error)}")
    if isinstance(error, (ValueError, *_PERMANENT)):
        return unavailable
    if isinstance(getattr(error, "os_error", None), ForbiddenAddress):
        return SourceUnavailable(
            f"{host}: its address is not a global one, though the upstream's is; if that is right, add to the"
            f' upstream: allow_private_hosts: ["{host.rpartition(":")[0] or host}"]'
        )
    return Again(unavailable)


_REASONS: Final[tuple[tuple[type[Exception], Callable[[Any], str]], ...]] = (
    (
        aiohttp.ClientConnectorCertificateError,
        lambda error: f"its certificate is not trusted: {_certificate(error.certificate_error)}",
    ),
    (
        aiohttp.ClientConnectorSSLError,
        lambda error: f"TLS fails: {getattr(error.os_error, 'reason', '') or 'no common ground'}",
    ),
    (aiohttp.ClientConnectorDNSError, lambda _: "its name does not resolve"),
    (aiohttp.ClientConnectorError, lambda error: f"cannot connect: {_system(error.os_error)}"),
    (aiohttp.ServerDisconnectedError, lambda _: "the connection ended without an answer"),
    (aiohttp.ClientPayloadError, lambda _: "the body is not whole"),
    (aiohttp.ClientResponseError, lambda _: "what it sends is no HTTP"),
    (OSError, lambda error: _system(error)),
    (ValueError, lambda _: "its address cannot be used"),
)


def _reason(error: Exception) -> str:
    """Why, without what the exception's own text may hold: whole URLs with their signatures."""
    return next((say(error) for kind, say in _REASONS if isinstance(error, kind)), type(error).__name__)


def _system(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else type(error).__name__


def _certificate(error: Exception) -> str:
    return getattr(error, "verify_message", "") or type(error).__name__
