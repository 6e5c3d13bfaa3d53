"""Our credential at an upstream: what it opens, and what becomes of it when it is refused."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from entrepot.cache.clock import ManualClock
from entrepot.cache.errors import (
    CredentialRefused,
    SourceError,
    SourceRefused,
    SourceUnavailable,
)
from entrepot.cache.media_type import MAIN_TYPES
from entrepot.proxy.upstream.flavour import FLAVOURS
from fake_token_server import basic
from fake_upstream import Basic, Bearer, FakeUpstream, Fault, Seen
from faults import status
from upstream_bench import Bench, bench, credential, credential_file

HUB = FLAVOURS[0]


async def pull(tried: Bench, repository: str = "box") -> None:
    await tried.client.get_manifest(repository, "1.0", MAIN_TYPES)


def filled(up: FakeUpstream, *more: str) -> FakeUpstream:
    for repository in ("box", *more):
        up.add_image(repository, "1.0")
    return up


def asked(up: FakeUpstream) -> list[str]:
    """What was asked for, in order: `token` or the repository, with what the request carried."""
    return [
        f"{'token' if seen.path == '/token' else seen.path.split('/')[2]}"
        f" {(seen.authorization or 'nothing').partition(' ')[0]}"
        for seen in up.requests
    ]


def token_requests(up: FakeUpstream) -> list[Seen]:
    return up.seen("GET", "/token")


async def test_a_token_for_a_password() -> None:
    auth = Bearer(users={"ann": "secret"}, private={"box"})
    async with filled(FakeUpstream(auth=auth)) as up, bench(up.url, credential=credential()) as tried:
        await pull(tried)
        assert [seen.authorization for seen in token_requests(up)] == [basic("ann", "secret")]
        assert tried.seen.refused == 0


async def test_basic() -> None:
    async with (
        filled(FakeUpstream(auth=Basic("ann", "sécret:\u20ac"))) as up,
        bench(up.url, credential=credential("sécret:\u20ac")) as tried,
    ):
        await pull(tried)
        await pull(tried)
        assert asked(up) == ["box nothing", "box Basic", "box Basic"]


async def test_basic_without_a_credential() -> None:
    async with filled(FakeUpstream(auth=Basic("ann", "secret"))) as up, bench(up.url) as tried:
        with pytest.raises(SourceRefused, match="add `credentials`"):
            await pull(tried)


@pytest.mark.parametrize(
    "auth",
    [Basic("ann", "secret"), Bearer(users={"ann": "secret"}, private={"box"})],
    ids=["basic", "bearer"],
)
async def test_a_revoked_credential_is_tried_rarely_and_a_new_one_at_once(
    auth: Basic | Bearer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    file = tmp_path / "password"
    file.write_text("secret\n")
    caplog.set_level(logging.WARNING)
    async with (
        filled(FakeUpstream(auth=auth)) as up,
        bench(up.url, clock=clock, credential=credential_file(file, clock)) as one,
        bench(up.url, clock=clock, leases=one.leases, credential=credential_file(file, clock)) as two,
    ):
        await pull(one)
        auth.set_password("changed")
        if isinstance(auth, Bearer):
            auth.revoke_all()

        def with_password() -> int:
            return sum((seen.authorization or "").startswith("Basic") for seen in up.requests)

        before = with_password()
        results = await asyncio.gather(*(pull(tried) for tried in (one, two) * 50), return_exceptions=True)
        assert all(type(result) is CredentialRefused for result in results)
        if isinstance(auth, Bearer):
            assert with_password() - before <= 8
        assert one.seen.refused + two.seen.refused == 1
        assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1

        up.forget()
        for tried in (one, two):
            with pytest.raises(CredentialRefused, match="next try in"):
                await pull(tried)
        assert up.count() == 0, "set aside without any network"

        clock.advance(61)
        await asyncio.gather(*(pull(tried) for tried in (one, two) * 20), return_exceptions=True)
        assert with_password() == 1, "one tries it for all"
        assert one.seen.refused + two.seen.refused == 2
        clock.advance(61)
        with pytest.raises(CredentialRefused):
            await pull(one)
        assert with_password() == 1, "twice as long the second time"

        file.write_text("changed\n")
        clock.advance(2)  # the file is looked at once a second
        await asyncio.gather(pull(one), pull(two))
        assert "secret" not in caplog.text
        assert "changed" not in caplog.text


async def test_a_credential_that_is_taken_again_without_a_change() -> None:
    auth = Bearer(users={"ann": "other"})
    async with filled(FakeUpstream(auth=auth)) as up, bench(up.url, credential=credential()) as tried:
        with pytest.raises(CredentialRefused):
            await pull(tried)
        auth.set_password("secret")
        with pytest.raises(CredentialRefused):
            await pull(tried)
        tried.clock.advance(60)
        await pull(tried)
        auth.revoke_all()
        auth.set_password("other")
        with pytest.raises(CredentialRefused):
            await pull(tried)
        tried.clock.advance(60)
        auth.set_password("secret")
        await pull(tried)


async def test_tokens_that_are_still_good_outlive_the_password() -> None:
    auth = Bearer(users={"ann": "secret"})
    async with (
        filled(FakeUpstream(auth=auth), "other") as up,
        bench(up.url, credential=credential()) as tried,
    ):
        await pull(tried)
        auth.set_password("changed")
        with pytest.raises(CredentialRefused):
            await pull(tried, "other")
        await pull(tried)


async def test_a_token_server_that_refuses_a_scope_does_not_make_the_password_a_bad_one() -> None:
    auth = Bearer(users={"ann": "secret"})
    async with (
        filled(FakeUpstream(auth=auth), "closed") as up,
        bench(up.url, credential=credential()) as tried,
    ):
        up.faults.append(
            Fault(lambda seen: "repository:closed:pull" in seen.query.get("scope", []), status(403))
        )
        with pytest.raises(SourceRefused):
            await pull(tried, "closed")
        assert tried.seen.refused == 0
        await pull(tried)
        up.faults[:] = [Fault(("GET", "/token"), status(403))]
        auth.revoke_all()
        with pytest.raises(CredentialRefused):
            await pull(tried)


async def test_a_token_server_that_is_down_sets_no_credential_aside() -> None:
    auth = Bearer(users={"ann": "secret"})
    async with filled(FakeUpstream(auth=auth)) as up, bench(up.url, credential=credential()) as tried:
        up.faults.append(Fault(("GET", "/token"), status(500), times=3))
        with pytest.raises(SourceError) as raised:
            await pull(tried)
        assert type(raised.value) is SourceUnavailable
        await pull(tried)


async def test_a_403_of_the_registry_is_about_the_repository() -> None:
    async with (
        filled(FakeUpstream(auth=Basic("ann", "secret"))) as up,
        bench(up.url, credential=credential()) as tried,
    ):
        up.faults.append(Fault(lambda seen: seen.authorization is not None, status(403), times=1))
        with pytest.raises(SourceRefused):
            await pull(tried)
        await pull(tried)


async def test_nothing_secret_gets_into_an_error_or_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    auth = Bearer(users={"ann": "other-secret"})
    async with (
        filled(FakeUpstream(auth=auth)) as up,
        bench(up.url, credential=credential("pass-secret")) as tried,
    ):
        with pytest.raises(CredentialRefused) as raised:
            await pull(tried)
        text = caplog.text + repr(raised.value) + repr(raised.value.__cause__)
        for secret in ("pass-secret", basic("ann", "pass-secret").partition(" ")[2], "scope="):
            assert secret not in text
