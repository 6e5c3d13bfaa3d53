"""The table of docs/design.md, 'what happens': what is held against what the upstream says, cell by cell."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from entrepot.cache.clock import ManualClock
from fake_upstream import FakeUpstream, Fault, Image
from faults import hang, html_page, no_answer, status, without_header
from serving import Answer, Served, serving

TAG = "/v2/library/box/manifests/1.0"


@dataclass
class Case:
    """A mirror that holds version one of an image, and an upstream about to say something else."""

    up: FakeUpstream
    it: Served
    one: Image
    two: Image
    release: asyncio.Event

    def fail(self, action: Any, path: str = "/v2/") -> None:
        self.up.faults.append(Fault((None, path), action))


Trouble = Callable[[Case], Awaitable[None]]


async def down(case: Case) -> None:
    await case.up.stop()


async def server_error(case: Case) -> None:
    case.fail(status(500))


async def unavailable(case: Case) -> None:
    case.fail(status(503))


async def cut(case: Case) -> None:
    case.fail(no_answer())


async def page(case: Case) -> None:
    case.fail(html_page())


async def hanging(case: Case) -> None:
    case.fail(hang(case.release))


async def limited(case: Case) -> None:
    case.fail(status(429, Retry_After="7"))


async def gone(case: Case) -> None:
    case.fail(status(404))


async def refused(case: Case) -> None:
    case.fail(status(403))


FAILING = [down, server_error, unavailable, cut, page, hanging]

TIMES = {"connect": "1s", "first_byte": "1s", "idle": "1s", "answer": "2s", "revalidate": "200ms"}


class Bench:
    """Makes cases."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.upstream: dict[str, Any] = {}
        self.top: dict[str, Any] = {}

    async def run(
        self, trouble: Trouble | None, check: Callable[[Case], Awaitable[None]], *, hold: bool
    ) -> None:
        async with FakeUpstream() as up:
            hub = {"url": up.url, "default": True, "timeout": TIMES, **self.upstream}
            async with serving(self.directory, {"docker.io": hub}, **self.top) as it:
                one = up.add_image("library/box", "1.0", layers=[b"one" * 1000])
                two = up.add_image("library/box", layers=[b"two" * 1000])
                case = Case(up, it, one, two, asyncio.Event())
                if hold:
                    assert (await it.get(TAG)).status == 200
                    assert (await it.get(f"/v2/library/box/blobs/{one.layers[0]}")).status == 200
                    await it.landed(one.layers[0])
                up.forget()
                try:
                    if trouble is not None:
                        await trouble(case)
                    await check(case)
                finally:
                    case.release.set()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def advance(case: Case, seconds: float) -> None:
    assert isinstance(case.it.clock, ManualClock)
    case.it.clock.advance(seconds)


async def both(case: Case, path: str = TAG) -> Answer:
    """HEAD and GET, which must say the same."""
    head, get = await case.it.head(path), await case.it.get(path)
    assert head.status == get.status
    if get.status == 200:
        assert head.digest == get.digest
        assert head.headers["Content-Type"] == get.headers["Content-Type"]
        assert head.headers["Content-Length"] == str(len(get.body))
    return get


# tag fresh, its manifest held


@pytest.mark.parametrize("trouble", [None, *FAILING, limited, gone, refused])
async def test_a_fresh_tag_is_served_without_asking(bench: Bench, trouble: Trouble | None) -> None:
    async def check(case: Case) -> None:
        answer = await both(case)
        assert answer.body == case.one.content
        assert case.up.count() == 0

    await bench.run(trouble, check, hold=True)


# tag stale, its manifest held


async def test_a_stale_tag_that_has_not_moved_costs_one_head(bench: Bench) -> None:
    async def check(case: Case) -> None:
        advance(case, 61)
        answer = await both(case)
        assert answer.body == case.one.content
        assert [seen.method for seen in case.up.requests] == ["HEAD"]

    await bench.run(None, check, hold=True)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_tag_that_has_moved_is_got_before_it_moves(bench: Bench, method: str) -> None:
    async def check(case: Case) -> None:
        advance(case, 61)
        case.up.set_tag("library/box", "1.0", case.two.digest)
        answer = await case.it.ask(method, TAG)
        assert answer.digest == str(case.two.digest)
        asked = [(seen.method, seen.path.rpartition("/")[2]) for seen in case.up.requests]
        assert asked == [("HEAD", "1.0"), ("GET", str(case.two.digest))]
        assert (await both(case)).body == case.two.content
        assert case.up.count() == 2

    await bench.run(None, check, hold=True)


@pytest.mark.parametrize("action", [status(500), status(403), status(404), status(429), html_page()])
async def test_a_tag_whose_new_manifest_does_not_come_stays_where_it_was(bench: Bench, action: Any) -> None:
    async def check(case: Case) -> None:
        advance(case, 61)
        case.up.set_tag("library/box", "1.0", case.two.digest)
        case.up.faults.append(Fault(("GET", "/manifests/"), action))
        answer = await both(case)
        assert answer.body == case.one.content
        assert "stale" in answer.headers["Cache-Status"]

    await bench.run(None, check, hold=True)


async def test_wrong_bytes_do_not_move_a_tag(bench: Bench) -> None:
    async def check(case: Case) -> None:
        advance(case, 61)
        case.up.set_tag("library/box", "1.0", case.two.digest)
        case.up.repositories["library/box"].manifests[case.two.digest] = (
            case.one.content + b" ",
            case.one.media_type,
        )
        assert (await both(case)).body == case.one.content
        assert case.it.noted.mismatches == ["docker.io/library/box"]

    await bench.run(None, check, hold=True)


async def test_without_a_digest_from_head_a_get_revalidates(bench: Bench) -> None:
    async def check(case: Case) -> None:
        advance(case, 61)
        case.up.faults.append(Fault((None, "/manifests/"), without_header("Docker-Content-Digest")))
        assert (await both(case)).body == case.one.content
        assert case.up.count("GET") == 1

    await bench.run(None, check, hold=True)


@pytest.mark.parametrize("trouble", [*FAILING, limited])
async def test_a_stale_tag_is_served_while_the_upstream_fails(bench: Bench, trouble: Trouble) -> None:
    async def check(case: Case) -> None:
        advance(case, 61)
        answer = await both(case)
        assert answer.body == case.one.content
        assert "fwd=stale" in answer.headers["Cache-Status"]
        assert answer.headers["Age"] == "61"
        assert answer.headers["Warning"].startswith('299 - "')
        assert case.it.noted.stale

    await bench.run(trouble, check, hold=True)


@pytest.mark.parametrize(("trouble", "code"), [(unavailable, 503), (limited, 429)])
async def test_a_stale_answer_says_what_the_upstream_said(bench: Bench, trouble: Trouble, code: int) -> None:
    async def check(case: Case) -> None:
        advance(case, 61)
        said = (await case.it.get(TAG)).headers["Cache-Status"]
        assert said == f"entrepot; fwd=stale; fwd-status={code}; detail=stale-if-error"

    bench.upstream = {"timeout": {**TIMES, "revalidate": "5s", "answer": "10s"}}
    await bench.run(trouble, check, hold=True)


@pytest.mark.parametrize("trouble", [server_error, limited, hanging])
async def test_an_outage_costs_one_wait_and_not_one_a_pull(bench: Bench, trouble: Trouble) -> None:
    async def check(case: Case) -> None:
        advance(case, 61)
        await case.it.get(TAG)
        await case.up.wait_for_request(method="HEAD")
        if trouble is hanging:  # the question ends by its own time-out, behind the answers
            await case.it.noted.revalidation("failed")
        asked = case.up.count()
        for _ in range(20):
            assert (await case.it.get(TAG)).body == case.one.content
        assert case.up.count() == asked
        # Later it is asked again, and nobody waits for that.
        advance(case, 11)
        assert (await case.it.get(TAG)).body == case.one.content
        await case.up.wait_for_request(n=asked + 1)
        case.up.faults.clear()
        case.release.set()

    await bench.run(trouble, check, hold=True)


@pytest.mark.parametrize(
    ("trouble", "code"), [(down, 502), (server_error, 502), (hanging, 504), (limited, 429)]
)
async def test_how_long_stale_may_be_served_is_bounded_where_configured(
    bench: Bench, trouble: Trouble, code: int
) -> None:
    async def check(case: Case) -> None:
        advance(case, 3700)
        assert (await case.it.get(TAG)).status == code

    bench.upstream = {"stale_if_error": "1h"}
    await bench.run(trouble, check, hold=True)


async def test_a_deleted_tag_is_gone_and_remembered_so(bench: Bench) -> None:
    async def check(case: Case) -> None:
        advance(case, 61)
        answer = await both(case)
        assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")
        assert case.up.count() == 1
        # What is gone stays gone while the upstream is down, and comes back with it.
        await case.up.stop()
        advance(case, 11)
        assert (await case.it.get(TAG)).status == 502
        await case.up.start()
        case.up.faults.clear()
        advance(case, 11)
        assert (await case.it.get(TAG)).body == case.one.content

    await bench.run(gone, check, hold=True)


async def test_a_deleted_tag_may_be_served_on(bench: Bench) -> None:
    async def check(case: Case) -> None:
        advance(case, 61)
        assert (await both(case)).body == case.one.content
        assert case.up.count() == 1

    bench.upstream = {"on_gone": "serve"}
    await bench.run(gone, check, hold=True)


async def test_a_refused_repository_is_denied_and_no_challenge_passed_on(bench: Bench) -> None:
    async def check(case: Case) -> None:
        advance(case, 61)
        answer = await both(case)
        assert (answer.status, answer.code) == (403, "DENIED")
        assert "127.0.0.1" in answer.message
        assert "WWW-Authenticate" not in answer.headers

    await bench.run(refused, check, hold=True)


async def test_a_refused_repository_may_be_served_on(bench: Bench) -> None:
    async def check(case: Case) -> None:
        advance(case, 61)
        assert (await both(case)).body == case.one.content

    bench.upstream = {"on_denied": "serve"}
    await bench.run(refused, check, hold=True)


# by digest, held, proved for this repository


@pytest.mark.parametrize("trouble", [None, *FAILING, limited, gone, refused])
async def test_what_is_proved_is_served_for_ever(bench: Bench, trouble: Trouble | None) -> None:
    async def check(case: Case) -> None:
        advance(case, 10 * 365 * 86400)
        manifest = await both(case, f"/v2/library/box/manifests/{case.one.digest}")
        assert manifest.body == case.one.content
        blob = await both(case, f"/v2/library/box/blobs/{case.one.layers[0]}")
        assert blob.body == case.up.content(case.one.layers[0])
        assert case.up.count() == 0

    await bench.run(trouble, check, hold=True)


# by digest, held, not proved for this repository, and not held


CELLS = [
    (down, 502),
    (server_error, 502),
    (cut, 502),
    (hanging, 504),
    (limited, 429),
    (gone, 404),
    (refused, 403),
]


@pytest.mark.parametrize(("trouble", "code"), CELLS)
@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_what_another_repository_brought_is_never_served_unasked(
    bench: Bench, trouble: Trouble, code: int, kind: str
) -> None:
    async def check(case: Case) -> None:
        digest = case.one.digest if kind == "manifests" else case.one.layers[0]
        answer = await both(case, f"/v2/library/other/{kind}/{digest}")
        assert answer.status == code
        if code == 429:
            assert answer.headers["Retry-After"] == "7"

    await bench.run(trouble, check, hold=True)


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_one_head_decides_on_what_another_repository_brought(bench: Bench, kind: str) -> None:
    async def check(case: Case) -> None:
        other = case.up.repositories["library/other"] = case.up.repositories["library/box"]
        assert other
        digest = case.one.digest if kind == "manifests" else case.one.layers[0]
        assert (await both(case, f"/v2/library/other/{kind}/{digest}")).status == 200
        assert [seen.method for seen in case.up.requests] == ["HEAD"]

    await bench.run(None, check, hold=True)


@pytest.mark.parametrize(("trouble", "code"), [*CELLS, (page, 502)])
@pytest.mark.parametrize("path", [TAG, "digest", "blob"])
async def test_what_is_not_held_is_answered_with_the_reason(
    bench: Bench, trouble: Trouble, code: int, path: str
) -> None:
    async def check(case: Case) -> None:
        paths = {
            "digest": f"/v2/library/box/manifests/{case.one.digest}",
            "blob": f"/v2/library/box/blobs/{case.one.layers[0]}",
        }
        get = await case.it.get(paths.get(path, path))
        assert get.status == code
        assert get.message
        if code == 429:
            assert get.headers["Retry-After"] == "7"

    await bench.run(trouble, check, hold=False)


@pytest.mark.parametrize("path", [TAG, "digest", "blob"])
async def test_a_404_is_remembered_for_its_time(bench: Bench, path: str) -> None:
    async def check(case: Case) -> None:
        paths = {
            "digest": f"/v2/library/box/manifests/{case.one.digest}",
            "blob": f"/v2/library/box/blobs/{case.one.layers[0]}",
        }
        for _ in range(3):
            assert (await both(case, paths.get(path, path))).status == 404
        assert case.up.count() == 1
        case.up.faults.clear()
        advance(case, 11)
        assert (await case.it.get(paths.get(path, path))).status == 200

    await bench.run(gone, check, hold=False)


# offline


async def test_offline_serves_what_is_proved_and_asks_nobody(bench: Bench) -> None:
    async def check(case: Case) -> None:
        pass

    await bench.run(None, check, hold=True)
    async with FakeUpstream() as up:
        hub = {"url": up.url, "default": True}
        async with serving(bench.directory, {"docker.io": hub}, offline=True) as it:
            answer = await it.get(TAG)
            assert answer.status == 200
            assert answer.headers["Cache-Status"] == "entrepot; hit; detail=offline"
            digest = answer.digest
            assert (await it.get(f"/v2/library/box/manifests/{digest}")).status == 200
            for path in (
                "/v2/library/box/manifests/2.0",
                f"/v2/library/other/manifests/{digest}",
                f"/v2/library/box/blobs/{digest}",
                "/v2/library/box/blobs/sha256:" + 64 * "1",
            ):
                assert (await it.get(path)).status == 404
                assert (await it.head(path)).status == 404
            assert up.count() == 0
            assert up.connections == 0
