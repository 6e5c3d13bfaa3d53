"""Nothing blocks the event loop: not a pull that misses, nor one that hits, nor an upstream's bad day."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from fake_upstream import FakeUpstream, Fault
from faults import cut_after, wrong_bytes
from serving import serving

LAYER = bytes(range(256)) * 8192


async def test_no_blocking_call_on_the_loop(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it:
        image = up.add_image("library/box", "1.0", layers=[LAYER])
        bad = up.add_blob("library/box", b"bad" * 1000)
        up.faults.append(Fault(("GET", str(image.layers[0])), cut_after(1_000_000), times=1))
        up.faults.append(Fault(("GET", str(bad)), wrong_bytes()))
        with blockbuster_ctx():
            for _ in range(2):
                assert (await it.get("/v2/library/box/manifests/1.0")).status == 200
                layer = f"/v2/library/box/blobs/{image.layers[0]}"
                answers = await asyncio.gather(*(it.get(layer) for _ in range(5)))
                assert {answer.status for answer in answers} == {200}
                assert (await it.get(layer, Range="bytes=10-19,30-39")).status == 206
                await it.landed(image.layers[0])
            await asyncio.gather(it.get(f"/v2/library/box/blobs/{bad}"), return_exceptions=True)
            assert (await it.get("/v2/library/box/manifests/none")).status == 404


async def test_no_callback_of_the_mirror_is_slow(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.25  # five times what a callback may take: the machine may be busy
    size = 64 * 1024 * 1024
    async with FakeUpstream() as up, serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it:
        digest = up.add_generated_blob("library/box", size)

        async def count() -> int:
            async with it.session.get(f"{it.url}/v2/library/box/blobs/{digest}") as answer:
                return sum([len(chunk) async for chunk in answer.content.iter_any()])

        assert await asyncio.gather(*(count() for _ in range(4))) == [size] * 4
    # asyncio names the callback that took long, with the file that it stands in.
    slow = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    assert not [text for text in slow if "/proxy/" in text or "/cache/" in text]
