"""The tests' own upstream does what its tests believe of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from entrepot.cache.media_type import OCI_MANIFEST
from fake_token_server import basic
from fake_upstream import Basic, Bearer, FakeUpstream, Fault, Generated
from faults import cut_after, hang, hang_after, status, wrong_bytes


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(auto_decompress=False, requote_redirect_url=False) as made:
        yield made


async def test_serves_manifests_by_tag_and_digest_and_says_what_was_asked(
    session: aiohttp.ClientSession,
) -> None:
    async with FakeUpstream() as up:
        image = up.add_image("library/box", "1.0", layers=[b"one", b"two"])
        for reference in ("1.0", str(image.digest)):
            async with session.get(f"{up.url}/v2/library/box/manifests/{reference}") as answer:
                assert await answer.read() == image.content
                assert answer.headers["Docker-Content-Digest"] == str(image.digest)
                assert answer.headers["Content-Type"] == OCI_MANIFEST
        async with session.head(f"{up.url}/v2/library/box/manifests/2.0") as answer:
            assert answer.status == 404
        assert [seen.method for seen in up.requests] == ["GET", "GET", "HEAD"]
        assert up.count("GET", "manifests/1.0") == 1


async def test_a_range_of_a_blob(session: aiohttp.ClientSession) -> None:
    async with FakeUpstream() as up:
        digest = up.add_blob("box", b"0123456789")
        url = f"{up.url}/v2/box/blobs/{digest}"
        for asked, expected in (("bytes=3-", b"3456789"), ("bytes=2-4", b"234"), ("bytes=-2", b"89")):
            async with session.get(url, headers={"Range": asked}) as answer:
                assert (answer.status, await answer.read()) == (206, expected)
        async with session.get(url, headers={"Range": "bytes=10-"}) as answer:
            assert answer.status == 416


async def test_generated_content_is_the_same_from_anywhere() -> None:
    made = Generated(300_001, seed=7)
    whole = b"".join(made.read(0, made.size))
    assert len(whole) == made.size
    assert str(made.digest()) == f"sha256:{hashlib.sha256(whole).hexdigest()}"
    assert b"".join(made.read(65_530, 200_000)) == whole[65_530:200_000]


async def test_faults_are_taken_in_order_and_run_out(session: aiohttp.ClientSession) -> None:
    async with FakeUpstream() as up:
        digest = up.add_blob("box", b"content")
        up.faults += [
            Fault(("GET", "/blobs/"), status(429, Retry_After="7"), times=1),
            Fault(lambda seen: seen.method == "GET", wrong_bytes(2), times=1),
        ]
        url = f"{up.url}/v2/box/blobs/{digest}"
        async with session.get(url) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
        async with session.get(url) as answer:
            assert await answer.read() == b"cootent"
        async with session.get(url) as answer:
            assert await answer.read() == b"content"


@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_is_exact_to_the_byte(session: aiohttp.ClientSession, reset: bool) -> None:
    async with FakeUpstream() as up:
        digest = up.add_generated_blob("box", 300_000)
        up.faults.append(Fault(("GET", ""), cut_after(123_456, reset=reset)))
        async with session.get(f"{up.url}/v2/box/blobs/{digest}") as answer:
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
        assert up.bytes_sent == 123_456


async def test_a_hang_ends_when_it_is_released_or_the_client_goes(session: aiohttp.ClientSession) -> None:
    async with FakeUpstream() as up:
        digest = up.add_blob("box", b"0123456789")
        url = f"{up.url}/v2/box/blobs/{digest}"
        release = asyncio.Event()
        up.faults.append(Fault(None, [hang(release), hang_after(4, release)]))
        waiting = asyncio.create_task(session.get(url))
        await up.wait_for_request(1)
        assert up.answering == 1
        waiting.cancel()
        await up.wait_until(lambda: up.open_connections == 0)
        waiting = asyncio.create_task(session.get(url))
        await up.wait_for_request(2)
        release.set()
        async with await waiting as answer:
            assert await answer.read() == b"0123456789"


async def test_stop_refuses_and_start_takes_the_same_port(session: aiohttp.ClientSession) -> None:
    async with FakeUpstream() as up:
        url = f"{up.url}/v2/"
        await up.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(url)
        await up.start()
        async with session.get(url) as answer:
            assert answer.status == 200


async def test_basic(session: aiohttp.ClientSession) -> None:
    async with FakeUpstream(auth=Basic("ann", "secret")) as up:
        async with session.get(f"{up.url}/v2/") as answer:
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="registry"')
        async with session.get(f"{up.url}/v2/", headers={"Authorization": basic("ann", "secret")}) as answer:
            assert answer.status == 200


async def test_a_token_opens_its_own_repository_only(session: aiohttp.ClientSession) -> None:
    async with FakeUpstream(auth=Bearer()) as up:
        for name in ("one", "two"):
            up.add_image(name, "latest")
        scope = {"service": "fake.registry", "scope": "repository:one:pull"}
        async with session.get(f"{up.url}/token", params=scope) as answer:
            token = (await answer.json())["token"]
        headers = {"Authorization": f"Bearer {token}"}
        async with session.get(f"{up.url}/v2/one/manifests/latest", headers=headers) as answer:
            assert answer.status == 200
        async with session.get(f"{up.url}/v2/two/manifests/latest", headers=headers) as answer:
            assert answer.status == 401
            assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]


async def test_blobs_come_from_another_origin(session: aiohttp.ClientSession) -> None:
    async with FakeUpstream(cdn=True) as up:
        digest = up.add_blob("box", b"0123456789")
        assert up.cdn is not None
        url = f"{up.url}/v2/box/blobs/{digest}"
        async with session.get(url, allow_redirects=False) as answer:
            assert answer.status == 307
            link = answer.headers["Location"]
        assert link.startswith(up.cdn.url)
        up.cdn.expire_links()
        async with session.get(link) as answer:
            assert answer.status == 403
        assert up.cdn.count("GET") == 1
