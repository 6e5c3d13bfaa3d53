"""How the client authenticates: with as few requests as can be, and without giving anything to a stranger."""

from __future__ import annotations

import asyncio

import pytest
from entrepot.cache.clock import ManualClock
from entrepot.cache.errors import (
    SourceError,
    SourceLimited,
    SourceMissing,
    SourceRefused,
    SourceTimeout,
    SourceUnavailable,
)
from entrepot.cache.media_type import MAIN_TYPES
from entrepot.proxy.config.model import Timeouts
from entrepot.proxy.upstream.flavour import FLAVOURS, Flavour
from fake_http import Action, reply
from fake_token_server import basic
from fake_upstream import Basic, Bearer, FakeUpstream, Fault, Seen
from faults import answer, hang, html_page, no_answer, redirect, status
from upstream_bench import Bench, Names, bench, credential

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


# anonymous tokens


async def test_an_anonymous_token_and_no_challenge_for_the_next_repository() -> None:
    async with filled(FakeUpstream(auth=Bearer()), "other") as up, bench(up.url) as tried:
        await pull(tried)
        await pull(tried)
        await pull(tried, "other")
        assert asked(up) == [
            "box nothing",
            "token nothing",
            "box Bearer",
            "box Bearer",
            "token nothing",
            "other Bearer",
        ]
        first, second = token_requests(up)
        assert first.query == {"service": ["fake.registry"], "scope": ["repository:box:pull"]}
        assert second.query == {"service": ["fake.registry"], "scope": ["repository:other:pull"]}
        assert tried.seen.tokens == {"ok": 2}


@pytest.mark.parametrize("auth", [Bearer(field_name="access_token"), Bearer(life=None), Bearer(life=1)])
async def test_ways_to_answer_with_a_token(auth: Bearer) -> None:
    async with filled(FakeUpstream(auth=auth)) as up, bench(up.url) as tried:
        await pull(tried)
        await pull(tried)
        assert tried.seen.tokens == {"ok": 1}


async def test_an_upstream_without_challenges_gets_no_tokens() -> None:
    async with filled(FakeUpstream()) as up, bench(up.url, credential=credential()) as tried:
        await pull(tried)
        assert asked(up) == ["box nothing"]


async def test_many_at_once_make_one_token() -> None:
    async with filled(FakeUpstream(auth=Bearer())) as up, bench(up.url) as tried:
        await asyncio.gather(*(pull(tried) for _ in range(50)))
        assert len(token_requests(up)) == 1


async def test_processes_share_challenge_and_tokens() -> None:
    async with filled(FakeUpstream(auth=Bearer())) as up, bench(up.url) as one:
        await pull(one)
        async with bench(up.url, clock=one.clock, leases=one.leases) as two:
            await pull(two)
        assert asked(up) == ["box nothing", "token nothing", "box Bearer", "box Bearer"]


async def test_a_token_is_renewed_before_it_ends() -> None:
    clock = ManualClock()
    async with (
        filled(FakeUpstream(auth=Bearer(life=300, clock=clock))) as up,
        bench(up.url, clock=clock) as tried,
    ):
        await pull(tried)
        clock.advance(269)
        await pull(tried)
        assert len(token_requests(up)) == 1
        clock.advance(2)
        await pull(tried)
        assert len(token_requests(up)) == 2
        assert asked(up).count("box nothing") == 1


async def test_a_token_that_ended_early_is_fetched_anew_once() -> None:
    auth = Bearer()
    async with filled(FakeUpstream(auth=auth)) as up, bench(up.url) as tried:
        await pull(tried)
        auth.revoke_all()
        await pull(tried)
        assert asked(up)[3:] == ["box Bearer", "token nothing", "box Bearer"]


async def test_a_token_that_ended_early_is_fetched_anew_once_for_all_processes() -> None:
    auth = Bearer()
    async with (
        filled(FakeUpstream(auth=auth)) as up,
        bench(up.url) as one,
        bench(up.url, clock=one.clock, leases=one.leases) as two,
    ):
        await pull(one)
        await pull(two)
        auth.revoke_all()
        await asyncio.gather(*(pull(tried) for tried in (one, two) * 10))
        assert len(token_requests(up)) == 2


async def test_a_challenge_that_has_changed_is_followed() -> None:
    auth = Bearer()
    async with filled(FakeUpstream(auth=auth)) as up, bench(up.url) as tried:
        await pull(tried)
        auth.service = "another"
        auth.revoke_all()
        await pull(tried)
        assert token_requests(up)[-1].query["service"] == ["another"]
        up.auth = Basic("ann", "secret")
        with pytest.raises(SourceRefused, match="add `credentials`"):
            await pull(tried)


@pytest.mark.parametrize(
    ("flavour", "meaning"), [(None, SourceRefused), (HUB, SourceMissing)], ids=["generic", "hub"]
)
async def test_a_repository_that_a_good_token_does_not_open(
    flavour: Flavour | None, meaning: type[SourceError]
) -> None:
    async with (
        filled(FakeUpstream(auth=Bearer(private={"secret"}, hub_like=True)), "secret") as up,
        bench(up.url, flavour=flavour) as tried,
    ):
        for repository in ("secret", "missing"):
            with pytest.raises(meaning) as raised:
                await pull(tried, repository)
            assert raised.value.detail == f"127.0.0.1:{up.port} answered 401 UNAUTHORIZED"
        assert asked(up) == [
            "secret nothing",
            "token nothing",
            "secret Bearer",
            "token nothing",
            "missing Bearer",
        ]


async def test_the_flavour_is_seen_from_the_host_in_the_url() -> None:
    names = Names()
    names.names["registry-1.docker.io"] = ["127.0.0.1"]
    async with FakeUpstream(auth=Bearer(hub_like=True)) as up:
        up.add_image("library/box", "1.0")
        realm = f"http://127.0.0.1:{up.port}"
        async with bench(
            f"http://registry-1.docker.io:{up.port}", resolver=names, token_realms=(realm,)
        ) as tried:
            await pull(tried, "library/box")
            with pytest.raises(SourceMissing):
                await pull(tried, "library/missing")


async def test_a_token_of_its_own_that_an_upstream_does_not_take() -> None:
    auth = Bearer()
    async with filled(FakeUpstream(auth=auth)) as up, bench(up.url, flavour=HUB) as tried:
        up.faults.append(
            Fault(
                ("GET", "/manifests/"),
                status(
                    401,
                    WWW_Authenticate=f'Bearer realm="{up.url}/token",service="s",error="invalid_token"',
                ),
            )
        )
        with pytest.raises(SourceUnavailable, match="its own token server has just given"):
            await pull(tried)


@pytest.mark.parametrize("header", ["", "Negotiate", "Bearer", 'Bearer service="x"', "=" * 20_000])
async def test_a_401_that_asks_for_nothing_we_know(header: str) -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.faults.append(Fault(None, status(401, WWW_Authenticate=header)))
        with pytest.raises(SourceUnavailable, match="no way to authenticate"):
            await pull(tried)
        assert up.count() == 1


async def test_a_scope_that_is_the_same_for_all_repositories() -> None:
    auth = Bearer()
    async with filled(FakeUpstream(auth=auth), "other") as up, bench(up.url) as tried:
        challenge = status(401, WWW_Authenticate=f'Bearer realm="{up.url}/token",service="s",scope="aws"')
        up.faults += [
            Fault(lambda seen: "/v2/" in seen.path and seen.authorization is None, challenge),
            Fault(("GET", "/token"), answer(reply(200, b'{"token":"any"}'))),
        ]
        up.auth = None
        await pull(tried)
        await pull(tried, "other")
        assert [seen.query["scope"] for seen in token_requests(up)] == [["aws"]]


async def test_a_path_in_the_url_is_part_of_the_scope() -> None:
    async with filled(FakeUpstream(auth=Bearer()), "proxy/box", "proxy/other") as up:
        async with bench(f"{up.url}/proxy") as tried:
            await pull(tried)
            await pull(tried, "other")
        assert [seen.query["scope"] for seen in token_requests(up)] == [
            ["repository:proxy/box:pull"],
            ["repository:proxy/other:pull"],
        ]


async def test_blobs_and_heads_use_the_same_token() -> None:
    async with filled(FakeUpstream(auth=Bearer(), cdn=True)) as up, bench(up.url) as tried:
        digest = up.add_blob("box", b"content")
        await pull(tried)
        assert await tried.client.head_blob("box", digest) == 7
        async with await tried.client.open_blob("box", digest) as stream:
            assert await stream.read() == b"content"
        assert len(token_requests(up)) == 1
        assert up.cdn is not None
        assert up.cdn.requests[0].authorization is None


# realms


async def test_a_realm_of_another_origin_is_not_asked_unless_it_is_named() -> None:
    async with filled(FakeUpstream(auth=Bearer(users={"ann": "secret"}), own_token_server=True)) as up:
        assert up.token_server is not None
        async with bench(up.url, credential=credential()) as tried:
            with pytest.raises(SourceUnavailable) as raised:
                await pull(tried)
            assert f'token_realms: ["{up.token_server.url}"]' in raised.value.detail
            assert up.token_server.connections == 0
        async with bench(up.url, credential=credential(), token_realms=(up.token_server.url,)) as tried:
            await pull(tried)
            assert up.token_server.requests[0].authorization == basic("ann", "secret")
        flavour = Flavour("ours", realms=(up.token_server.realm,))
        async with bench(up.url, flavour=flavour) as tried:
            await pull(tried)


async def test_a_realm_may_redirect_within_its_own_origin_only() -> None:
    async with FakeUpstream() as stranger, filled(FakeUpstream(auth=Bearer(users={"ann": "secret"}))) as up:
        up.faults.append(Fault(("GET", "/token"), redirect(f"{stranger.url}/token")))
        async with bench(up.url, credential=credential()) as tried:
            with pytest.raises(SourceUnavailable, match="to another origin"):
                await pull(tried)
            assert stranger.connections == 0
            up.faults[:] = [
                Fault(("GET", "/token"), redirect("/token?service=fake.registry&moved=1"), times=1)
            ]
            with pytest.raises(SourceRefused):  # no scope in the place it was sent to
                await pull(tried)
            assert token_requests(up)[-1].authorization == basic("ann", "secret")
            up.faults[:] = [Fault(("GET", "/token"), redirect("?again"))]
            with pytest.raises(SourceUnavailable, match="in a circle"):
                await pull(tried)


# token servers with bad days


@pytest.mark.parametrize(
    "action",
    [
        html_page(),
        answer(reply(200, b'{"no":"token"}')),
        answer(reply(200, b"x" * 70_000)),
        answer(reply(200, b"")),
        status(404),
        status(500),
        no_answer(),
    ],
)
async def test_a_token_server_that_is_broken(action: Action) -> None:
    async with filled(FakeUpstream(auth=Bearer())) as up, bench(up.url) as tried:
        up.faults.append(Fault(("GET", "/token"), action))
        with pytest.raises(SourceError) as raised:
            await pull(tried)
        assert type(raised.value) is SourceUnavailable
        assert tried.seen.tokens == {"failed": 1}
        # Where a connection that was used before ends without an answer, aiohttp asks once more by itself.
        assert len(token_requests(up)) <= (6 if up.connections > 2 else 3)
        up.faults.clear()
        await pull(tried)


async def test_a_token_server_that_fails_for_a_moment() -> None:
    async with filled(FakeUpstream(auth=Bearer())) as up, bench(up.url) as tried:
        up.faults.append(Fault(("GET", "/token"), status(503), times=2))
        await pull(tried)
        assert tried.sleeps == [0.25, 0.5]


async def test_a_token_server_that_never_answers_costs_all_who_wait_one_wait() -> None:
    brief = Timeouts(connect=5.0, first_byte=0.1, idle=0.1, answer=5.0, revalidate=0.5)
    async with filled(FakeUpstream(auth=Bearer())) as up, bench(up.url, timeout=brief) as tried:
        up.faults.append(Fault(("GET", "/token"), hang(asyncio.Event())))
        results = await asyncio.gather(*(pull(tried) for _ in range(20)), return_exceptions=True)
        assert all(type(result) is SourceTimeout for result in results)
        assert len(token_requests(up)) == 1


async def test_a_token_server_that_limits() -> None:
    async with filled(FakeUpstream(auth=Bearer())) as up, bench(up.url) as tried:
        up.faults.append(Fault(("GET", "/token"), status(429, Retry_After="30")))
        with pytest.raises(SourceLimited) as raised:
            await pull(tried)
        assert raised.value.retry_after == 30
        assert tried.seen.tokens == {"limited": 1}


async def test_a_token_server_that_is_down_while_the_token_lasts() -> None:
    clock = ManualClock()
    async with filled(FakeUpstream(auth=Bearer(clock=clock))) as up, bench(up.url, clock=clock) as tried:
        await pull(tried)
        up.faults.append(Fault(("GET", "/token"), status(404)))
        clock.advance(280)
        await pull(tried)
        await pull(tried)
        assert len(token_requests(up)) == 2


@pytest.mark.parametrize(
    ("flavour", "meaning"), [(None, SourceRefused), (HUB, SourceMissing)], ids=["generic", "hub"]
)
@pytest.mark.parametrize("code", [401, 403])
async def test_no_token_for_who_is_anonymous(
    flavour: Flavour | None, meaning: type[SourceError], code: int
) -> None:
    async with filled(FakeUpstream(auth=Bearer())) as up, bench(up.url, flavour=flavour) as tried:
        up.faults.append(Fault(("GET", "/token"), status(code)))
        with pytest.raises(meaning):
            await pull(tried)
