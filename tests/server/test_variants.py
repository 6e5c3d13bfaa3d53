"""`Accept`: who gets the stored manifest, and who a variant."""

from __future__ import annotations

from pathlib import Path

from entrepot.cache.clock import ManualClock
from entrepot.cache.media_type import DOCKER_LIST, DOCKER_MANIFEST, MAIN_TYPES, OCI_INDEX, OCI_MANIFEST
from fake_upstream import FakeUpstream
from serving import serving

TAG = "/v2/library/box/manifests/1.0"


async def test_the_upstream_is_always_asked_with_every_type(tmp_path: Path) -> None:
    async with FakeUpstream() as up, serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it:
        up.add_image("library/box", "1.0", media_type=DOCKER_MANIFEST)
        await it.get(TAG, Accept=DOCKER_MANIFEST)
        for name in MAIN_TYPES:
            assert name in up.requests[0].headers["Accept"]


async def test_a_client_that_excludes_the_stored_type_gets_what_the_upstream_makes_of_it(
    tmp_path: Path,
) -> None:
    async with (
        FakeUpstream(negotiation="distribution") as up,
        serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it,
    ):
        index = up.add_index("library/box", "1.0", media_type=DOCKER_LIST)
        for accept in (DOCKER_LIST, "*/*", f"{OCI_INDEX}, {DOCKER_LIST};q=0.5", "application/json"):
            assert (await it.get(TAG, Accept=accept)).digest == str(index.digest)
        assert up.count("GET") == 1
        for _ in range(2):
            old = await it.get(TAG, Accept=DOCKER_MANIFEST)
            assert old.digest == str(index.manifests[0].digest)
            assert old.headers["Content-Type"] == DOCKER_MANIFEST
            head = await it.head(TAG, Accept=DOCKER_MANIFEST)
            assert head.digest == old.digest
        assert up.count() == 2
        # By digest `Accept` says nothing.
        by_digest = await it.get(f"/v2/library/box/manifests/{index.digest}", Accept=DOCKER_MANIFEST)
        assert by_digest.digest == str(index.digest)


async def test_when_the_main_entry_moves_its_variants_are_stale_at_once(tmp_path: Path) -> None:
    async with (
        FakeUpstream(negotiation="distribution") as up,
        serving(
            tmp_path,
            {"docker.io": {"url": up.url, "default": True, "tag_ttl": "1m"}},
        ) as it,
    ):
        assert isinstance(it.clock, ManualClock)
        one = up.add_index("library/box", "1.0", media_type=DOCKER_LIST)
        assert (await it.get(TAG, Accept=DOCKER_MANIFEST)).digest == str(one.manifests[0].digest)
        image = up.add_image("library/box", media_type=DOCKER_MANIFEST, layers=[b"new"])
        two = up.add_index("library/box", "1.0", media_type=DOCKER_LIST, images=[image])
        it.clock.advance(30)
        it.clock.advance(31)
        assert (await it.get(TAG)).digest == str(two.digest)
        assert (await it.get(TAG, Accept=DOCKER_MANIFEST)).digest == str(image.digest)


async def test_what_the_upstream_has_not_for_a_client_is_not_found(tmp_path: Path) -> None:
    async with (
        FakeUpstream(negotiation="distribution") as up,
        serving(tmp_path, {"docker.io": {"url": up.url, "default": True}}) as it,
    ):
        up.add_image("library/box", "1.0", media_type=OCI_MANIFEST)
        assert (await it.get(TAG, Accept=DOCKER_MANIFEST)).status == 404
        assert (await it.get(TAG, Accept=OCI_MANIFEST)).status == 200
