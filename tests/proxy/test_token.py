"""Tokens: what is read of a token server's answer, where it may be, and who fetches when."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from entrepot.cache.clock import ManualClock
from entrepot.cache.errors import (
    CredentialRefused,
    SourceLimited,
    SourceRefused,
    SourceTimeout,
    SourceUnavailable,
)
from entrepot.cache.lease import LocalLeases
from entrepot.proxy.upstream.credential import Login, Probation
from entrepot.proxy.upstream.token import Token, TokenShelf, Wanted, check_realm, parse_token
from hypothesis import given
from hypothesis import strategies as st
from upstream_bench import Recorder
from yarl import URL

WANTED = Wanted("up", "https://auth.example/token", "svc", ("repository:a/b:pull",))


def life(**answer: object) -> float:
    return parse_token("h", json.dumps({"token": "t", **answer}).encode(), 100.0).until - 100.0


def test_both_names_of_a_token() -> None:
    assert parse_token("h", b'{"token":"a"}', 0).value == "a"
    assert parse_token("h", b'{"access_token":"b"}', 0).value == "b"
    assert parse_token("h", b'{"token":"a","access_token":"b"}', 0).value == "a"
    assert parse_token("h", b'{"token":"","access_token":"b"}', 0).value == "b"


@pytest.mark.parametrize("said", [None, 5, 0, -7, 59.9, "30", "soon", True, [], {}, float("nan"), "٣٠٠"])
def test_a_life_that_is_short_or_not_said_is_a_minute(said: object) -> None:
    assert life(expires_in=said) == 60
    assert life() == 60


def test_a_life_counts_from_receipt_and_ends_within_a_day() -> None:
    assert life(expires_in=300) == life(expires_in="300") == 300
    assert life(expires_in=300, issued_at="2009-11-10T23:00:00Z") == 300
    assert life(expires_in=300, issued_at="2909-11-10T23:00:00Z") == 300
    assert life(expires_in=10**30) == life(expires_in=float("inf")) == 86_400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'"token"',
        b"{}",
        b'{"token":1}',
        b'{"token":"a\\r\\nX: y"}',
        b'{"token":"a b"}',
        '{"token":"ä"}'.encode(),
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_what_is_no_token(body: bytes) -> None:
    with pytest.raises(SourceUnavailable, match=r"^h: the token server's answer"):
        parse_token("h", body, 0)


@given(st.binary(max_size=300))
def test_a_token_server_may_answer_anything(body: bytes) -> None:
    with contextlib.suppress(SourceUnavailable):
        parse_token("h", body, 0)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists))
def test_a_life_may_be_anything(said: object) -> None:
    assert 60 <= life(expires_in=said) <= 86_400


def test_a_token_is_asked_for_with_service_and_each_scope() -> None:
    wanted = Wanted("up", "https://auth.example/token?x=1", "a b", ("repository:a/b:pull", "other"))
    assert (
        str(wanted.url())
        == "https://auth.example/token?x=1&service=a%20b&scope=repository:a/b:pull&scope=other"
    )
    assert str(Wanted("up", "https://auth.example/t", "", ()).url()) == "https://auth.example/t"
    assert str(WANTED.url(with_scopes=False)) == "https://auth.example/token?service=svc"


def test_the_key_of_a_token_gives_nothing_away_and_differs() -> None:
    other = Wanted("up", WANTED.realm, "svc", WANTED.scopes, "id")
    assert WANTED.key() != other.key()
    assert "auth" not in WANTED.key()
    assert "t0p" not in repr(Token("t0p", 0, 1))


UPSTREAM = URL("https://registry.example")


@pytest.mark.parametrize(
    "realm",
    [
        "https://registry.example/token",
        "https://registry.example:443/x?y=1",
        "HTTPS://Registry.Example/token",
    ],
)
def test_a_realm_at_the_upstreams_own_origin(realm: str) -> None:
    assert check_realm(realm, UPSTREAM, ()).path in ("/token", "/x")


@pytest.mark.parametrize(
    "realm",
    [
        "https://auth.example/token",
        "http://registry.example/token",
        "https://registry.example:8443/token",
        "https://registry.example.evil.test/token",
        "https://registry.example@evil.test/token",
    ],
)
def test_a_realm_at_another_origin_is_refused(realm: str) -> None:
    with pytest.raises(SourceUnavailable):
        check_realm(realm, UPSTREAM, ())


def test_the_refusal_says_which_line_to_add_and_holds_no_query() -> None:
    with pytest.raises(SourceUnavailable) as raised:
        check_realm("https://auth.example:8443/token?secret=1", UPSTREAM, ())
    assert 'token_realms: ["https://auth.example:8443"]' in raised.value.detail
    assert "secret" not in raised.value.detail


def test_realms_that_are_allowed_by_origin_or_path() -> None:
    assert check_realm("https://auth.example/any", UPSTREAM, ("https://auth.example",))
    assert check_realm("https://gitlab.com/jwt/auth", UPSTREAM, ("https://gitlab.com/jwt/auth",))
    assert check_realm("https://gitlab.com/jwt/auth/x?y", UPSTREAM, ("https://gitlab.com/jwt/auth/",))
    for realm in (
        "https://gitlab.com/jwt/authority",
        "https://gitlab.com/jwt/auth/../../evil",
        "https://gitlab.com/jwt/auth/%2e%2e/evil",
        "https://gitlab.com/",
    ):
        with pytest.raises(SourceUnavailable):
            check_realm(realm, UPSTREAM, ("https://gitlab.com/jwt/auth",))


@pytest.mark.parametrize(
    "realm",
    ["", "/token", "ftp://registry.example/", "file:///etc/passwd", "https://", "https://h:99999/", "\udc80"],
)
def test_what_is_no_realm(realm: str) -> None:
    with pytest.raises(SourceUnavailable, match="no http or https URL"):
        check_realm(realm, UPSTREAM, ())


class Fetches:
    """Fetches that a test lets go one by one."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.count = 0
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.failure: Exception | None = None

    async def __call__(self) -> Token:
        self.count += 1
        self.begun.set()
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        return Token.living(f"token-{self.count}", self.clock.monotonic(), 300)


class Shelves:
    """Two processes' shelves over the same leases."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.leases = LocalLeases(self.clock)
        self.one, self.two = (
            TokenShelf(leases=self.leases, clock=self.clock, patience=5.0) for _ in range(2)
        )
        self.fetch = Fetches(self.clock)


@pytest.fixture
def shelves() -> Shelves:
    return Shelves()


async def test_one_fetch_for_all_who_want_the_same_in_all_processes(shelves: Shelves) -> None:
    shelves.fetch.go.clear()
    waiting = [
        asyncio.create_task(shelf.get(WANTED, shelves.fetch)) for shelf in (shelves.one, shelves.two) * 20
    ]
    await shelves.fetch.begun.wait()
    shelves.fetch.go.set()
    values = [await task for task in waiting]
    assert {value for value, _ in values} == {"token-1"}
    assert [fresh for _, fresh in values].count(True) == 1
    assert shelves.fetch.count == 1


async def test_who_waited_for_a_fetch_that_failed_gets_its_failure_and_the_next_tries_again(
    shelves: Shelves,
) -> None:
    shelves.fetch.go.clear()
    shelves.fetch.failure = SourceLimited("h answered 429", 7.0)
    waiting = [
        asyncio.create_task(shelf.get(WANTED, shelves.fetch)) for shelf in (shelves.one, shelves.two) * 20
    ]
    await shelves.fetch.begun.wait()
    await asyncio.sleep(0)  # all of them have begun
    shelves.fetch.go.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert shelves.fetch.count == 1
    assert all(isinstance(result, SourceLimited) and result.retry_after == 7.0 for result in results)
    shelves.fetch.failure = None
    assert await shelves.one.get(WANTED, shelves.fetch) == ("token-2", True)


async def test_a_fetch_that_is_cancelled_leaves_the_next_in_line_to_fetch(shelves: Shelves) -> None:
    shelves.fetch.go.clear()
    first = asyncio.create_task(shelves.one.get(WANTED, shelves.fetch))
    await shelves.fetch.begun.wait()
    second = asyncio.create_task(shelves.two.get(WANTED, shelves.fetch))
    first.cancel()
    shelves.fetch.go.set()
    assert (await second)[0] == "token-2"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_waiting_for_another_process_has_an_end(shelves: Shelves) -> None:
    impatient = TokenShelf(leases=shelves.leases, clock=shelves.clock, patience=0.01)
    async with shelves.leases.lease(f"token:{WANTED.key()}"):
        with pytest.raises(SourceTimeout):
            await impatient.get(WANTED, shelves.fetch)
    assert shelves.fetch.count == 0


async def test_a_token_is_renewed_before_its_end_and_used_while_that_fails(shelves: Shelves) -> None:
    shelf, clock, fetch = shelves.one, shelves.clock, shelves.fetch
    assert await shelf.get(WANTED, fetch) == ("token-1", True)
    clock.advance(269)
    assert await shelf.get(WANTED, fetch) == ("token-1", False)
    clock.advance(2)
    fetch.failure = SourceUnavailable("down")
    assert await shelf.get(WANTED, fetch) == ("token-1", False)
    assert await shelf.get(WANTED, fetch) == ("token-1", False)
    assert fetch.count == 2, "a renewal that failed rests"
    clock.advance(11)
    fetch.failure = None
    assert await shelf.get(WANTED, fetch) == ("token-3", True)
    clock.advance(301)
    fetch.failure = SourceRefused("no")
    with pytest.raises(SourceRefused):
        await shelf.get(WANTED, fetch)


async def test_nobody_waits_for_a_renewal_whose_token_is_still_good(shelves: Shelves) -> None:
    await shelves.one.get(WANTED, shelves.fetch)
    shelves.clock.advance(280)
    shelves.fetch.go.clear()
    shelves.fetch.begun.clear()
    renewing = asyncio.create_task(shelves.one.get(WANTED, shelves.fetch))
    await shelves.fetch.begun.wait()
    assert await shelves.one.get(WANTED, shelves.fetch) == ("token-1", False)
    shelves.fetch.go.set()
    assert await renewing == ("token-2", True)


async def test_a_token_that_was_not_taken_is_dropped_everywhere_but_not_its_successor(
    shelves: Shelves,
) -> None:
    await shelves.one.get(WANTED, shelves.fetch)
    await shelves.two.get(WANTED, shelves.fetch)
    await shelves.one.drop(WANTED, "token-1")
    assert await shelves.one.get(WANTED, shelves.fetch) == ("token-2", True)
    await shelves.two.drop(WANTED, "token-1")
    assert await shelves.two.get(WANTED, shelves.fetch) == ("token-2", False)


LOGIN = Login("0123456789abcdef", "Basic c2VjcmV0")


class Trials:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.seen = Recorder()
        leases = LocalLeases(self.clock)
        self.one, self.two = (
            Probation("up", leases=leases, clock=self.clock, observer=self.seen) for _ in range(2)
        )


async def test_a_refused_credential_rests_longer_each_time(caplog: pytest.LogCaptureFixture) -> None:
    trials = Trials()
    assert await trials.one.admit(LOGIN) is False
    await trials.one.refused(LOGIN, "h answered 401")
    for rest in (60, 120, 240, 480, 900, 900):
        with pytest.raises(CredentialRefused):
            await trials.two.admit(LOGIN)
        trials.clock.advance(rest - 1)
        with pytest.raises(CredentialRefused):
            await trials.one.admit(LOGIN)
        trials.clock.advance(1)
        assert await trials.two.admit(LOGIN) is True
        with pytest.raises(CredentialRefused):
            await trials.one.admit(LOGIN)  # one at a time
        await trials.two.refused(LOGIN, "h answered 401", probing=True)
    assert trials.seen.refused == 7
    assert "c2VjcmV0" not in caplog.text


async def test_many_refusals_at_once_are_one(caplog: pytest.LogCaptureFixture) -> None:
    trials = Trials()
    errors = await asyncio.gather(
        *(trial.refused(LOGIN, "h answered 401") for trial in (trials.one, trials.two) * 10)
    )
    assert all(isinstance(error, CredentialRefused) for error in errors)
    assert trials.seen.refused == 1
    assert len(caplog.records) == 1
    trials.clock.advance(60)
    assert await trials.one.admit(LOGIN) is True


async def test_a_credential_that_is_taken_again_is_as_good_as_new() -> None:
    trials = Trials()
    await trials.one.refused(LOGIN, "no")
    trials.clock.advance(60)
    assert await trials.one.admit(LOGIN) is True
    await trials.one.accepted(LOGIN)
    assert await trials.two.admit(LOGIN) is False
    assert await trials.two.admit(Login("another", "Basic x")) is False
