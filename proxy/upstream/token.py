"""Tokens: fetched, shared by all processes, renewed ahead of time (distribution, docs/spec/auth/token.md)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode
from weakref import WeakValueDictionary

from entrepot.cache.clock import Clock
from entrepot.cache.errors import (
    CredentialRefused,
    SourceError,
    SourceLimited,
    SourceMissing,
    SourceRefused,
    SourceTimeout,
    SourceUnavailable,
)
from entrepot.cache.lease import Leases
from yarl import URL

from .address import origin, parse_url, same_origin

BODY_LIMIT: Final = 64 * 1024
"""Bytes of a token server's answer."""
_SHORTEST_LIFE: Final = 60.0
_LONGEST_LIFE: Final = 86_400.0
_AHEAD: Final = 10.0
"""Seconds before its end that a token is renewed, or a tenth of its life if that is more, up to a minute."""
_REST: Final = 10.0
"""Seconds before a renewal that failed is tried again, while the old token lasts."""
_HELD: Final = 4096
_FAILURE_MEMORY: Final = 60.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a token is for."""

    upstream: str
    realm: str
    service: str
    scopes: tuple[str, ...]
    identity: str = ""
    """The credential's; empty for an anonymous token."""

    def key(self) -> str:
        """Names it, and gives away nothing of it."""
        parts = [self.upstream, self.realm, self.service, sorted(self.scopes), self.identity]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def url(self, *, with_scopes: bool = True) -> URL:
        """The realm, asked for this token; without the scopes it is asked who we are, and nothing more."""
        parameters = [("service", self.service)] if self.service else []
        if with_scopes:
            parameters += [("scope", scope) for scope in self.scopes]
        query = urlencode(parameters, quote_via=quote, safe="/:,")
        joint = "&" if "?" in self.realm else "?"
        return URL(f"{self.realm.partition('#')[0]}{joint if query else ''}{query}", encoded=True)


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and until when it is good, in monotonic time."""

    value: str = field(repr=False)
    renew: float
    until: float

    @classmethod
    def living(cls, value: str, now: float, life: float) -> Token:
        """One that was received at `now`."""
        ahead = min(max(_AHEAD, life / 10), _SHORTEST_LIFE)
        return cls(value, now + life - ahead, now + life)

    def dump(self) -> str:
        return json.dumps([self.value, self.renew, self.until])

    @classmethod
    def load(cls, text: str) -> Token:
        value, renew, until = json.loads(text)
        return cls(str(value), float(renew), float(until))


def parse_token(host: str, body: bytes, now: float) -> Token:
    """A token server's answer. The life counts from `now`, whatever the answer says of when it was issued:
    the clocks of others are not ours. Raises `SourceUnavailable`."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise SourceUnavailable(f"{host}: the token server's answer is no JSON object")
    value = answer.get("token") or answer.get("access_token")
    if not isinstance(value, str) or not value or not all("!" <= char <= "~" for char in value):
        raise SourceUnavailable(f"{host}: the token server's answer holds no token")
    return Token.living(value, now, _life(answer.get("expires_in")))


def _life(value: Any) -> float:
    if isinstance(value, str) and len(value) < 20:
        value = float(value) if value.isascii() and value.isdigit() else None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value != value:
        return _SHORTEST_LIFE
    return float(min(max(value, _SHORTEST_LIFE), _LONGEST_LIFE))


def check_realm(realm: str, upstream: URL, allowed: tuple[str, ...]) -> URL:
    """The token server's URL, if the upstream may name it: at its own origin, or at one that the flavour or
    `token_realms:` names, under its path if that has one. Raises `SourceUnavailable` that says which line to
    add. Otherwise an upstream could have our password sent anywhere (CVE-2026-33540)."""
    url = parse_url(realm)
    if url is None:
        raise SourceUnavailable(f"{origin(upstream)} names a token server that is no http or https URL")
    if same_origin(url, upstream):
        return url
    for text in allowed:
        place = parse_url(text)
        if place is not None and same_origin(url, place) and _under(url.raw_path, place.raw_path):
            return url
    raise SourceUnavailable(
        f"{origin(upstream)} names a token server of another origin, {origin(url)}; if that is right, add to"
        f' the upstream: token_realms: ["{origin(url)}"]'
    )


def _under(path: str, prefix: str) -> bool:
    prefix = prefix.rstrip("/")
    climbs = ".." in unquote(path).replace("\\", "/").split("/")
    return not climbs and (path == prefix or path.startswith(prefix + "/"))


class TokenShelf:
    """The tokens of one upstream. One fetch at a time for each of what is wanted, in this process and among
    all; those who waited for one that failed get its failure, and do not try again one after another."""

    def __init__(self, *, leases: Leases, clock: Clock, patience: float) -> None:
        """`patience`: seconds that a token fetched by someone else is waited for."""
        self._leases = leases
        self._clock = clock
        self._patience = patience
        self._held: OrderedDict[str, Token] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def get(self, wanted: Wanted, fetch: Callable[[], Awaitable[Token]]) -> tuple[str, bool]:
        """A token, and whether it was fetched just now. Raises what `fetch` raises, and `SourceTimeout`."""
        key = wanted.key()
        token = self._usable(key)
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        if token is not None and (self._clock.monotonic() < token.renew or lock.locked()):
            return token.value, False
        failed_before = await self._leases.recall(f"token-failure:{key}")
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._patience):
                    await held.enter_async_context(lock)
                    await held.enter_async_context(self._leases.lease(f"token:{key}"))
            except TimeoutError:
                if token is not None:
                    return token.value, False
                raise SourceTimeout(f"{wanted.upstream}: no token within {self._patience:g} s") from None
            return await self._get_alone(key, failed_before, fetch)

    async def drop(self, wanted: Wanted, value: str) -> None:
        """Forgets a token that was not taken; not one that has replaced it meanwhile."""
        key = wanted.key()
        held = self._held.get(key)
        if held is not None and held.value == value:
            del self._held[key]
        text = await self._leases.recall(f"token:{key}")
        if text is not None and Token.load(text).value == value:
            await self._leases.forget(f"token:{key}")

    async def _get_alone(
        self, key: str, failed_before: str | None, fetch: Callable[[], Awaitable[Token]]
    ) -> tuple[str, bool]:
        text = await self._leases.recall(f"token:{key}")
        if text is not None:
            shared = Token.load(text)
            if self._clock.monotonic() < shared.renew:
                self._keep(key, shared)
                return shared.value, False
        old = self._usable(key)
        try:
            failure = await self._leases.recall(f"token-failure:{key}")
            if failure is not None and failure != failed_before:
                raise _load_failure(failure)
            token = await self._fetch(key, fetch)
        except (SourceUnavailable, SourceLimited):
            if old is None:
                raise
            self._keep(key, replace(old, renew=min(old.until, self._clock.monotonic() + _REST)))
            return old.value, False
        return token.value, True

    async def _fetch(self, key: str, fetch: Callable[[], Awaitable[Token]]) -> Token:
        try:
            token = await fetch()
        except SourceError as error:
            await self._leases.remember(f"token-failure:{key}", _dump_failure(error), _FAILURE_MEMORY)
            raise
        self._keep(key, token)
        await self._leases.remember(f"token:{key}", token.dump(), token.until - self._clock.monotonic())
        return token

    def _usable(self, key: str) -> Token | None:
        token = self._held.get(key)
        return token if token is not None and self._clock.monotonic() < token.until else None

    def _keep(self, key: str, token: Token) -> None:
        self._held[key] = token
        self._held.move_to_end(key)
        while len(self._held) > _HELD:
            self._held.popitem(last=False)


_FAILURES: Final = {
    kind.__name__: kind
    for kind in (CredentialRefused, SourceMissing, SourceRefused, SourceTimeout, SourceUnavailable)
}


def _dump_failure(error: SourceError) -> str:
    wait = error.retry_after if isinstance(error, SourceLimited) else None
    # The last item makes each failure another one, so that who waited sees that this one is new.
    return json.dumps([type(error).__name__, error.detail, wait, secrets.token_hex(8)])


def _load_failure(text: str) -> SourceError:
    kind, detail, wait, _ = json.loads(text)
    if kind == SourceLimited.__name__:
        return SourceLimited(detail, wait)
    return _FAILURES.get(kind, SourceUnavailable)(detail)
