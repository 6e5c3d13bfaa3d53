"""Real registries and real clients around the mirror.

A test here is skipped where a program is not installed or the machine cannot run it. With
`ENTREPOT_REAL=required` in the environment it fails instead: `.ci/run` sets it, so that nothing is
skipped unseen. With `ENTREPOT_REAL_MIRROR=docker-registry` Debian's docker-registry stands in the mirror's
place, and what it cannot do is skipped: what fails then too is not the mirror's fault.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from real.clients import Client, Containerd, Docker, Podman, Skopeo
from real.image import BUSYBOX, Images, Layout, is_static, schema2
from real.mirror import FRESH, STALE, DockerRegistry, Entrepot, Mirror, hub_and_quay, running
from real.program import free_port
from real.registry import BOX, IMG, MULTI, Registry, TokenServer

CLIENTS: dict[str, tuple[type[Docker] | type[Containerd] | type[Podman] | type[Skopeo], *tuple[str, ...]]] = {
    "dockerd": (Docker, "dockerd", "docker", "containerd", "runc"),
    "containerd": (Containerd, "containerd", "ctr", "runc"),
    "podman": (Podman, "podman", "runc"),
    "skopeo": (Skopeo, "skopeo"),
}
"""Each with the programs that it takes."""

STAND_IN = os.environ.get("ENTREPOT_REAL_MIRROR") == "docker-registry"


def unavailable(reason: str) -> NoReturn:
    """What a test needs is not here."""
    if os.environ.get("ENTREPOT_REAL") == "required":
        pytest.fail(f"{reason} (ENTREPOT_REAL=required)", pytrace=False)
    pytest.skip(reason)


def need(*programs: str) -> None:
    """Skips or fails where one of these is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            unavailable(f"{program} is not installed")


def need_containers() -> None:
    """Skips or fails where no container can be run, whichever program is asked to."""
    if os.geteuid() != 0:
        unavailable("running containers with stores of one's own takes root")
    alone = ["unshare", "--mount", "--pid", "--net", "--fork", "true"]
    if shutil.which("unshare") is None or subprocess.run(alone, check=False, timeout=10).returncode != 0:
        unavailable("no namespaces can be made here")


def home_below(directory: Path) -> Path:
    """For a daemon with sockets in it: their paths may have 107 characters, and containerd below
    dockerd takes forty."""
    assert len(str(directory)) < 64, f"{directory} is too long for sockets: give pytest a short --basetemp"
    return directory


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    if not BUSYBOX.exists() or not is_static(BUSYBOX):
        unavailable("busybox-static is not installed")
    directory = tmp_path_factory.mktemp("images")
    layout = Layout(directory / "layout")
    return Images(
        schema2(directory / "box", "words of a schema 2 image\n"),
        layout.multi_arch("multi", "words of an index's child\n"),
        layout.image("img", "words of an OCI image\n"),
    )


@pytest.fixture(scope="session")
def hub(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """In Docker Hub's place: it demands Bearer tokens."""
    need("docker-registry", "skopeo")
    directory = tmp_path_factory.mktemp("hub")
    registry = Registry(directory / "registry", TokenServer(directory))
    registry.start()
    try:
        registry.push(images.box, BOX, FRESH, STALE)
        registry.push(images.multi, MULTI, FRESH, STALE)
        yield registry
    finally:
        registry.stop()


@pytest.fixture(scope="session")
def quay(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """In Quay's place: it asks nobody who they are."""
    need("docker-registry", "skopeo")
    registry = Registry(tmp_path_factory.mktemp("quay"))
    registry.start()
    try:
        registry.push(images.img, IMG, FRESH, STALE)
        yield registry
    finally:
        registry.stop()


@pytest.fixture(scope="session")
def mirror_port() -> int:
    """One for the whole session: daemons have it in their configuration."""
    return free_port()


@pytest.fixture
def entrepot(tmp_path: Path, mirror_port: int, hub: Registry, quay: Registry) -> Iterator[Entrepot]:
    """The mirror itself, with an empty cache."""
    if STAND_IN:
        pytest.skip("docker-registry in the mirror's place has no such thing")
    upstreams = hub_and_quay(tmp_path, hub, quay)
    mirror = Entrepot(tmp_path, mirror_port, upstreams, tag_ttl=f'{{"{FRESH}": 1h, "*": 0s}}')
    with running(mirror):
        yield mirror


@pytest.fixture
def mirror(
    request: pytest.FixtureRequest, tmp_path: Path, mirror_port: int, hub: Registry
) -> Iterator[Mirror]:
    """The mirror, or what stands in its place, with an empty cache."""
    if not STAND_IN:
        yield request.getfixturevalue("entrepot")
        return
    stand_in = DockerRegistry(tmp_path, mirror_port, hub)
    with running(stand_in):
        yield stand_in


@pytest.fixture(scope="session", params=CLIENTS)
def any_client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mirror_port: int
) -> Iterator[Client]:
    kind, *programs = CLIENTS[request.param]
    need(*programs)
    if kind.runs:
        need_containers()
    client = kind(home_below(tmp_path_factory.mktemp(request.param[0])), f"127.0.0.1:{mirror_port}")
    try:
        yield client
    finally:
        client.stop()


@pytest.fixture
def client(any_client: Client) -> Client:
    """Each client in turn, with empty stores."""
    any_client.empty()
    return any_client


@pytest.fixture
def skopeo(tmp_path: Path, mirror_port: int) -> Skopeo:
    """For what one client is enough to show."""
    need("skopeo")
    home = tmp_path / "skopeo"
    home.mkdir()
    return Skopeo(home, f"127.0.0.1:{mirror_port}")


@pytest.fixture
def chunked_podman(tmp_path_factory: pytest.TempPathFactory, mirror_port: int) -> Iterator[Podman]:
    """Podman set to pull parts of zstd:chunked layers (containers-storage.conf(5)). Only the overlay
    driver can."""
    need("podman", "runc")
    need_containers()
    home = home_below(tmp_path_factory.mktemp("z"))
    options = (
        f'[storage]\ndriver = "overlay"\nrunroot = "{home}/run"\ngraphroot = "{home}/root"\n'
        '[storage.options]\npull_options = {enable_partial_images = "true"}\n'
    )
    podman = Podman(home, f"127.0.0.1:{mirror_port}", driver="overlay", storage_options=options)
    try:
        yield podman
    finally:
        podman.stop()
