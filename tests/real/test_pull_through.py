"""People's own clients pull images through the mirror, run them, and pull them again without upstreams."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from real.clients import Client, Podman, Skopeo
from real.image import Image, Images, Layout, digest_of
from real.mirror import FRESH, STALE, Entrepot, Mirror
from real.program import run
from real.registry import BOX, IMG, MULTI, Registry, Seen

pytestmark = pytest.mark.real


def pulls(client: Client, name: str, image: Image, *, and_runs: bool = False) -> None:
    """With nothing in its store, the client gets the very image that was pushed, and it works."""
    client.empty()
    assert client.pull(name) == image.digest
    if and_runs and client.runs:
        assert client.run(name) == image.words


def gets(seen: list[Seen], part: str) -> list[Seen]:
    """What was asked for and given; a challenge (401) is neither."""
    return [one for one in seen if one.method == "GET" and one.status < 300 and part in one.target]


def test_pulled_run_and_pulled_again_without_upstream(
    client: Client, mirror: Mirror, hub: Registry, images: Images
) -> None:
    names = {
        f"docker.io/{BOX}:{FRESH}": images.box,
        f"docker.io/{BOX}:{STALE}": images.box,
        f"docker.io/{BOX}@{images.box.digest}": images.box,
        f"docker.io/{MULTI}:{STALE}": images.multi,
    }
    for name, image in names.items():
        pulls(client, name, image, and_runs=True)
    with hub.stopped():
        for name, image in names.items():
            pulls(client, name, image, and_runs=":" in name)


def test_a_pull_asks_the_upstream_once(
    client: Client, entrepot: Entrepot, hub: Registry, images: Images
) -> None:
    assert hub.tokens is not None
    before, granted = len(hub.seen()), len(hub.tokens.granted)

    pulls(client, f"docker.io/{BOX}:{FRESH}", images.box, and_runs=True)

    cold = hub.seen()[before:]
    assert len(gets(cold, "/manifests/")) == 1, cold
    for digest, size in images.box.blobs.items():
        assert sum(one.size for one in gets(cold, digest)) == size, cold
    assert hub.tokens.granted[granted:] == [f"repository:{BOX}:pull"]

    pulls(client, f"docker.io/{BOX}:{FRESH}", images.box, and_runs=True)
    assert hub.seen()[before:] == cold, "what is fresh is served without asking"

    pulls(client, f"docker.io/{BOX}@{images.box.digest}", images.box)
    assert hub.seen()[before:] == cold, "and what is asked for by digest"

    pulls(client, f"docker.io/{BOX}:{STALE}", images.box)
    other = hub.seen()[before + len(cold) :]
    assert len(gets(other, "/manifests/")) <= 1, other
    assert not gets(other, "/blobs/"), "another tag's blobs are the same ones"

    pulls(client, f"docker.io/{BOX}:{STALE}", images.box)
    again = hub.seen()[before + len(cold) + len(other) :]
    assert {one.method for one in again} == {"HEAD"}, "a stale tag is asked for without fetching"
    assert hub.tokens.password not in entrepot.log()


def test_pulled_by_digest_first(client: Client, entrepot: Entrepot, hub: Registry, images: Images) -> None:
    before = len(hub.seen())
    pulls(client, f"docker.io/{BOX}@{images.box.digest}", images.box, and_runs=True)
    named = [one.target for one in hub.seen()[before:] if "/manifests/" in one.target]
    assert set(named) == {f"/v2/{BOX}/manifests/{images.box.digest}"}


def test_a_second_registry(client: Client, entrepot: Entrepot, quay: Registry, images: Images) -> None:
    """`?ns=quay.io` from containerd, a path below the mirror's name from the others."""
    pulls(client, f"quay.io/{IMG}:{STALE}", images.img, and_runs=True)
    with quay.stopped():
        pulls(client, f"quay.io/{IMG}:{STALE}", images.img, and_runs=True)


def test_a_tag_that_moved(entrepot: Entrepot, skopeo: Skopeo, quay: Registry, images: Images) -> None:
    quay.push(images.img, "org/moving", STALE)
    pulls(skopeo, f"quay.io/org/moving:{STALE}", images.img)
    quay.push(images.multi, "org/moving", STALE)
    pulls(skopeo, f"quay.io/org/moving:{STALE}", images.multi)
    with quay.stopped():
        pulls(skopeo, f"quay.io/org/moving:{STALE}", images.multi)


def test_an_index_with_all_its_children(
    mirror: Mirror, skopeo: Skopeo, hub: Registry, images: Images, tmp_path: Path
) -> None:
    """With the attestation, whose layer is no tar, and into an OCI layout: all of it, byte for byte."""

    def copied(into: Path) -> set[str]:
        name = f"docker://docker.io/{MULTI}:{FRESH}"
        skopeo.skopeo("copy", "--all", "--preserve-digests", "--quiet", name, f"oci:{into}:{FRESH}")
        (entry,) = json.loads((into / "index.json").read_bytes())["manifests"]
        assert entry["digest"] == images.multi.digest
        blobs = {path.name: path.read_bytes() for path in (into / "blobs" / "sha256").iterdir()}
        assert all(digest_of(content) == f"sha256:{name}" for name, content in blobs.items())
        return {f"sha256:{name}" for name in blobs}

    everything = copied(tmp_path / "first")
    assert everything > {images.multi.digest, *images.multi.children, *images.multi.blobs}
    with hub.stopped():
        assert copied(tmp_path / "second") == everything


def test_zstd_chunked_in_parts(mirror: Mirror, chunked_podman: Podman, hub: Registry, tmp_path: Path) -> None:
    """Podman asks for the chunks that it does not have, hundreds of ranges in a header of over 8 KiB.
    Half of the second image's files it has from the first one."""
    layout = Layout(tmp_path / "layout")
    command = ["/bin/busybox", "sh", "-c", "cat /d/* | /bin/busybox sha256sum"]
    files = {f"d/{n:05d}": (0o644, random.Random(n).randbytes(500)) for n in range(1500)}
    half = dict(list(files.items())[::2])
    for name, some in (("half", half), ("whole", files)):
        hub.push_chunked(layout.files(name, some, command), f"library/chunked:{name}")

    def pulled_in_parts() -> None:
        for name, some in (("half", half), ("whole", files)):
            image = f"docker.io/library/chunked:{name}"
            chunked_podman.pull(image)
            expected = digest_of(b"".join(content for _, content in some.values()))
            assert chunked_podman.run(image).split()[0] == expected.removeprefix("sha256:")
        chunked_podman.empty()

    pulled_in_parts()
    if isinstance(mirror, Entrepot):
        assert mirror.answered(206) >= 4, "it asked for ranges"
    with hub.stopped():
        pulled_in_parts()


def test_a_cache_behind_the_cache(
    mirror: Mirror, skopeo: Skopeo, hub: Registry, images: Images, tmp_path: Path
) -> None:
    """docker-registry in proxy mode, with the mirror for its `remoteurl`."""
    behind = Registry(tmp_path / "behind", remote=f"http://{mirror.address}")

    def pulled() -> str:
        source = f"docker://{behind.address}/{MULTI}:{STALE}"
        run("skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", "--quiet",
            "--src-tls-verify=false", source, f"dir:{tmp_path / 'copy'}")  # fmt: skip
        return digest_of((tmp_path / "copy" / "manifest.json").read_bytes())

    behind.start()
    try:
        assert pulled() == images.multi.digest
    finally:
        behind.stop()
    again = Registry(tmp_path / "again", remote=f"http://{mirror.address}")
    with hub.stopped():
        again.start()
        try:
            source = f"docker://{again.address}/{MULTI}:{STALE}"
            said = run("skopeo", "--insecure-policy", "inspect", "--raw", "--tls-verify=false", source)
            assert digest_of(said.encode()) == images.multi.digest
        finally:
            again.stop()


def test_a_restart_forgets_nothing(entrepot: Entrepot, skopeo: Skopeo, hub: Registry, images: Images) -> None:
    pulls(skopeo, f"docker.io/{MULTI}:{STALE}", images.multi)
    with hub.stopped():
        assert entrepot.stop() == 0
        entrepot.start()
        pulls(skopeo, f"docker.io/{MULTI}:{STALE}", images.multi)
