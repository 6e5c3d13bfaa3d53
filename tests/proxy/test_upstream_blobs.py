"""Blobs as they come from an upstream: whole, from the middle, broken, and lied about."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest
from entrepot.cache.digest import Digest
from entrepot.cache.errors import SourceError, SourceMissing, SourceRefused, SourceTimeout, SourceUnavailable
from entrepot.proxy.config.model import Timeouts
from entrepot.proxy.upstream.client import BlobStream, UpstreamClient
from fake_http import Action
from fake_upstream import FakeUpstream, Fault
from faults import (
    content_range,
    cut_after,
    declare_length,
    gzip,
    hang_after,
    html_page,
    ignore_range,
    no_length,
    status,
    with_header,
    without_header,
)
from upstream_bench import bench

SIZE = 1_000_000
BRIEF = Timeouts(connect=5.0, first_byte=0.2, idle=0.1, answer=1.0, revalidate=0.5)


async def read(stream: BlobStream) -> bytes:
    """All that comes; closes the stream."""
    pieces = []
    async with stream:
        while piece := await stream.read():
            assert len(piece) <= 256 * 1024
            pieces.append(piece)
    return b"".join(pieces)


async def fetch(client: UpstreamClient, digest: Digest, start: int = 0, end: int | None = None) -> bytes:
    return await read(await client.open_blob("box", digest, start, end))


async def read_until_it_fails(stream: BlobStream) -> tuple[int, SourceError]:
    """How many bytes came, and what came then."""
    came = 0
    async with stream:
        try:
            while piece := await stream.read():
                came += len(piece)
        except SourceError as error:
            return came, error
    raise AssertionError(f"it ended well after {came} bytes")


@pytest.mark.parametrize(
    ("start", "end", "asked"),
    [
        (0, None, None),
        (1, None, "bytes=1-"),
        (0, 1, "bytes=0-0"),
        (5, 999_999, "bytes=5-999998"),
        (SIZE - 1, None, f"bytes={SIZE - 1}-"),
        (10, 5_000_000, "bytes=10-4999999"),
    ],
)
async def test_a_range_of_a_blob(start: int, end: int | None, asked: str | None) -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_generated_blob("box", SIZE)
        stream = await tried.client.open_blob("box", digest, start, end)
        assert (stream.start, stream.total) == (start, SIZE)
        assert await read(stream) == up.content(digest)[start:end]
        assert await stream.read() == b""
        assert up.requests[0].range == asked
        assert tried.seen.bytes == up.bytes_sent == min(end or SIZE, SIZE) - start
        await tried.client.head_blob("box", digest)
        assert up.connections == 1, "what was read to its end leaves its connection"


async def test_an_upstream_that_ignores_ranges_begins_at_the_beginning() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_generated_blob("box", SIZE)
        up.faults.append(Fault(None, ignore_range()))
        stream = await tried.client.open_blob("box", digest, 500, 600)
        assert (stream.start, stream.total) == (0, SIZE)
        assert await read(stream) == up.content(digest)


async def test_a_blob_whose_size_is_not_said() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_generated_blob("box", SIZE)
        up.faults.append(Fault(None, no_length()))
        stream = await tried.client.open_blob("box", digest)
        assert stream.total is None
        assert await read(stream) == up.content(digest)
        stream = await tried.client.open_blob("box", digest, 10)
        assert (stream.start, stream.total) == (10, SIZE)
        assert await read(stream) == up.content(digest)[10:]


async def test_an_empty_blob() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_blob("box", b"")
        stream = await tried.client.open_blob("box", digest)
        assert stream.total == 0
        assert await read(stream) == b""
        assert await tried.client.head_blob("box", digest) == 0
        up.faults.append(Fault(("HEAD", ""), without_header("Content-Length")))
        assert await tried.client.head_blob("box", digest) == 0


@pytest.mark.parametrize("cut", [0, 1, 930_000])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_blob_that_is_cut_off_gives_all_that_came(cut: int, reset: bool) -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_generated_blob("box", SIZE)
        up.faults.append(Fault(None, cut_after(cut, reset=reset)))
        came, error = await read_until_it_fails(await tried.client.open_blob("box", digest))
        assert type(error) is SourceUnavailable
        assert error.detail == f"127.0.0.1:{up.port}: cut off at {came} of {SIZE} bytes"
        assert came <= cut
        assert reset or came == cut
        assert up.count() == 1, "who resumes is the one who reads"


@pytest.mark.parametrize("actions", [[no_length(), cut_after(500)], [declare_length(SIZE + 7)]])
async def test_an_end_that_comes_too_early(actions: Sequence[Action]) -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_generated_blob("box", SIZE)
        up.faults.append(Fault(None, actions))
        with pytest.raises(SourceUnavailable, match="cut off at"):
            await fetch(tried.client, digest)


async def test_bytes_behind_the_declared_end_are_not_content() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_generated_blob("box", SIZE)
        up.faults.append(Fault(None, declare_length(100), times=1))
        with contextlib.suppress(SourceUnavailable):  # it depends on how the bytes are cut into packets
            assert await fetch(tried.client, digest) == up.content(digest)[:100]
        assert await fetch(tried.client, digest) == up.content(digest)


async def test_a_range_that_is_longer_than_asked_is_ended_there() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_generated_blob("box", SIZE)
        up.faults.append(Fault(None, content_range(f"bytes 0-{SIZE - 1}/{SIZE}")))
        assert await fetch(tried.client, digest, 0, 1000) == up.content(digest)[:1000]


@pytest.mark.parametrize(
    "said",
    ["", "bytes 0-999999/1000000", "bytes 11-999999/1000000", "bytes */1000000", "bytes 10-5/1000000",
     "bytes 10-1000000/1000000", "pages 10-11/12", "bytes 10-", "bytes ٣-٤/٥", "bytes 10-11/x" + "9" * 100],
)  # fmt: skip
async def test_a_206_that_is_not_what_was_asked_for(said: str) -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_generated_blob("box", SIZE)
        up.faults.append(Fault(None, content_range(said.encode().decode("latin-1"))))
        with pytest.raises(SourceUnavailable):
            await tried.client.open_blob("box", digest, 10)


async def test_nothing_is_left_behind_the_end() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_blob("box", b"0123456789")
        with pytest.raises(SourceUnavailable, match="answered 416"):
            await tried.client.open_blob("box", digest, 10)


async def test_a_blob_that_stops_coming() -> None:
    async with FakeUpstream() as up, bench(up.url, timeout=BRIEF) as tried:
        digest = up.add_generated_blob("box", SIZE)
        up.faults.append(Fault(None, hang_after(300_000, asyncio.Event())))
        came, error = await read_until_it_fails(await tried.client.open_blob("box", digest))
        assert type(error) is SourceTimeout
        assert error.detail == f"127.0.0.1:{up.port}: nothing came for 0.1 s"
        assert came == 300_000
        await up.wait_until(lambda: up.open_connections == 0)


async def test_who_does_not_read_slows_the_upstream_and_loses_nothing() -> None:
    async with FakeUpstream() as up, bench(up.url, timeout=BRIEF) as tried:
        size = 64 * 1024 * 1024
        digest = up.add_generated_blob("box", size)
        async with await tried.client.open_blob("box", digest) as stream:
            came = len(await stream.read())
            await asyncio.sleep(2 * BRIEF.idle)  # longer than the upstream may be silent: it is not its fault
            assert up.bytes_sent < size / 2
            while piece := await stream.read():
                came += len(piece)
        assert came == size


@pytest.mark.parametrize("action", [gzip(), with_header("Content-Encoding", "br")])
async def test_encoded_bytes_are_not_the_blob(action: Action) -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_blob("box", b"content" * 100)
        up.faults.append(Fault(None, action))
        with pytest.raises(SourceUnavailable, match="encoded"):
            await tried.client.open_blob("box", digest)
        with pytest.raises(SourceUnavailable, match="encoded"):
            await tried.client.head_blob("box", digest)


async def test_identity_is_no_encoding() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_blob("box", b"content")
        up.faults.append(Fault(None, with_header("Content-Encoding", "Identity")))
        assert await fetch(tried.client, digest) == b"content"


async def test_a_page_is_not_the_blob_unless_the_blob_is_a_page() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_blob("box", b"<html>")
        up.faults.append(Fault(None, html_page(), times=1))
        with pytest.raises(SourceUnavailable, match="a web page"):
            await tried.client.open_blob("box", digest)
        up.faults[:] = [Fault(None, with_header("Content-Type", "text/html"))]
        assert await fetch(tried.client, digest) == b"<html>"


async def test_the_size_of_a_blob() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_generated_blob("box", SIZE)
        assert await tried.client.head_blob("box", digest) == SIZE
        assert [seen.method for seen in up.requests] == ["HEAD"]
        with pytest.raises(SourceMissing):
            await tried.client.head_blob("box", Digest.of(b"another"))


@pytest.mark.parametrize("action", [status(405), without_header("Content-Length")])
async def test_the_size_where_head_does_not_say_it(action: Action) -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_generated_blob("box", SIZE)
        up.faults.append(Fault(("HEAD", ""), action))
        assert await tried.client.head_blob("box", digest) == SIZE
        assert [seen.range for seen in up.requests] == [None, "bytes=0-0"]
        up.faults.append(Fault(("GET", ""), ignore_range()))
        assert await tried.client.head_blob("box", digest) == SIZE


async def test_head_works_and_get_is_refused() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_blob("box", b"content")
        up.faults.append(Fault(("GET", ""), status(403)))
        assert await tried.client.head_blob("box", digest) == 7
        with pytest.raises(SourceRefused):
            await tried.client.open_blob("box", digest)


async def test_so_many_blobs_at_once_and_manifests_do_not_wait_for_them() -> None:
    async with FakeUpstream() as up, bench(up.url, timeout=BRIEF) as tried:
        image = up.add_image("box", "1.0")
        digest = up.add_generated_blob("box", SIZE)
        up.faults.append(Fault(("GET", str(digest)), hang_after(10, asyncio.Event())))
        streams = [await tried.client.open_blob("box", digest) for _ in range(64)]
        with pytest.raises(SourceTimeout, match="64 blobs are being read"):
            await tried.client.open_blob("box", digest)
        assert (await tried.client.get_manifest("box", "1.0", ["*/*"])).content == image.content
        await streams[0].close()
        await streams[0].close()
        streams.append(await tried.client.open_blob("box", digest))
        with pytest.raises(SourceTimeout):
            await tried.client.open_blob("box", digest)
        for stream in streams:
            await stream.close()


async def test_what_fails_to_open_takes_no_turn() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        for _ in range(70):
            with pytest.raises(SourceMissing):
                await tried.client.open_blob("box", Digest.of(b"?"))
        digest = up.add_blob("box", b"content")
        assert await fetch(tried.client, digest) == b"content"


async def test_a_read_that_is_cancelled_ends_its_connection() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_generated_blob("box", SIZE)
        up.faults.append(Fault(None, hang_after(0, asyncio.Event())))
        reading = asyncio.create_task(fetch(tried.client, digest))
        await up.wait_for_request()
        reading.cancel()
        await up.wait_until(lambda: up.open_connections == 0)


async def test_closing_the_client_breaks_what_is_being_read() -> None:
    async with FakeUpstream() as up, bench(up.url) as tried:
        digest = up.add_generated_blob("box", SIZE)
        up.faults.append(Fault(None, hang_after(10, asyncio.Event())))
        stream = await tried.client.open_blob("box", digest)
        assert len(await stream.read()) == 10
        await tried.client.close()
        with pytest.raises(SourceUnavailable):
            await stream.read()
        await stream.close()
