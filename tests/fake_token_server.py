"""A token server (distribution docs/spec/auth/token.md) with content of its own to lie with."""

from __future__ import annotations

import base64
import itertools
import json
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field

from entrepot.cache.clock import Clock, SystemClock
from fake_http import FakeServer, Reply, Seen, reply


def basic(username: str, password: str) -> str:
    """The `Authorization` header of these two."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


@dataclass
class Basic:
    """A registry that wants a password with each request."""

    username: str
    password: str
    realm: str = "registry"

    def set_password(self, new: str) -> None:
        self.password = new


@dataclass(frozen=True)
class Issued:
    """What a token opens: (repository, action), for whom, and until when."""

    access: frozenset[tuple[str, str]]
    username: str | None
    until: float


@dataclass
class Bearer:
    """A registry that wants tokens, and who gives them. Answers at `/token` of the registry itself, or of a
    `FakeTokenServer` of its own."""

    users: dict[str, str] = field(default_factory=dict)
    anonymous: bool = True
    """Whether a request without a password gets a token."""
    private: set[str] = field(default_factory=set)
    """Repositories that only users may pull from."""
    life: int | None = 300
    """Seconds; None leaves `expires_in` out, and the token is good for 60."""
    field_name: str = "token"
    """Or `access_token`."""
    service: str = "fake.registry"
    hub_like: bool = False
    """401 for a repository that is missing or closed, whatever the token (Docker Hub)."""
    clock: Clock = field(default_factory=SystemClock)
    issued: dict[str, Issued] = field(default_factory=dict)
    _serial: itertools.count[int] = field(default_factory=itertools.count)

    def set_password(self, new: str, username: str | None = None) -> None:
        """Of that user, or of all."""
        for name in [username] if username else list(self.users):
            self.users[name] = new

    def revoke_all(self) -> None:
        """No token given so far opens anything from now on."""
        self.issued.clear()

    def answer(self, seen: Seen) -> Reply:
        """The token server's own answer."""
        username = None
        if seen.authorization is not None:
            username = next(
                (user for user, word in self.users.items() if basic(user, word) == seen.authorization), None
            )
            if username is None:
                return _refusal(401, "UNAUTHORIZED", "incorrect username or password")
        elif not self.anonymous:
            return _refusal(401, "UNAUTHORIZED", "authentication required")
        access = frozenset(
            (repository, action)
            for repository, action in _scopes(seen.query.get("scope", []))
            if username is not None or repository not in self.private
        )
        token = f"token-{next(self._serial)}-{'-'.join(sorted(name for name, _ in access)) or 'nothing'}"
        seconds = 60 if self.life is None else self.life
        self.issued[token] = Issued(access, username, self.clock.monotonic() + seconds)
        body: dict[str, object] = {self.field_name: token}
        if self.life is not None:
            body["expires_in"] = self.life
        return reply(200, json.dumps(body).encode())

    def admits(self, seen: Seen, repository: str) -> str | None:
        """None if the request may pull from the repository; else the `error` of the challenge, which is empty
        where there is nothing to say."""
        scheme, _, token = (seen.authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return ""
        issued = self.issued.get(token)
        if issued is None or self.clock.monotonic() >= issued.until:
            return "invalid_token"
        return None if (repository, "pull") in issued.access else "insufficient_scope"


class FakeTokenServer(FakeServer):
    """A token server at an origin of its own."""

    def __init__(
        self, bearer: Bearer, *, ssl_context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        super().__init__(ssl_context=ssl_context, host=host)
        self.bearer = bearer

    @property
    def realm(self) -> str:
        return f"{self.url}/token"

    def answer(self, seen: Seen) -> Reply:
        return self.bearer.answer(seen)


def _refusal(status: int, code: str, message: str) -> Reply:
    return reply(status, json.dumps({"errors": [{"code": code, "message": message}]}).encode())


def _scopes(values: Iterable[str]) -> Iterable[tuple[str, str]]:
    for scope in " ".join(values).split():
        kind, _, rest = scope.partition(":")
        repository, _, actions = rest.rpartition(":")
        if kind == "repository":
            for action in actions.split(","):
                yield repository, action
