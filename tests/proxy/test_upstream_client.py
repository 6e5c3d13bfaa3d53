"""What is asked of an upstream, and what its answers and its failures mean."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from entrepot.cache.clock import ManualClock
from entrepot.cache.digest import Digest
from entrepot.cache.errors import (
    SourceError,
    SourceLimited,
    SourceMissing,
    SourceRefused,
    SourceTimeout,
    SourceUnavailable,
)
from entrepot.cache.media_type import DOCKER_LIST, MAIN_TYPES, OCI_MANIFEST
from entrepot.proxy.config.model import Timeouts
from entrepot.proxy.upstream.flavour import canonical_repository, flavour_of
from fake_http import reply
from fake_upstream import FakeUpstream, Fault
from faults import (
    answer,
    cut_after,
    declare_length,
    gzip,
    hang,
    hang_after,
    html_page,
    no_answer,
    no_length,
    raw,
    status,
    too_much,
    with_header,
    without_header,
)
from upstream_bench import Names, bench

BRIEF = Timeouts(connect=5.0, first_byte=0.05, idle=0.05, answer=1.0, revalidate=0.5)


async def test_a_manifest_by_tag_and_by_digest() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        image = up.add_image("library/box", "1.0")
        for reference in ("1.0", str(image.digest)):
            fetched = await tried.client.get_manifest("library/box", reference, MAIN_TYPES)
            assert (fetched.content, fetched.media_type) == (image.content, OCI_MANIFEST)
            assert fetched.digest == image.digest
            head = await tried.client.head_manifest("library/box", reference, MAIN_TYPES)
            assert (head.digest, head.media_type, head.size) == (
                image.digest,
                OCI_MANIFEST,
                len(image.content),
            )
        assert [seen.method for seen in up.requests] == ["GET", "HEAD", "GET", "HEAD"]
        assert up.connections == 1, "the connection is used again"
        assert tried.seen.requests == [("GET", "200"), ("HEAD", "200")] * 2
        assert tried.seen.bytes == 2 * len(image.content)


async def test_what_a_request_carries() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.add_image("box", "latest")
        await tried.client.get_manifest("box", "latest", MAIN_TYPES)
        headers = up.requests[0].headers
        assert up.requests[0].accept == list(MAIN_TYPES)
        assert headers.getall("Accept-Encoding") == ["identity"]
        assert headers["User-Agent"].startswith("entrepot")
        assert "Authorization" not in headers
        assert "Cookie" not in headers


async def test_cookies_are_not_kept() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.add_image("box", "latest")
        up.faults.append(Fault(None, with_header("Set-Cookie", "session=1; Path=/")))
        for _ in range(2):
            await tried.client.get_manifest("box", "latest", MAIN_TYPES)
        assert "Cookie" not in up.requests[1].headers


async def test_a_path_in_the_url_is_put_before_every_repository() -> None:
    async with FakeUpstream() as up, bench(f"{up.url}/dockerhub-proxy") as tried:
        up.add_image("dockerhub-proxy/library/box", "1.0")
        await tried.client.get_manifest("library/box", "1.0", MAIN_TYPES)
        assert up.requests[0].path == "/v2/dockerhub-proxy/library/box/manifests/1.0"


async def test_an_upstream_that_negotiates_is_asked_for_just_what_is_wanted() -> None:
    async with FakeUpstream(negotiation="distribution") as up, bench(up.url) as tried:
        index = up.add_index("box", "latest", media_type=DOCKER_LIST)
        assert (await tried.client.head_manifest("box", "latest", MAIN_TYPES)).digest == index.digest
        child = await tried.client.get_manifest("box", "latest", [OCI_MANIFEST])
        assert child.digest == index.manifests[0].digest


async def test_ping() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        await tried.client.ping()
        await up.stop()
        with pytest.raises(SourceUnavailable):
            await tried.client.ping()


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (404, SourceMissing),
        (410, SourceMissing),
        (403, SourceRefused),
        (451, SourceRefused),
        (429, SourceLimited),
        (400, SourceUnavailable),
        (406, SourceUnavailable),
        (416, SourceUnavailable),
        (304, SourceUnavailable),
        (204, SourceUnavailable),
        (500, SourceUnavailable),
        (502, SourceUnavailable),
        (503, SourceUnavailable),
        (504, SourceUnavailable),
        (599, SourceUnavailable),
    ],
)
async def test_what_a_status_means(code: int, meaning: type[SourceError]) -> None:
    body = json.dumps({"errors": [{"code": "SOME_CODE", "message": "a secret message"}]}).encode()
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.faults.append(Fault(None, status(code, body if code not in (204, 304) else b"")))
        with pytest.raises(SourceError) as raised:
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        assert type(raised.value) is meaning
        assert f"127.0.0.1:{up.port} answered {code}" in raised.value.detail
        assert "secret" not in raised.value.detail
        assert ("SOME_CODE" in raised.value.detail) == (code not in (204, 304))
        with pytest.raises(meaning):
            await tried.client.head_manifest("box", "1.0", MAIN_TYPES)
        with pytest.raises(meaning):
            await tried.client.open_blob("box", Digest.of(b""))


async def test_a_429_says_how_long_and_is_not_tried_again() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.faults.append(Fault(None, status(429, Retry_After="120")))
        with pytest.raises(SourceLimited) as raised:
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        assert raised.value.retry_after == 120
        assert up.count() == 1
        up.faults[:] = [Fault(None, status(429))]
        with pytest.raises(SourceLimited) as raised:
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        assert raised.value.retry_after is None


@pytest.mark.parametrize("code", [500, 502, 503, 504])
async def test_what_may_be_over_in_a_moment_is_tried_twice_more(code: int) -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.add_image("box", "1.0")
        up.faults.append(Fault(None, status(code), times=2))
        await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        assert up.count() == 3
        assert tried.sleeps == [0.25, 0.5]
        up.faults[:] = [Fault(None, status(code))]
        with pytest.raises(SourceUnavailable):
            await tried.client.head_manifest("box", "1.0", MAIN_TYPES)
        assert up.count() == 6


async def test_a_503_that_asks_for_time_gets_it() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.faults.append(Fault(None, status(503, Retry_After="30")))
        with pytest.raises(SourceUnavailable):
            await tried.client.head_manifest("box", "1.0", MAIN_TYPES)
        assert up.count() == 1
        up.faults[:] = [Fault(None, status(503, Retry_After="2"))]
        with pytest.raises(SourceUnavailable):
            await tried.client.head_manifest("box", "1.0", MAIN_TYPES)
        assert tried.sleeps == [2.0, 2.0]


@pytest.mark.parametrize(
    "action", [no_answer(), raw(b"HTTP/1.1 200 OK\r\nContent-Le"), cut_after(3, reset=True)]
)
async def test_a_connection_that_breaks_is_tried_again(action: object) -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        image = up.add_image("box", "1.0")
        up.faults.append(Fault(None, action, times=2))  # type: ignore[arg-type]
        fetched = await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        assert fetched.content == image.content
        assert up.count() == 3


async def test_an_upstream_that_refuses_connections() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        await up.stop()
        with pytest.raises(SourceUnavailable, match="Connection refused"):
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        assert len(tried.sleeps) == 2
        assert tried.seen.requests == [("GET", "error")] * 3


async def test_an_upstream_whose_name_does_not_resolve() -> None:
    async with bench("http://nowhere.test", resolver=Names()) as tried:
        with pytest.raises(SourceUnavailable, match=r"^nowhere\.test: its name does not resolve$"):
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)


async def test_an_upstream_that_never_answers_is_not_tried_again() -> None:
    async with FakeUpstream() as up, bench(up.url, timeout=BRIEF) as tried:
        release = asyncio.Event()
        up.faults.append(Fault(None, hang(release)))
        with pytest.raises(SourceTimeout, match="no answer within"):
            await tried.client.head_manifest("box", "1.0", MAIN_TYPES)
        await up.wait_until(lambda: up.open_connections == 0)
        assert up.count() == 1
        assert tried.seen.requests == [("HEAD", "timeout")]


async def test_an_upstream_that_cannot_be_connected_to_in_time() -> None:
    class Slow(Names):
        async def resolve(self, *_: Any, **__: Any) -> Any:
            await asyncio.Event().wait()

    brief = Timeouts(connect=0.05, first_byte=5, idle=5, answer=5, revalidate=5)
    async with bench("http://slow.test", resolver=Slow(), timeout=brief) as tried:
        with pytest.raises(SourceTimeout, match=r"no connection within 0\.05 s"):
            await tried.client.head_manifest("box", "1.0", MAIN_TYPES)


async def test_a_manifest_that_stops_coming() -> None:
    async with FakeUpstream() as up, bench(up.url, timeout=BRIEF) as tried:
        up.add_image("box", "1.0")
        up.faults.append(Fault(None, hang_after(10, asyncio.Event())))
        with pytest.raises(SourceTimeout):
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        await up.wait_until(lambda: up.open_connections == 0)


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00" * 100, b"HTTP/1.1 abc\r\n\r\n"])
async def test_what_is_no_http(garbage: bytes) -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.faults.append(Fault(None, raw(garbage)))
        with pytest.raises(SourceUnavailable, match="what it sends is no HTTP"):
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)


async def test_long_headers_are_taken_up_to_a_limit() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.add_image("box", "1.0")
        up.faults.append(Fault(None, with_header("X-Long", "x" * 60_000), times=1))
        await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        up.faults.append(Fault(None, with_header("X-Long", "x" * 70_000)))
        with pytest.raises(SourceUnavailable):
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)


@pytest.mark.parametrize("action", [html_page(), gzip(), too_much(b" " * 4 * 1024 * 1024)])
async def test_what_is_no_manifest(action: object) -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.add_image("box", "1.0")
        up.faults.append(Fault(None, action))  # type: ignore[arg-type]
        with pytest.raises(SourceUnavailable):
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        assert up.count() == 1


async def test_a_page_instead_of_a_head() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.add_image("box", "1.0")
        up.faults.append(Fault(None, html_page()))
        with pytest.raises(SourceUnavailable, match="a web page"):
            await tried.client.head_manifest("box", "1.0", MAIN_TYPES)


async def test_a_manifest_without_an_end_is_not_read_to_its_end() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_generated_blob("box", 40 * 1024 * 1024)
        made = reply(200, media_type=OCI_MANIFEST)
        made.content, made.chunked = up.contents[digest], True
        up.faults.append(Fault(None, answer(made)))
        with pytest.raises(SourceUnavailable, match="over the limit"):
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        await up.wait_until(lambda: up.open_connections == 0)
        assert up.bytes_sent < 20 * 1024 * 1024


async def test_a_manifest_whose_type_is_only_inside() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        image = up.add_image("box", "1.0")
        up.faults.append(Fault(None, with_header("Content-Type", "text/plain"), times=1))
        assert (await tried.client.get_manifest("box", "1.0", MAIN_TYPES)).media_type == image.media_type
        up.faults.append(Fault(None, answer(reply(200, b"{}", "text/plain"))))
        with pytest.raises(SourceUnavailable):
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)


async def test_a_head_that_says_little() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.add_image("box", "1.0")
        up.faults.append(Fault(None, [without_header("Docker-Content-Digest"), no_length()]))
        head = await tried.client.head_manifest("box", "1.0", MAIN_TYPES)
        assert (head.digest, head.size) == (None, None)
        up.faults[:] = [Fault(None, with_header("Docker-Content-Digest", "blake3:abc"))]
        assert (await tried.client.head_manifest("box", "1.0", MAIN_TYPES)).digest is None


async def test_a_head_that_is_not_allowed_becomes_a_get() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        image = up.add_image("box", "1.0")
        up.faults.append(Fault(("HEAD", ""), status(405)))
        up.faults.append(Fault(("GET", ""), without_header("Docker-Content-Digest")))
        head = await tried.client.head_manifest("box", "1.0", MAIN_TYPES)
        assert (head.digest, head.size) == (image.digest, len(image.content))


async def test_a_length_that_lies() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.add_image("box", "1.0")
        up.faults.append(Fault(None, declare_length(1_000_000)))
        with pytest.raises(SourceUnavailable, match="cut off after"):
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        assert up.count() == 3


async def test_an_upstream_that_is_offline_is_not_asked() -> None:
    async with FakeUpstream() as up, bench(up.url, offline=True) as tried:
        with pytest.raises(SourceUnavailable):
            await tried.client.head_manifest("box", "1.0", MAIN_TYPES)
        assert up.connections == 0


async def test_a_closed_client_says_so() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.add_image("box", "1.0")
        await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        await tried.client.close()
        with pytest.raises(SourceUnavailable, match="closed"):
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        await up.wait_until(lambda: up.open_connections == 0)


async def test_requests_at_once_are_bounded_by_connections() -> None:
    async with FakeUpstream() as up, bench(up.url, clock=ManualClock()) as tried:
        up.add_image("box", "1.0")
        release = asyncio.Event()
        up.faults.append(Fault(None, hang(release)))
        asked = [
            asyncio.create_task(tried.client.head_manifest("box", "1.0", MAIN_TYPES)) for _ in range(120)
        ]
        await up.wait_for_request(96)
        assert up.open_connections == 96
        release.set()
        await asyncio.gather(*asked)
        assert up.connections == 96


def test_flavours_and_names() -> None:
    assert flavour_of("registry-1.docker.io").name == "docker-hub"
    assert flavour_of("REGISTRY.gitlab.com").realms == ("https://gitlab.com/jwt/auth",)
    assert flavour_of("registry.example").name == "generic"
    assert canonical_repository("docker.io", "nginx") == "library/nginx"
    assert canonical_repository("docker.io", "acme/nginx") == "acme/nginx"
    assert canonical_repository("quay.io", "nginx") == "nginx"
