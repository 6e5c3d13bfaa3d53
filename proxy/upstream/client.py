"""The client of one upstream registry: manifests and blobs by GET and HEAD, and errors by their meaning."""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from aiohttp.abc import AbstractResolver
from entrepot.cache.clock import Clock
from entrepot.cache.digest import Digest
from entrepot.cache.errors import (
    InvalidDigest,
    InvalidManifest,
    SourceError,
    SourceLimited,
    SourceMissing,
    SourceRefused,
    SourceTimeout,
    SourceUnavailable,
)
from entrepot.cache.lease import Leases
from entrepot.cache.manifest import SIZE_LIMIT, Manifest
from entrepot.cache.media_type import bare
from yarl import URL

from ..config.model import UpstreamConfig
from .address import IsGlobal, is_global_address
from .authorization import Authority, Grant
from .blob_stream import BlobStream, content_range, unsatisfied_size
from .challenge import Challenge, choose, parse
from .exchange import Exchange, check_encoding, read_whole
from .flavour import Flavour, flavour_of
from .observer import NoObserver, Observer
from .retry import Retry
from .transport import Answer, Transport

__all__ = ["BlobStream", "FetchedManifest", "ManifestHead", "UpstreamClient"]

T = TypeVar("T")

_ROUNDS: Final = 3
"""Requests that one question may take: without a token, with one that has ended, with a new one."""
_BLOBS: Final = 64
"""At once, of one upstream in one process. Fewer than there are connections: manifests are not kept
waiting."""
_LINK_ENDED: Final = frozenset({400, 403, 410})
"""What a storage answers to a signed link that is no longer good."""
_HEAD_REFUSED: Final = frozenset({400, 401, 403, 405, 410, 501})
"""What a storage answers to a HEAD with a link that was signed for GET."""
_WHOLE_BODY: Final = 60.0
"""Seconds for a manifest, however slowly it comes."""


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """What a HEAD says of a manifest. Any of it may be missing: ask by GET then."""

    digest: Digest | None
    media_type: str
    """Without parameters; empty where it is not said."""
    size: int | None


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest as it came. That the bytes are what the digest names has not been checked."""

    content: bytes
    media_type: str
    digest: Digest | None
    """As the header named it."""


@dataclass(frozen=True, slots=True)
class _Challenged:
    """A 401 of the upstream itself."""

    challenges: tuple[Challenge, ...]
    public: bool
    short: str


class _NotTaken(Exception):
    """The request is not taken in this form, or by way of this link, which says nothing of the content."""


class UpstreamClient:
    """Asks one upstream. All methods raise a `SourceError` by its meaning, whose text holds neither secrets
    nor queries of URLs; none of them waits longer than the upstream's time-outs say, tries again
    included."""

    def __init__(
        self,
        config: UpstreamConfig,
        *,
        leases: Leases,
        clock: Clock,
        metrics: Observer | None = None,
        resolver: AbstractResolver | None = None,
        is_global: IsGlobal = is_global_address,
        flavour: Flavour | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        """`resolver` and `is_global` are the test's; `flavour`: None for what the host in `url` says."""
        self._config = config
        self._observer = metrics or NoObserver()
        url = URL(config.url)
        self._origin = str(url.origin())
        self._prefix = url.path.strip("/")
        self.flavour = flavour or flavour_of(url.host or "")
        self._transport = Transport(config, observer=self._observer, resolver=resolver, is_global=is_global)
        self._retry = Retry(sleep=sleep, dice=random)
        self._exchange = Exchange(config, self._transport, clock=clock, retry=self._retry)
        self._authority = Authority(
            config,
            self.flavour,
            ask=self._exchange.ask_realm,
            leases=leases,
            clock=clock,
            observer=self._observer,
        )
        self._blobs = asyncio.Semaphore(_BLOBS)

    async def head_manifest(self, repository: str, reference: str, accept: Sequence[str]) -> ManifestHead:
        """What the upstream has under a tag or digest, without spending a pull where that is possible.
        `accept` holds media types."""
        headers = {"Accept": ", ".join(accept)}
        url = self._place(repository, "manifests", reference)
        try:
            return await self._ask("HEAD", url, repository, headers, _manifest_head)
        except _NotTaken:
            fetched = await self.get_manifest(repository, reference, accept)
        digest = fetched.digest or Digest.of(fetched.content)
        return ManifestHead(digest, fetched.media_type, len(fetched.content))

    async def get_manifest(self, repository: str, reference: str, accept: Sequence[str]) -> FetchedManifest:
        """The manifest under a tag or digest, at most 4 MiB of it."""
        headers = {"Accept": ", ".join(accept)}
        url = self._place(repository, "manifests", reference)
        return await self._get(url, repository, headers, self._manifest)

    async def head_blob(self, repository: str, digest: Digest) -> int | None:
        """A blob's size in bytes; None where the upstream has it and does not say."""
        url = self._place(repository, "blobs", str(digest))
        try:
            size = await self._ask("HEAD", url, repository, {}, _length)
        except _NotTaken:
            size = None
        if size is not None:
            return size
        return await self._get(url, repository, {"Range": "bytes=0-0"}, _size)

    async def open_blob(
        self, repository: str, digest: Digest, start: int = 0, end: int | None = None
    ) -> BlobStream:
        """A blob's bytes from `start` on, to `end` exclusively. They may begin earlier: see
        `BlobStream.start`. Waits, within the time-out for a first byte, while too many blobs are being
        read."""
        await self._take_turn()
        headers = {}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"

        async def stream(answer: Answer) -> BlobStream:
            if _is_page(answer) and answer.headers.get("Docker-Content-Digest") != str(digest):
                raise SourceUnavailable(f"{answer.host}: answered with a web page")
            return BlobStream(
                answer,
                start,
                end,
                received=partial(self._observer.bytes_received, self._config.name),
                done=self._blobs.release,
            )

        try:
            return await self._get(self._place(repository, "blobs", str(digest)), repository, headers, stream)
        except BaseException:
            self._blobs.release()
            raise

    async def ping(self) -> None:
        """Whether the upstream is there and takes what we authenticate with, asked of its `/v2/`."""
        await self._ask("GET", URL(f"{self._origin}/v2/"), "", {}, _nothing)

    async def close(self) -> None:
        """Ends all connections, also those of blobs that are being read."""
        await self._transport.close()

    def _place(self, repository: str, kind: str, reference: str) -> URL:
        name = f"{self._prefix}/{repository}" if self._prefix else repository
        return URL(f"{self._origin}/v2/{name}/{kind}/{reference}", encoded=True)

    async def _take_turn(self) -> None:
        patience = self._config.timeout.first_byte
        try:
            async with asyncio.timeout(patience):
                await self._blobs.acquire()
        except TimeoutError:
            raise SourceTimeout(
                f"{self._config.name}: {_BLOBS} blobs are being read, and none ended within {patience:g} s"
            ) from None

    async def _get(
        self, url: URL, repository: str, headers: dict[str, str], use: Callable[[Answer], Awaitable[T]]
    ) -> T:
        """A GET that goes back to the upstream for another link, once, where the first is no longer good."""
        try:
            return await self._ask("GET", url, repository, headers, use)
        except _NotTaken:
            pass
        try:
            return await self._ask("GET", url, repository, headers, use)
        except _NotTaken as refusal:
            raise SourceUnavailable(f"{refusal}, to which {self._config.name} redirects") from None

    async def _ask(
        self,
        method: str,
        url: URL,
        repository: str,
        headers: dict[str, str],
        use: Callable[[Answer], Awaitable[T]],
    ) -> T:
        """What `use` makes of the answer, with whatever the upstream wants to see before it gives one."""
        if self._config.offline:
            raise SourceUnavailable(f"{self._config.name} is offline by configuration")
        scope = f"{self._prefix}/{repository}" if self._prefix and repository else repository
        grant = await self._authority.grant(scope)
        challenged: _Challenged | None = None
        for _ in range(_ROUNDS):
            outcome = await self._retry(partial(self._attempt, method, url, headers, grant, use))
            if not isinstance(outcome, _Challenged):
                return outcome
            challenged = outcome
            grant = await self._authority.challenged(
                challenged.challenges, challenged.public, scope, grant, challenged.short
            )
        assert challenged is not None
        raise self._authority.denied(choose(challenged.challenges), challenged.short)

    async def _attempt(
        self,
        method: str,
        url: URL,
        headers: dict[str, str],
        grant: Grant | None,
        use: Callable[[Answer], Awaitable[T]],
    ) -> T | _Challenged:
        answer, elsewhere = await self._exchange.follow(method, url, headers, grant.header if grant else None)
        try:
            if answer.status == 401 and not elsewhere:
                challenges = parse(answer.headers.getall("WWW-Authenticate", ()))
                return _Challenged(challenges, answer.public, await self._exchange.short(answer))
            await self._authority.accepted(grant)
            if answer.status in (200, 206) or (answer.status == 416 and unsatisfied_size(answer) == 0):
                return await use(answer)
            raise await self._failure(method, answer, elsewhere)
        except BaseException:
            answer.close()
            raise

    async def _failure(self, method: str, answer: Answer, elsewhere: bool) -> Exception:
        """What an answer means that is none of those hoped for."""
        await self._exchange.raise_if_passing(answer)
        wait = self._exchange.retry_after(answer)
        status = answer.status
        short = await self._exchange.short(answer)
        if elsewhere and status in (_HEAD_REFUSED if method == "HEAD" else _LINK_ENDED):
            return _NotTaken(short)
        if method == "HEAD" and status == 405:
            return _NotTaken(short)
        meaning = _meaning(status, short, wait, elsewhere)
        meaning.answer = status
        return meaning

    async def _manifest(self, answer: Answer) -> FetchedManifest:
        try:
            async with asyncio.timeout(_WHOLE_BODY):
                content = await read_whole(answer, SIZE_LIMIT)
        except TimeoutError:
            raise SourceTimeout(f"{answer.host}: a manifest took more than {_WHOLE_BODY:g} s") from None
        self._observer.bytes_received(self._config.name, len(content))
        media_type = bare(answer.headers.get("Content-Type", ""))
        if not media_type.startswith("application/"):
            try:
                media_type = Manifest.parse(content, media_type).media_type
            except InvalidManifest:
                what = "a web page" if _is_page(answer) else "what is no manifest"
                raise SourceUnavailable(f"{answer.host}: answered with {what}") from None
        return FetchedManifest(content, media_type, _digest(answer))


async def _manifest_head(answer: Answer) -> ManifestHead:
    if _is_page(answer):
        raise SourceUnavailable(f"{answer.host}: answered with a web page")
    head = ManifestHead(_digest(answer), bare(answer.headers.get("Content-Type", "")), answer.length)
    check_encoding(answer)
    await answer.discard()
    return head


async def _length(answer: Answer) -> int | None:
    check_encoding(answer)
    length = answer.length
    await answer.discard()
    return length


async def _size(answer: Answer) -> int | None:
    """Of a blob whose first byte was asked for."""
    check_encoding(answer)
    if answer.status == 416:
        return 0  # there is no first byte
    size = content_range(answer)[2] if answer.status == 206 else answer.length
    await answer.discard()
    return size


async def _nothing(answer: Answer) -> None:
    await answer.discard()


def _digest(answer: Answer) -> Digest | None:
    try:
        return Digest.parse(answer.headers.get("Docker-Content-Digest", "").strip())
    except InvalidDigest:
        return None


def _is_page(answer: Answer) -> bool:
    return bare(answer.headers.get("Content-Type", "")) in ("text/html", "application/xhtml+xml")


def _meaning(status: int, short: str, wait: float | None, elsewhere: bool) -> SourceError:
    if status == 404 or (status == 410 and not elsewhere):
        return SourceMissing(short)
    if status == 429:
        return SourceLimited(short, wait)
    if status in (403, 451) and not elsewhere:
        return SourceRefused(short)
    return SourceUnavailable(short)
