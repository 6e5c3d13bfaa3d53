"""Where an upstream may send us, and what goes along."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path

import pytest
from certificates import self_signed
from entrepot.cache.digest import Digest
from entrepot.cache.errors import SourceError, SourceLimited, SourceMissing, SourceUnavailable
from entrepot.cache.media_type import MAIN_TYPES
from entrepot.proxy.config.model import Timeouts
from entrepot.proxy.upstream.address import (
    IpAddress,
    host_of,
    is_global_address,
    origin,
    parse_url,
    same_origin,
)
from fake_token_server import basic
from fake_upstream import Basic, Bearer, FakeTokenServer, FakeUpstream, Fault
from faults import hang, redirect, status
from hypothesis import given
from hypothesis import strategies as st
from upstream_bench import Bench, Names, bench, credential
from yarl import URL


async def fetch(tried: Bench, digest: Digest, start: int = 0) -> bytes:
    async with await tried.client.open_blob("box", digest, start) as stream:
        pieces = []
        while piece := await stream.read():
            pieces.append(piece)
        return b"".join(pieces)


# redirects


async def test_a_blob_from_a_signed_link_of_another_origin() -> None:
    async with (
        FakeUpstream(auth=Basic("ann", "secret"), cdn=True) as up,
        bench(up.url, credential=credential()) as tried,
    ):
        assert up.cdn is not None
        digest = up.add_blob("box", b"0123456789")
        assert await fetch(tried, digest) == b"0123456789"
        assert await fetch(tried, digest, 4) == b"456789"
        assert [seen.authorization for seen in up.requests] == [None, *[basic("ann", "secret")] * 2]
        assert [seen.authorization for seen in up.cdn.requests] == [None, None]
        assert [seen.range for seen in up.cdn.requests] == [None, "bytes=4-"]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_within_the_origin_keeps_the_authorisation(code: int) -> None:
    async with (
        FakeUpstream(auth=Basic("ann", "secret")) as up,
        bench(up.url, credential=credential()) as tried,
    ):
        digest = up.add_blob("box", b"content")
        up.add_blob("moved", b"content")
        up.faults.append(
            Fault(
                lambda seen: seen.authorization is not None and "/box/" in seen.path,
                redirect(f"../../moved/blobs/{digest}", code),
            )
        )
        assert await fetch(tried, digest) == b"content"
        assert up.requests[-1].path == f"/v2/moved/blobs/{digest}"
        assert up.requests[-1].authorization == basic("ann", "secret")


async def test_authorisation_does_not_come_back_once_the_origin_was_left() -> None:
    async with (
        FakeUpstream() as other,
        FakeUpstream(auth=Basic("ann", "secret")) as up,
        bench(up.url, credential=credential()) as tried,
    ):
        digest = up.add_blob("box", b"content")
        up.add_blob("private", b"content")
        up.faults.append(
            Fault(
                lambda seen: seen.authorization is not None and "/box/" in seen.path,
                redirect(f"{other.url}/somewhere"),
            )
        )
        other.faults.append(Fault(None, redirect(f"{up.url}/v2/private/blobs/{digest}")))
        with pytest.raises(SourceUnavailable):
            await fetch(tried, digest)
        assert [seen.authorization for seen in up.seen(path_contains="/private/")] == [None]


async def test_a_circle_has_an_end() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.faults.append(Fault(None, redirect("?again")))
        with pytest.raises(SourceUnavailable, match="redirects more than 5 times"):
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        assert up.count() == 6


async def test_five_redirects_are_followed() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.add_image("box", "1.0")
        up.faults.append(Fault(None, redirect("?again"), times=5))
        await tried.client.get_manifest("box", "1.0", MAIN_TYPES)


@pytest.mark.parametrize(
    "location",
    ["ftp://127.0.0.1/x", "file:///etc/passwd", "javascript:1", "http://", "http://[::1", "http://h:99999/",
     "http://user:word@127.0.0.1/", "http://2130706433/", "http://exa mple/", ""],
)  # fmt: skip
async def test_locations_that_are_not_followed(location: str) -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.faults.append(Fault(None, redirect(location)))
        with pytest.raises(SourceUnavailable) as raised:
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        assert "word" not in raised.value.detail
        assert up.count() == 1


async def test_a_query_never_gets_into_an_error() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.faults.append(Fault(None, redirect("http://127.0.0.1:1/x?X-Amz-Signature=hidden")))
        with pytest.raises(SourceUnavailable) as raised:
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        assert raised.value.detail == "127.0.0.1:1: cannot connect: Connection refused"
        assert raised.value.__suppress_context__


async def test_a_header_with_line_ends_is_not_sent_on() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        up.add_image("box", "1.0")
        up.faults.append(Fault(None, redirect("/v2/box/manifests/1.0?a=b c\x7fd\xe9"), times=1))
        await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        assert up.requests[-1].raw_query.startswith("a=b%20c%7Fd%")


async def test_an_expired_link_is_asked_for_once_more() -> None:
    async with FakeUpstream(cdn=True) as up, bench(up.url) as tried:
        assert up.cdn is not None
        digest = up.add_blob("box", b"content")
        for code in (400, 403, 410):
            up.cdn.faults[:] = [Fault(None, status(code), times=1)]
            assert await fetch(tried, digest) == b"content"
        assert up.count("GET") == up.cdn.count("GET") == 6
        up.cdn.faults[:] = [Fault(None, status(403))]
        with pytest.raises(SourceUnavailable, match=r"answered 403, to which registry\.test redirects"):
            await fetch(tried, digest)
        assert up.count("GET") == 8


@pytest.mark.parametrize(
    ("code", "meaning"),
    [(404, SourceMissing), (429, SourceLimited), (401, SourceUnavailable), (451, SourceUnavailable)],
)
async def test_what_a_storages_answer_means(code: int, meaning: type[SourceError]) -> None:
    async with FakeUpstream(cdn=True) as up, bench(up.url) as tried:
        assert up.cdn is not None
        digest = up.add_blob("box", b"content")
        up.cdn.faults.append(Fault(None, status(code, WWW_Authenticate='Basic realm="give"')))
        with pytest.raises(SourceError) as raised:
            await fetch(tried, digest)
        assert type(raised.value) is meaning


async def test_a_storage_that_fails_is_tried_again_with_a_new_link() -> None:
    async with FakeUpstream(cdn=True) as up, bench(up.url) as tried:
        assert up.cdn is not None
        digest = up.add_blob("box", b"content")
        up.cdn.faults.append(Fault(None, status(503), times=2))
        assert await fetch(tried, digest) == b"content"
        assert up.count() == 3


async def test_a_storage_that_hangs() -> None:
    brief = Timeouts(connect=5.0, first_byte=0.1, idle=0.1, answer=1.0, revalidate=0.5)
    async with FakeUpstream(cdn=True) as up, bench(up.url, timeout=brief) as tried:
        assert up.cdn is not None
        digest = up.add_blob("box", b"content")
        up.cdn.faults.append(Fault(None, hang(asyncio.Event())))
        with pytest.raises(SourceUnavailable, match="no answer within"):
            await fetch(tried, digest)


async def test_the_size_of_a_blob_whose_head_is_redirected_to_a_link_for_get() -> None:
    async with FakeUpstream(cdn=True, redirect_head=True) as up, bench(up.url) as tried:
        assert up.cdn is not None
        digest = up.add_blob("box", b"0123456789")
        assert await tried.client.head_blob("box", digest) == 10
        assert [(seen.method, seen.range) for seen in up.cdn.requests] == [
            ("HEAD", None),
            ("GET", "bytes=0-0"),
        ]
        up.cdn.refuses_head = False
        assert await tried.client.head_blob("box", digest) == 10
        assert up.cdn.requests[-1].method == "HEAD"


async def test_a_manifest_from_another_origin() -> None:
    async with FakeUpstream() as other, FakeUpstream() as up, bench(up.url) as tried:
        image = other.add_image("box", "1.0")
        up.faults.append(Fault(None, redirect(f"{other.url}/v2/box/manifests/1.0")))
        assert (await tried.client.head_manifest("box", "1.0", MAIN_TYPES)).digest == image.digest
        other.faults.append(Fault(("HEAD", ""), status(403)))
        assert (await tried.client.head_manifest("box", "1.0", MAIN_TYPES)).digest == image.digest
        assert other.requests[-1].method == "GET"
        assert other.requests[-1].accept == list(MAIN_TYPES)


async def test_https_with_a_certificate_of_our_own_and_no_way_down_to_http(tmp_path: Path) -> None:
    context, trusted = self_signed(tmp_path)
    async with FakeUpstream() as plain, FakeUpstream(ssl_context=context, cdn=True) as up:
        digest = up.add_blob("box", b"content")
        plain.add_blob("box", b"content")
        async with bench(up.url) as tried:
            with pytest.raises(SourceUnavailable, match="its certificate is not trusted: self"):
                await fetch(tried, digest)
            assert len(tried.seen.requests) == 1
        async with bench(up.url, ca_file=trusted) as tried:
            assert await fetch(tried, digest) == b"content"
            up.faults.append(Fault(None, redirect(f"{plain.url}/v2/box/blobs/{digest}")))
            with pytest.raises(SourceUnavailable, match="from https to http"):
                await fetch(tried, digest)
            assert plain.count() == 0
        async with bench(up.url, ca_file=tmp_path / "missing.pem") as tried:
            with pytest.raises(SourceUnavailable, match=r"missing\.pem cannot be used: No such file"):
                await fetch(tried, digest)


async def test_https_to_what_speaks_no_tls() -> None:
    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with bench(f"https://127.0.0.1:{port}") as tried:
            with pytest.raises(SourceUnavailable, match="TLS fails"):
                await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
            assert len(tried.seen.requests) == 1


# addresses: here 127.0.0.1 plays an address of the internet, and 127.0.0.2 one of this site


def played_global(address: IpAddress) -> bool:
    return str(address) == "127.0.0.1"


PUBLIC = {"is_global": played_global}


async def test_a_public_upstream_does_not_lead_to_private_addresses() -> None:
    async with FakeUpstream(host="127.0.0.2") as inner, FakeUpstream() as up:
        digest = inner.add_blob("box", b"metadata of the cloud")
        up.faults.append(Fault(None, redirect(f"{inner.url}/v2/box/blobs/{digest}")))
        async with bench(up.url, **PUBLIC) as tried:
            with pytest.raises(SourceUnavailable, match=r'allow_private_hosts: \["127\.0\.0\.2"\]'):
                await fetch(tried, digest)
            assert up.count() == 1
            assert inner.connections == 0
        async with bench(up.url, allow_private_hosts=("127.0.0.2",), **PUBLIC) as tried:
            assert await fetch(tried, digest) == b"metadata of the cloud"


async def test_a_private_upstream_may_lead_anywhere() -> None:
    async with FakeUpstream(host="127.0.0.2") as up, FakeUpstream(host="127.0.0.3") as other:
        digest = other.add_blob("box", b"content")
        up.faults.append(Fault(None, redirect(f"{other.url}/v2/box/blobs/{digest}")))
        async with bench(up.url, **PUBLIC) as tried:
            assert await fetch(tried, digest) == b"content"


async def test_names_are_judged_by_the_address_that_is_connected_to() -> None:
    async with FakeUpstream(host="127.0.0.2") as inner, FakeUpstream() as up:
        digest = inner.add_blob("box", b"secret")
        names = Names(up_test=["127.0.0.1"], cdn_test=["127.0.0.2"])
        up.faults.append(Fault(None, redirect(f"http://cdn.test:{inner.port}/v2/box/blobs/{digest}")))
        async with bench(f"http://up.test:{up.port}", resolver=names, **PUBLIC) as tried:
            with pytest.raises(SourceUnavailable, match=r'allow_private_hosts: \["cdn\.test"\]'):
                await fetch(tried, digest)
            assert inner.connections == 0
            names.names["cdn.test"] = ["127.0.0.1"]


async def test_a_second_look_up_of_the_upstreams_own_name_does_not_slip_in() -> None:
    async with FakeUpstream(host="127.0.0.2") as inner, FakeUpstream() as up:
        # The upstream's name means it at first, and then a machine of this site at the same port.
        names = Names(up_test=["127.0.0.1", "127.0.0.2"])
        up.faults.append(Fault(None, redirect("/v2/other")))
        inner.port = up.port
        async with bench(f"http://up.test:{up.port}", resolver=names, **PUBLIC) as tried:
            with pytest.raises(SourceUnavailable, match="not a global one"):
                await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
            assert up.count() == 1


async def test_a_realm_of_a_public_upstream_is_at_a_global_address() -> None:
    auth = Bearer()
    async with FakeTokenServer(auth, host="127.0.0.2") as inner, FakeUpstream(auth=auth) as up:
        up.add_image("box", "1.0")
        up.token_server = inner
        changes = {"token_realms": (inner.url,)}
        async with bench(up.url, **changes, **PUBLIC) as tried:
            for _ in range(2):
                with pytest.raises(SourceUnavailable, match="allow_private_hosts"):
                    await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
            assert inner.connections == 0
            assert up.count() == 1
        async with bench(up.url, **changes, allow_private_hosts=("127.0.0.2",), **PUBLIC) as tried:
            await tried.client.get_manifest("box", "1.0", MAIN_TYPES)
        up.token_server = None


async def test_another_process_that_knows_the_challenge_judges_the_realm_as_strictly() -> None:
    auth = Bearer()
    async with FakeTokenServer(auth, host="127.0.0.2") as inner, FakeUpstream(auth=auth) as up:
        up.token_server = inner
        changes = {"token_realms": (inner.url,)}
        async with bench(up.url, **changes, **PUBLIC) as first:
            with pytest.raises(SourceUnavailable):
                await first.client.get_manifest("box", "1.0", MAIN_TYPES)
            async with bench(up.url, leases=first.leases, **changes, **PUBLIC) as second:
                with pytest.raises(SourceUnavailable, match="allow_private_hosts"):
                    await second.client.get_manifest("box", "1.0", MAIN_TYPES)
        assert up.count() == 1
        assert inner.connections == 0
        up.token_server = None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:a00:1::", False),
        ("2002:7f00:1::", False),
    ],
)
def test_which_addresses_are_global(text: str, expected: bool) -> None:
    assert is_global_address(ipaddress.ip_address(text)) is expected


# urls


def test_origins() -> None:
    assert same_origin(URL("https://h/a"), URL("https://h:443/b?c"))
    assert not same_origin(URL("https://h/a"), URL("http://h/a"))
    assert not same_origin(URL("https://h/a"), URL("https://h:8443/a"))
    assert not same_origin(URL("https://h/a"), URL("https://i/a"))
    assert origin(URL("https://h:443/a?b#c")) == "https://h"
    assert host_of(URL("http://[::1]:5000/")) == "[::1]:5000"


@pytest.mark.parametrize(
    "text",
    ["http://h/a%2Fb?X-Sig=a%2fb+c%3D~'(%20)&a%5Bb%5D=;:@", "https://h/%7Euser/../x?q", "http://h/?a=%zz"],
)
def test_a_location_is_taken_as_it_is(text: str) -> None:
    assert str(parse_url(text, URL("http://base/"))) == text


def test_relative_locations() -> None:
    base = URL("https://h:8443/v2/a/blobs/x?y")
    assert str(parse_url("/d?X=%2f", base)) == "https://h:8443/d?X=%2f"
    assert str(parse_url("//cdn/d?X=%2f", base)) == "https://cdn/d?X=%2f"
    assert str(parse_url("z", base)) == "https://h:8443/v2/a/blobs/z"
    assert parse_url("z") is None


@given(st.text() | st.text(alphabet="htps:/@[]%.?#\\\x00\udc80 ü0", max_size=30))
def test_a_location_may_be_anything(text: str) -> None:
    for base in (None, URL("https://h/a")):
        url = parse_url(text, base)
        assert url is None or (url.scheme in ("http", "https") and str(url).isascii())
