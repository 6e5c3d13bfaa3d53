"""What a request to an upstream is authorised with, and what to do when that is not taken.

The challenge of an upstream is remembered, in this process and for all: from the second request on, for
whichever repository, one goes out with its token at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final, Protocol

from entrepot.cache.clock import Clock
from entrepot.cache.errors import SourceError, SourceLimited, SourceRefused, SourceTimeout, SourceUnavailable
from entrepot.cache.lease import Leases
from yarl import URL

from ..config.model import UpstreamConfig
from .challenge import Challenge, choose
from .credential import Login, Probation, read_login
from .flavour import Flavour
from .observer import Observer
from .token import Token, TokenShelf, Wanted, check_realm, parse_token

_MEMORY: Final = 3600.0
"""Seconds that another process may go by a challenge of ours."""
_FETCHES_WITH_PASSWORD: Final = 4
"""At once, in a process: so many times a revoked password is tried before it is known to be revoked."""
_REPOSITORY: Final = "{repository}"


@dataclass(frozen=True, slots=True)
class RealmAnswer:
    """What a token server said."""

    status: int
    body: bytes
    retry_after: float | None
    short: str
    """For people: the host, the status and a short code."""


class AskRealm(Protocol):
    """Asks a token server; `public` as in `Demand`. Raises a `SourceError` where there is no answer."""

    def __call__(self, url: URL, authorization: str | None, *, public: bool) -> Awaitable[RealmAnswer]: ...


@dataclass(frozen=True, slots=True)
class Demand:
    """What an upstream wants to see, for any repository."""

    scheme: str
    """`basic` or `bearer`."""
    realm: str = ""
    service: str = ""
    scope: str = ""
    """With `{repository}` where the name stands."""
    public: bool = True
    """Whether the address that demanded it is a global one, so that its realm must be at one too."""

    @classmethod
    def of(cls, challenge: Challenge, repository: str, public: bool) -> Demand:
        if challenge.scheme == "basic":
            return cls("basic", public=public)
        scope = challenge.get("scope")
        if repository:
            scope = scope.replace(f"repository:{repository}:", f"repository:{_REPOSITORY}:")
            scope = scope or f"repository:{_REPOSITORY}:pull"
        return cls("bearer", challenge.get("realm"), challenge.get("service"), scope, public)

    @property
    def general(self) -> bool:
        """Whether it says what is wanted for other repositories too."""
        return self.scheme == "basic" or _REPOSITORY in self.scope or "repository:" not in self.scope

    def scopes(self, repository: str) -> tuple[str, ...]:
        if _REPOSITORY in self.scope and not repository:
            return ()
        return tuple(self.scope.replace(_REPOSITORY, repository).split())


@dataclass(frozen=True, slots=True)
class Grant:
    """What one request carries."""

    demand: Demand
    header: str = field(repr=False)
    login: Login | None = None
    probing: bool = False
    wanted: Wanted | None = None
    fresh: bool = False
    """Whether its token was fetched just for it."""

    @property
    def token(self) -> str:
        return self.header.removeprefix("Bearer ")


class Authority:
    """Grants for one upstream."""

    def __init__(
        self,
        config: UpstreamConfig,
        flavour: Flavour,
        *,
        ask: AskRealm,
        leases: Leases,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._config = config
        self._flavour = flavour
        self._ask = ask
        self._leases = leases
        self._clock = clock
        self._observer = observer
        self._url = URL(config.url)
        self._probation = Probation(config.name, leases=leases, clock=clock, observer=observer)
        self._shelf = TokenShelf(leases=leases, clock=clock, patience=config.timeout.answer)
        self._with_password = asyncio.Semaphore(_FETCHES_WITH_PASSWORD)
        self._demand: Demand | None = None
        self._demand_key = "challenge:" + hashlib.sha256(f"{config.name}\0{config.url}".encode()).hexdigest()

    async def grant(self, repository: str) -> Grant | None:
        """What to send with a request before it is challenged; None where no challenge is known. Raises a
        `SourceError` where a token is needed and not to be had, without asking for the repository."""
        if self._demand is None:
            text = await self._leases.recall(self._demand_key)
            if text is None:
                return None
            self._demand = Demand(*json.loads(text))
        return await self._grant(self._demand, repository)

    async def challenged(
        self, challenges: tuple[Challenge, ...], public: bool, repository: str, used: Grant | None, short: str
    ) -> Grant:
        """What to send instead, after a 401 to what was used. Raises what the 401 means where there is
        nothing better. `short` tells people of the answer."""
        challenge = choose(challenges)
        if challenge is None:
            raise SourceUnavailable(f"{short} and names no way to authenticate that is known here")
        demand = Demand.of(challenge, repository, public)
        if used is not None:
            await self._reject(used, demand, challenge, short)
        await self._adopt(demand)
        return await self._grant(demand, repository)

    async def accepted(self, used: Grant | None) -> None:
        """What was used was taken."""
        if used is not None and used.login is not None and used.probing:
            await self._probation.accepted(used.login)

    def denied(self, challenge: Challenge | None, short: str) -> SourceError:
        """What a 401 means that comes though nothing is wrong with our credential."""
        if challenge is not None and challenge.get("error") == "invalid_token":
            return SourceUnavailable(f"{short} to a token that its own token server has just given")
        return self._flavour.denied(short)

    async def _reject(self, used: Grant, demand: Demand, challenge: Challenge, short: str) -> None:
        """Raises if the 401 to this grant is the last word."""
        if used.wanted is None:
            if demand.scheme == "basic" and used.login is not None:
                raise await self._probation.refused(
                    used.login, f"{short} to our password", probing=used.probing
                )
            return
        await self._shelf.drop(used.wanted, used.token)
        if used.fresh and _same(used.demand, demand):
            raise self.denied(challenge, short)

    async def _adopt(self, demand: Demand) -> None:
        if demand != self._demand and demand.general:
            self._demand = demand
            value = [demand.scheme, demand.realm, demand.service, demand.scope, demand.public]
            await self._leases.remember(self._demand_key, json.dumps(value), _MEMORY)

    async def _grant(self, demand: Demand, repository: str) -> Grant:
        credential = self._config.credential
        login = None if credential is None else await read_login(self._config.name, credential)
        if demand.scheme == "basic":
            if login is None:
                raise SourceRefused(
                    f"{self._config.name} wants a password; add `credentials` to the upstream"
                )
            probing = await self._probation.admit(login)
            return Grant(demand, login.header, login, probing)
        allowed = (*self._flavour.realms, *self._config.token_realms)
        realm = check_realm(demand.realm, self._url, allowed)
        wanted = Wanted(
            self._config.name,
            str(realm),
            demand.service,
            demand.scopes(repository),
            login.identity if login else "",
        )
        value, fresh = await self._shelf.get(wanted, lambda: self._fetch(wanted, login, demand.public))
        return Grant(demand, f"Bearer {value}", wanted=wanted, fresh=fresh)

    async def _fetch(self, wanted: Wanted, login: Login | None, public: bool) -> Token:
        result = "failed"
        try:
            if login is None:
                token = await self._fetch_anonymously(wanted, public)
            else:
                token = await self._fetch_with(login, wanted, public)
            result = "ok"
        except SourceError as error:
            result = _RESULTS.get(type(error).__name__, "failed")
            raise
        finally:
            self._observer.token_fetch(self._config.name, result)
        return token

    async def _fetch_anonymously(self, wanted: Wanted, public: bool) -> Token:
        asked_at = self._clock.monotonic()
        answer = await self._ask(wanted.url(), None, public=public)
        if answer.status in (401, 403):
            raise self._flavour.denied(f"{answer.short} to a request for an anonymous token")
        return self._read(answer, asked_at)

    async def _fetch_with(self, login: Login, wanted: Wanted, public: bool) -> Token:
        async with AsyncExitStack() as turn:
            patience = self._config.timeout.answer
            try:
                async with asyncio.timeout(patience):
                    await turn.enter_async_context(self._with_password)
            except TimeoutError:
                raise SourceTimeout(f"{wanted.upstream}: no turn for a token within {patience:g} s") from None
            probing = await self._probation.admit(login)
            asked_at = self._clock.monotonic()
            answer = await self._ask(wanted.url(), login.header, public=public)
            if answer.status == 403 and wanted.scopes:
                # Some token servers (GHCR) refuse the scope with the word for a bad password. Asked for no
                # scope they say which it was; otherwise anyone who asks for a closed repository would have
                # a good credential set aside.
                unscoped = await self._ask(wanted.url(with_scopes=False), login.header, public=public)
                if unscoped.status == 200:
                    if probing:
                        await self._probation.accepted(login)
                    raise self._flavour.denied(f"{answer.short} to our request for a token")
            if answer.status in (401, 403):
                raise await self._probation.refused(login, f"{answer.short} to our password", probing=probing)
            token = self._read(answer, asked_at)
            if probing:
                await self._probation.accepted(login)
            return token

    def _read(self, answer: RealmAnswer, asked_at: float) -> Token:
        if answer.status == 429:
            raise SourceLimited(f"{answer.short} to our request for a token", answer.retry_after)
        if answer.status != 200:
            raise SourceUnavailable(f"{answer.short} to our request for a token")
        return parse_token(answer.short.partition(" ")[0], answer.body, asked_at)


_RESULTS: Final = {
    "CredentialRefused": "refused",
    "SourceRefused": "refused",
    "SourceMissing": "refused",
    "SourceLimited": "limited",
}


def _same(one: Demand, other: Demand) -> bool:
    return (one.realm, one.service, one.scope) == (other.realm, other.service, other.scope)
