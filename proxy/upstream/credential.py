"""Our credential at an upstream: read when it is needed, and set aside while the upstream refuses it.

A credential that was revoked must not be tried by every request of every worker: upstreams lock accounts.
What is known of a refusal is remembered for all processes, under a name that changes when the password does.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from dataclasses import dataclass, field
from typing import Final

from entrepot.cache.clock import Clock
from entrepot.cache.errors import CredentialRefused
from entrepot.cache.lease import Leases

from ..config.model import Credential
from .observer import Observer

_LOG: Final = logging.getLogger(__name__)
_FIRST_REST: Final = 60.0
_LONGEST_REST: Final = 900.0
_MEMORY: Final = 3600.0
"""Seconds after its rest that a refused credential is still on probation: its next rest is twice as long."""


@dataclass(frozen=True, slots=True)
class Login:
    """A credential as it is now."""

    identity: str
    """Names it without giving it away."""
    header: str = field(repr=False)
    """`Basic …`."""


async def read_login(upstream: str, credential: Credential) -> Login:
    """Reads the password, off the event loop. Raises `CredentialRefused` where there is none to read."""
    try:
        identity, password = await asyncio.to_thread(
            lambda: (credential.identity(), credential.password.read())
        )
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CredentialRefused(f"{upstream}: the password cannot be read: {reason}") from None
    pair = f"{credential.username}:{password}".encode()
    return Login(identity, "Basic " + base64.b64encode(pair).decode("ascii"))


@dataclass(frozen=True, slots=True)
class _Rest:
    """That a credential is left alone until a monotonic time, and how often that was so before."""

    until: float
    refusals: int

    def dump(self) -> str:
        return json.dumps([self.until, self.refusals])

    @classmethod
    def load(cls, text: str) -> _Rest:
        until, refusals = json.loads(text)
        return cls(float(until), int(refusals))


class Probation:
    """Which credentials of an upstream are set aside, in all processes."""

    def __init__(self, upstream: str, *, leases: Leases, clock: Clock, observer: Observer) -> None:
        self._upstream = upstream
        self._leases = leases
        self._clock = clock
        self._observer = observer

    async def admit(self, login: Login) -> bool:
        """Raises `CredentialRefused` while the credential is set aside. True if it is on probation: the
        caller is the only one to try it within the next minute, and says what came of it."""
        rest = await self._recall(login)
        if rest is None:
            return False
        if self._clock.monotonic() >= rest.until:
            async with self._leases.lease(self._key(login)):  # held for a moment only, by all who hold it
                rest = await self._recall(login)
                if rest is None:
                    return False
                if self._clock.monotonic() >= rest.until:
                    await self._remember(login, _Rest(self._clock.monotonic() + _FIRST_REST, rest.refusals))
                    return True
        seconds = max(1, round(rest.until - self._clock.monotonic()))
        raise CredentialRefused(
            f"{self._upstream}: our credential was refused; next try in {seconds} s or when it changes"
        )

    async def refused(self, login: Login, detail: str, *, probing: bool = False) -> CredentialRefused:
        """Sets the credential aside, for twice as long each time; what to raise. Of several requests that
        were refused at once, one counts."""
        async with self._leases.lease(self._key(login)):
            rest = await self._recall(login)
            if rest is None or probing:
                refusals = rest.refusals + 1 if rest is not None else 1
                seconds = min(_FIRST_REST * 2 ** (refusals - 1), _LONGEST_REST)
                await self._remember(login, _Rest(self._clock.monotonic() + seconds, refusals))
                self._observer.credential_refused(self._upstream)
                _LOG.error(
                    "upstream %s refuses our credential %s: %s; what is cached is served; the credential is"
                    " tried again in %d s or when it changes",
                    self._upstream,
                    login.identity,
                    detail,
                    seconds,
                )
        return CredentialRefused(detail)

    async def accepted(self, login: Login) -> None:
        """The end of a probation."""
        await self._leases.forget(self._key(login))
        _LOG.warning("upstream %s takes our credential %s again", self._upstream, login.identity)

    async def _recall(self, login: Login) -> _Rest | None:
        text = await self._leases.recall(self._key(login))
        return None if text is None else _Rest.load(text)

    async def _remember(self, login: Login, rest: _Rest) -> None:
        seconds = rest.until - self._clock.monotonic() + _MEMORY
        await self._leases.remember(self._key(login), rest.dump(), seconds)

    def _key(self, login: Login) -> str:
        return "credential:" + hashlib.sha256(f"{self._upstream}\0{login.identity}".encode()).hexdigest()
