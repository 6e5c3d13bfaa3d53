"""Bad days: what upstreams, disks and clients do to a mirror, and what its clients see of it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from entrepot.cache import filesystem
from entrepot.cache.clock import ManualClock
from entrepot.cache.digest import Digest
from entrepot.cache.generation import Generations
from entrepot.cache.lease import LocalLeases
from fake_upstream import Basic, Bearer, FakeUpstream, Fault
from faults import (
    cut_after,
    gzip,
    hang,
    hang_after,
    html_page,
    ignore_range,
    no_length,
    redirect,
    slow,
    status,
    too_little,
    too_much,
    wrong_bytes,
)
from serving import Served, serving

LAYER = bytes(range(256)) * 16384  # 4 MiB
TIMES = {"connect": "1s", "first_byte": "1s", "idle": "1s", "answer": "3s", "revalidate": "300ms"}
GET_BLOB = ("GET", "/blobs/")


def hub(up: FakeUpstream, **more: Any) -> dict[str, Any]:
    return {"docker.io": {"url": up.url, "default": True, "timeout": TIMES, **more}}


def advance(it: Served, seconds: float) -> None:
    assert isinstance(it.clock, ManualClock)
    it.clock.advance(seconds)


# the upstream in the middle of a blob


async def test_a_cut_at_93_percent_is_gone_on_with_at_the_same_byte(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        digest = up.add_blob("library/box", LAYER)
        at = len(LAYER) * 93 // 100
        up.faults.append(Fault(GET_BLOB, cut_after(at), times=1))
        answers = await asyncio.gather(*(it.get(f"/v2/library/box/blobs/{digest}") for _ in range(10)))
        assert all(answer.body == LAYER for answer in answers)
        ranges = [seen.range for seen in up.seen("GET")]
        assert len(ranges) == 2
        assert ranges[0] is None
        start = int(str(ranges[1]).removeprefix("bytes=").removesuffix("-"))
        assert start <= at
        assert up.bytes_sent <= len(LAYER) + 512 * 1024


async def test_a_cut_every_now_and_then_is_survived(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        digest = up.add_blob("library/box", LAYER)
        up.faults.append(Fault(GET_BLOB, cut_after(700_000), times=5))
        assert (await it.get(f"/v2/library/box/blobs/{digest}")).body == LAYER


async def test_a_hang_in_the_middle_is_left_after_the_idle_time(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        digest = up.add_blob("library/box", LAYER)
        release = asyncio.Event()
        up.faults.append(Fault(GET_BLOB, hang_after(1_000_000, release), times=1))
        assert (await it.get(f"/v2/library/box/blobs/{digest}")).body == LAYER
        release.set()


async def test_an_upstream_without_ranges_is_read_again_from_the_start(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        digest = up.add_blob("library/box", LAYER)
        up.faults.append(Fault(GET_BLOB, cut_after(1_000_000), times=1))
        up.faults.append(Fault(GET_BLOB, ignore_range()))
        assert (await it.get(f"/v2/library/box/blobs/{digest}")).body == LAYER


async def test_a_blob_without_a_length(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        digest = up.add_blob("library/box", LAYER)
        up.faults.append(Fault(GET_BLOB, no_length()))
        answer = await it.get(f"/v2/library/box/blobs/{digest}")
        assert answer.body == LAYER
        assert "Content-Length" not in answer.headers


@pytest.mark.parametrize("action", [wrong_bytes(1_000_000), too_much(), too_little()])
async def test_what_is_wrong_is_never_ended_and_never_kept(tmp_path: Path, action: Any) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        digest = up.add_blob("library/box", LAYER)
        up.faults.append(Fault(GET_BLOB, action))
        path = f"/v2/library/box/blobs/{digest}"
        for _ in range(2):
            with pytest.raises(aiohttp.ClientError):
                await it.get(path)
            await it.landed(digest)
            assert not it.mirror.store.path(digest).exists()
        # Twice wrong within the time: no third download.
        asked = up.count("GET")
        answer = await it.get(path)
        assert (answer.status, up.count("GET")) == (502, asked)
        advance(it, 11)
        up.faults.clear()
        assert (await it.get(path)).body == LAYER


async def test_another_upstream_repository_helps_out_at_the_same_byte(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        digest = up.add_blob("library/box", LAYER)
        up.add_blob("library/other", LAYER)
        release = asyncio.Event()
        up.faults.append(Fault(("GET", "/library/box/blobs/"), hang_after(1_000_000, release), times=1))
        up.faults.append(Fault(("GET", "/library/box/blobs/"), status(403)))
        first = asyncio.create_task(it.get(f"/v2/library/box/blobs/{digest}"))
        await up.wait_until(lambda: up.bytes_sent >= 1_000_000)
        second = asyncio.create_task(it.get(f"/v2/library/other/blobs/{digest}"))
        await up.wait_for_request(method="HEAD", path_contains="/library/other/")
        assert (await first).body == (await second).body == LAYER
        (resumed,) = up.seen("GET", "/library/other/blobs/")
        assert resumed.range is not None
        release.set()


@pytest.mark.parametrize("action", [gzip(), html_page()])
async def test_an_answer_in_disguise_is_no_blob(tmp_path: Path, action: Any) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        digest = up.add_blob("library/box", LAYER)
        up.faults.append(Fault(GET_BLOB, action))
        answer = await it.get(f"/v2/library/box/blobs/{digest}")
        assert (answer.status, answer.code) == (502, "UNAVAILABLE")


@pytest.mark.parametrize(
    ("retry_after", "said"),
    [("7", "7"), (None, None), ("1000000000000", "3600"), ("-5", None), ("soon", None)],
)
async def test_a_limit_is_passed_on_with_a_sane_time(
    tmp_path: Path, retry_after: str | None, said: str | None
) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        up.add_image("library/box", "1.0")
        more = {} if retry_after is None else {"Retry_After": retry_after}
        up.faults.append(Fault(("GET", "/manifests/"), status(429, **more)))
        answer = await it.get("/v2/library/box/manifests/1.0")
        assert (answer.status, answer.code) == (429, "TOOMANYREQUESTS")
        if said is not None:
            assert answer.headers["Retry-After"] == said
        else:
            assert answer.headers.get("Retry-After") in (None, "1")
        assert up.count() == 1


async def test_a_redirect_loop_ends(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        digest = up.add_blob("library/box", LAYER)
        up.faults.append(Fault((None, "/blobs/"), redirect(f"/v2/library/box/blobs/{digest}")))
        assert (await it.get(f"/v2/library/box/blobs/{digest}")).status == 502


async def test_an_expired_link_is_asked_for_anew(tmp_path: Path) -> None:
    async with FakeUpstream(cdn=True) as up, serving(tmp_path, hub(up)) as it:
        assert up.cdn is not None
        digest = up.add_blob("library/box", LAYER)
        up.cdn.faults.append(Fault(("GET", ""), status(403), times=1))
        assert (await it.get(f"/v2/library/box/blobs/{digest}")).body == LAYER
        assert up.cdn.seen()[0].authorization is None
        assert up.count("GET", "/blobs/") == 2


# schema 1, large and odd manifests


async def test_docker_schema_1_is_refused_saying_why(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        schema_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
        up.add_manifest("library/box", b'{"schemaVersion": 1}', schema_1, "old")
        for _ in range(2):
            answer = await it.get("/v2/library/box/manifests/old")
            assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")
            assert "schema 1" in answer.message


async def test_manifests_up_to_the_limit_and_none_beyond(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        limit = 4 * 1024 * 1024
        odd_type = "application/vnd.example.odd+json"
        for size, code in ((limit, 200), (limit + 1, 502)):
            content = json.dumps({"pad": ""}).encode()
            content = content[:-2] + b"x" * (size - len(content)) + content[-2:]
            up.add_manifest("library/box", content, odd_type, f"s{size}")
            answer = await it.get(f"/v2/library/box/manifests/s{size}")
            assert answer.status == code
            if code == 200:
                assert answer.body == content
                assert answer.headers["Content-Type"] == odd_type


# tokens and credentials


async def test_a_token_server_that_is_down_or_talks_nonsense(tmp_path: Path) -> None:
    auth = Bearer()
    async with FakeUpstream(auth=auth) as up, serving(tmp_path, hub(up)) as it:
        up.add_image("library/box", "1.0")
        up.faults.append(Fault(("GET", "/token"), html_page()))
        assert (await it.get("/v2/library/box/manifests/1.0")).status == 502
        up.faults[:] = [Fault(("GET", "/token"), status(503))]
        assert (await it.get("/v2/library/box/manifests/1.0")).status == 502
        up.faults.clear()
        assert (await it.get("/v2/library/box/manifests/1.0")).status == 200


@pytest.mark.parametrize("auth", [Basic("bot", "right"), Bearer(users={"bot": "right"})])
async def test_a_credential_revoked_under_load_fails_no_warm_pull(
    tmp_path: Path, auth: Basic | Bearer
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("right")
    credentials = {"username": "bot", "password_file": str(secret)}
    async with (
        FakeUpstream(auth=auth) as up,
        serving(tmp_path / "cache", hub(up, credentials=credentials)) as it,
    ):
        images = [up.add_image("library/box", f"{number}") for number in range(20)]
        for number in range(20):
            assert (await it.get(f"/v2/library/box/manifests/{number}")).status == 200
        up.set_password("new")
        if isinstance(auth, Bearer):
            auth.revoke_all()
        up.forget()
        advance(it, 120)
        answers = await asyncio.gather(
            *(it.get(f"/v2/library/box/manifests/{number % 20}") for number in range(200))
        )
        assert [answer.body for answer in answers] == [images[number % 20].content for number in range(200)]
        refusals = up.count("GET", "/token") if isinstance(auth, Bearer) else up.count("HEAD")
        assert refusals <= 20
        asked = up.count()
        cold = await it.get("/v2/library/box/manifests/none")
        assert cold.status == 502
        assert up.count() <= asked + 1
        assert it.noted.refusals
        # The new password works without a restart.
        replaced = tmp_path / "replaced"
        replaced.write_text("new")
        replaced.rename(secret)
        up.forget()
        up.add_image("library/box", "fresh")
        async with asyncio.timeout(20):
            while (await it.get("/v2/library/box/manifests/fresh")).status != 200:
                advance(it, 120)  # a file is looked at once a second, and a failing upstream every so often
                await asyncio.sleep(0.02)


# many at once


async def test_a_hundred_stale_tags_before_a_silent_upstream(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        for number in range(100):
            up.add_image("library/box", f"{number}")
        paths = [f"/v2/library/box/manifests/{number}" for number in range(100)]
        assert {(await it.get(path)).status for path in paths} == {200}
        release = asyncio.Event()
        up.faults.append(Fault((None, "/v2/"), hang(release)))
        advance(it, 61)
        loop = asyncio.get_running_loop()
        began = loop.time()
        answers = await asyncio.gather(*(it.get(path) for path in paths))
        first_round = loop.time() - began
        assert {answer.status for answer in answers} == {200}
        assert first_round < 5 * 0.3  # `revalidate`, on the wall clock with room
        began = loop.time()
        answers = await asyncio.gather(*(it.get(path) for path in paths))
        assert {answer.status for answer in answers} == {200}
        assert loop.time() - began < first_round  # at once: nobody waits for the same question again
        release.set()


async def test_two_clients_in_the_same_millisecond_a_hundred_times(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        digests = [up.add_blob("library/box", b"%d" % number * 1000) for number in range(100)]
        for number, digest in enumerate(digests):
            one, two = await asyncio.gather(
                it.get(f"/v2/library/box/blobs/{digest}"), it.get(f"/v2/library/box/blobs/{digest}")
            )
            assert one.body == two.body == b"%d" % number * 1000
        assert up.count("GET") == 100


async def test_many_requests_for_one_stale_tag_make_one_head(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up, tag_ttl="0s")) as it:
        up.add_image("library/box", "1.0")
        await it.get("/v2/library/box/manifests/1.0")
        up.forget()
        advance(it, 1)
        release = asyncio.Event()
        up.faults.append(Fault((None, "/manifests/"), hang(release), times=1))
        asking = [asyncio.create_task(it.get("/v2/library/box/manifests/1.0")) for _ in range(50)]
        await up.wait_for_request(method="HEAD")
        release.set()
        assert {(await answer).status for answer in asking} == {200}
        assert up.count() <= 2  # who came after the answer asks again


async def test_two_processes_ask_once_for_a_stale_tag_and_for_a_blob(tmp_path: Path) -> None:
    clock = ManualClock()
    shared = Generations()
    leases = LocalLeases(clock)
    async with (
        FakeUpstream() as up,
        serving(tmp_path, hub(up), clock=clock, leases=leases, generations=shared) as one,
        serving(tmp_path, hub(up), clock=clock, leases=leases, generations=shared) as two,
    ):
        image = up.add_image("library/box", "1.0", layers=[LAYER])
        tag, layer = "/v2/library/box/manifests/1.0", f"/v2/library/box/blobs/{image.layers[0]}"
        answers = await asyncio.gather(*(it.get(tag) for it in (one, two) for _ in range(10)))
        assert {answer.body for answer in answers} == {image.content}
        assert up.count("GET") == 1
        answers = await asyncio.gather(*(it.get(layer) for it in (one, two) for _ in range(10)))
        assert {Digest.of(answer.body) for answer in answers} == {image.layers[0]}
        assert up.count("GET", "/blobs/") == 1
        up.forget()
        clock.advance(61)
        answers = await asyncio.gather(*(it.get(tag) for it in (one, two) for _ in range(10)))
        assert {answer.status for answer in answers} == {200}
        assert up.count() == 1
    shared.close()


# clients


async def test_a_client_that_leaves_ends_nothing(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        digest = up.add_blob("library/box", LAYER)
        release = asyncio.Event()
        up.faults.append(Fault(GET_BLOB, hang_after(1_000_000, release), times=1))
        async with it.session.get(f"{it.url}/v2/library/box/blobs/{digest}") as response:
            await response.content.readexactly(1000)
            response.close()
        release.set()
        await it.landed(digest)
        assert up.count("GET") == 1
        assert it.mirror.store.path(digest).read_bytes() == LAYER


async def test_a_slow_reader_slows_nobody(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        digest = up.add_blob("library/box", LAYER)
        path = f"/v2/library/box/blobs/{digest}"
        async with it.session.get(it.url + path) as response:
            await response.content.readexactly(1)
            assert (await it.get(path)).body == LAYER
            await it.landed(digest)
            assert (await response.content.read(1)) == LAYER[1:2]
            response.close()


async def raw(it: Served, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(it.url.rpartition(":")[2]))
    writer.write(request)
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_an_endless_header_closes_the_connection(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        answer = await raw(it, b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n")
        assert answer[9:12] in (b"400", b"431", b"")
        assert (await it.get("/v2/")).status == 200


async def test_ranges_without_number_and_without_sense(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        digest = up.add_blob("library/box", LAYER)
        path = f"/v2/library/box/blobs/{digest}"
        await it.get(path)
        many = ",".join(f"{10 * number}-{10 * number}" for number in range(10_000))
        answer = await raw(
            it, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: bytes={many}\r\n\r\n".encode()
        )
        assert answer[9:12] in (b"400", b"431")
        some = ",".join(f"{10 * number}-{10 * number}" for number in range(2000))
        assert (await it.get(path, Range=f"bytes={some}")).status == 416
        overlapping = await it.get(path, Range="bytes=" + ",".join(["0-"] * 500))
        assert (overlapping.status, len(overlapping.body)) == (206, len(LAYER))


# the disk


async def test_a_blob_larger_than_the_cache_goes_through(tmp_path: Path) -> None:
    async with (
        FakeUpstream() as up,
        serving(tmp_path, hub(up), cache={"dir": str(tmp_path), "max_size": "1MiB", "min_free": "0%"}) as it,
    ):
        digest = up.add_blob("library/box", LAYER)
        path = f"/v2/library/box/blobs/{digest}"
        answer = await it.get(path)
        assert answer.body == LAYER
        assert "bypass" in answer.headers["Cache-Status"]
        assert (await it.get(path, Range="bytes=100-199")).body == LAYER[100:200]
        assert (await it.get(path, Range="bytes=-100")).body == LAYER[-100:]
        assert it.noted.unkept
        assert not it.mirror.store.path(digest).exists()
        assert list((tmp_path / "partial").iterdir()) == []


async def test_wrong_bytes_that_only_pass_are_cut_too(tmp_path: Path) -> None:
    async with (
        FakeUpstream() as up,
        serving(tmp_path, hub(up), cache={"dir": str(tmp_path), "max_size": "1MiB", "min_free": "0%"}) as it,
    ):
        digest = up.add_blob("library/box", LAYER)
        up.faults.append(Fault(GET_BLOB, wrong_bytes(1_000_000)))
        with pytest.raises(aiohttp.ClientError):
            await it.get(f"/v2/library/box/blobs/{digest}")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
async def test_a_disk_that_fails_in_the_middle_fails_no_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    written = 0

    class Full(filesystem.FileWriter):
        def _write(self, data: bytes, then: Any) -> None:
            nonlocal written
            written += len(data)
            if written > 1_500_000:
                with filesystem.storing():
                    raise OSError(number, os.strerror(number))
            super()._write(data, then)

    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        digest = up.add_blob("library/box", LAYER)
        path = f"/v2/library/box/blobs/{digest}"
        with monkeypatch.context() as broken:
            broken.setattr(filesystem, "FileWriter", Full)
            up.faults.append(Fault(GET_BLOB, slow(40_000_000), times=1))
            answers = await asyncio.gather(*(it.get(path) for _ in range(5)))
            assert all(answer.body == LAYER for answer in answers)
            assert it.noted.unkept
        await it.landed(digest)
        assert (await it.get(path)).body == LAYER  # and caching is back without a restart
        await it.landed(digest)
        assert it.mirror.store.path(digest).exists()


async def test_a_disk_that_may_not_be_written_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return plain(path, flags, mode, **more)

    plain = os.open
    async with FakeUpstream() as up, serving(tmp_path, hub(up)) as it:
        image = up.add_image("library/box", "1.0", layers=[LAYER])
        with monkeypatch.context() as broken:
            broken.setattr(os, "open", refuse)
            for _ in range(2):
                assert (await it.get("/v2/library/box/manifests/1.0")).body == image.content
                assert (await it.get(f"/v2/library/box/blobs/{image.layers[0]}")).body == LAYER
        assert it.noted.unkept


async def test_downloads_are_gone_on_with_after_a_stop(tmp_path: Path) -> None:
    async with FakeUpstream() as up:
        digest = up.add_blob("library/box", LAYER)
        release = asyncio.Event()
        up.faults.append(Fault(GET_BLOB, hang_after(3_000_000, release), times=1))
        async with serving(tmp_path, hub(up)) as it:
            reading = asyncio.create_task(it.get(f"/v2/library/box/blobs/{digest}"))
            await up.wait_until(lambda: up.bytes_sent >= 3_000_000)
            flight = it.mirror.flights.find(digest)
            assert flight is not None
            while flight.present < 2_500_000:
                await flight.change()
            reading.cancel()
        up.forget()
        async with serving(tmp_path, hub(up)) as it:
            assert (await it.get(f"/v2/library/box/blobs/{digest}")).body == LAYER
        assert up.bytes_sent < len(LAYER) / 2
        assert it.noted.resumes == 1
