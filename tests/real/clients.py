"""The clients that people have, each with stores, sockets and configuration of the test's own.

Images are named as users name them (`docker.io/library/box:1.0`); each client is configured to ask
the mirror for them as its own documentation says.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Protocol

from real.image import digest_of
from real.program import Program, clear, run


class Client(Protocol):
    """What a test wants of a client."""

    name: str
    runs: bool
    """Whether it can run what it pulled."""

    def pull(self, image: str) -> str:
        """Pulls from nothing, and gives the digest that it ended up with."""
        ...

    def run(self, image: str) -> str:
        """Runs what was pulled and gives what it printed."""
        ...

    def empty(self) -> None:
        """Forgets everything that was pulled."""
        ...

    def stop(self) -> None: ...


class Docker:
    """dockerd with `registry-mirrors` in its `daemon.json`. Only Docker Hub's images are mirrored so;
    those of another registry are asked of the mirror by path, `127.0.0.1:PORT/quay.io/org/img`."""

    name = "dockerd"
    runs = True

    def __init__(self, home: Path, mirror: str) -> None:
        self._mirror = mirror
        self._socket = home / "docker.sock"
        config = home / "daemon.json"
        config.write_text(
            json.dumps(
                {
                    "registry-mirrors": [f"http://{mirror}"],
                    "storage-driver": "vfs",
                    "iptables": False,
                    "bridge": "none",
                }
            )
        )
        self._daemon = Program(
            home,
            *("dockerd", "--config-file", config, "--data-root", home / "data"),
            *("--exec-root", home / "exec", "--pidfile", home / "pid", "-H", f"unix://{self._socket}"),
            env={"HOME": str(home)},
        )
        self._daemon.start(lambda: self._socket.exists() and self._answers())

    def _answers(self) -> bool:
        try:
            self._docker("version")
        except AssertionError:
            return False
        return True

    def _docker(self, *arguments: str) -> str:
        return run("docker", "-H", f"unix://{self._socket}", *arguments, env={"HOME": str(self._daemon.home)})

    def _reference(self, image: str) -> str:
        return image if image.startswith("docker.io/") else f"{self._mirror}/{image}"

    def pull(self, image: str) -> str:
        said = self._docker("pull", self._reference(image))
        assert "Already exists" not in said, said
        return next(line.split()[1] for line in said.splitlines() if line.startswith("Digest:"))

    def run(self, image: str) -> str:
        return self._docker("run", "--rm", "--network=none", self._reference(image))

    def empty(self) -> None:
        images = self._docker("images", "--all", "--quiet", "--no-trunc").split()
        if images:
            self._docker("rmi", "--force", *sorted(set(images)))
        assert not self._docker("images", "--all", "--quiet")

    def stop(self) -> None:
        self._daemon.stop()


class Containerd:
    """containerd with a `hosts.toml` for each registry: all its requests carry `?ns=REGISTRY`."""

    name = "containerd"
    runs = True

    def __init__(self, home: Path, mirror: str) -> None:
        self._socket = home / "containerd.sock"
        self._hosts = home / "hosts"
        for registry, server in (("docker.io", "registry-1.docker.io"), ("quay.io", "quay.io")):
            (self._hosts / registry).mkdir(parents=True)
            (self._hosts / registry / "hosts.toml").write_text(
                f'server = "https://{server}"\n\n'
                f'[host."http://{mirror}"]\n  capabilities = ["pull", "resolve"]\n'
            )
        config = home / "config.toml"
        config.write_text(
            "version = 2\n"
            f'root = "{home}/root"\nstate = "{home}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\n  address = "{self._socket}"\n'
            f'[ttrpc]\n  address = "{self._socket}.ttrpc"\n'
        )
        self._daemon = Program(home, "containerd", "--config", config)
        self._daemon.start(lambda: self._socket.exists() and self._answers())
        self._ran = 0

    def _answers(self) -> bool:
        try:
            self._ctr("version")
        except AssertionError:
            return False
        return True

    def _ctr(self, *arguments: str | Path) -> str:
        return run("ctr", "--address", self._socket, *arguments)

    def pull(self, image: str) -> str:
        self._ctr("images", "pull", "--snapshotter", "native", "--hosts-dir", self._hosts, image)
        _, line = self._ctr("images", "list", f"name=={image}").splitlines()
        return line.split()[2]

    def run(self, image: str) -> str:
        self._ran += 1
        return self._ctr("run", "--rm", "--snapshotter", "native", image, f"run-{self._ran}")

    def empty(self) -> None:
        images = self._ctr("images", "list", "--quiet").split()
        if images:
            self._ctr("images", "remove", "--sync", *images)
        assert not self._ctr("content", "list", "--quiet")

    def stop(self) -> None:
        self._daemon.stop()


def _registries_conf(path: Path, mirror: str) -> Path:
    """containers-registries.conf(5): Docker Hub's mirror by name alone, another registry's by path."""
    path.write_text(
        f'[[registry]]\nlocation = "docker.io"\n'
        f'[[registry.mirror]]\nlocation = "{mirror}"\ninsecure = true\n\n'
        f'[[registry]]\nlocation = "quay.io"\n'
        f'[[registry.mirror]]\nlocation = "{mirror}/quay.io"\ninsecure = true\n'
    )
    return path


class Podman:
    """Podman with mirrors in its `registries.conf`."""

    name = "podman"
    runs = True

    def __init__(
        self, home: Path, mirror: str, *, driver: str = "vfs", storage_options: str | None = None
    ) -> None:
        self._home = home
        self._env = {"CONTAINERS_REGISTRIES_CONF": str(_registries_conf(home / "registries.conf", mirror))}
        if storage_options is not None:
            (home / "storage.conf").write_text(storage_options)
            self._env["CONTAINERS_STORAGE_CONF"] = str(home / "storage.conf")
        self._command = [
            *("podman", "--root", f"{home}/root", "--runroot", f"{home}/run", "--tmpdir", f"{home}/tmp"),
            *("--storage-driver", driver, "--runtime", "runc", "--cgroup-manager", "cgroupfs"),
            *("--events-backend", "none"),
        ]

    def podman(self, *arguments: str | Path) -> str:
        """Any command of it, in these stores."""
        return run(*self._command, *arguments, env=self._env)

    def pull(self, image: str) -> str:
        self.podman("pull", "--quiet", image)
        return self.podman("image", "inspect", "--format", "{{.Digest}}", image).strip()

    def run(self, image: str) -> str:
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
        return self.podman("run", "--rm", "--network=host", *limits, image)

    def empty(self) -> None:
        self.podman("rmi", "--all", "--force")
        assert not self.podman("images", "--all", "--quiet")

    def stop(self) -> None:
        """It has no daemon; what it left mounted is unmounted."""
        clear(self._home)


class Skopeo:
    """skopeo with the same `registries.conf`: it copies to a directory, byte for byte, and runs nothing."""

    name = "skopeo"
    runs = False

    def __init__(self, home: Path, mirror: str) -> None:
        self._copy = home / "copy"
        self._conf = _registries_conf(home / "registries.conf", mirror)

    def skopeo(self, *arguments: str | Path) -> str:
        """Any command of it, with this configuration."""
        return run("skopeo", "--insecure-policy", "--registries-conf", self._conf, *arguments)

    def pull(self, image: str) -> str:
        self.skopeo("copy", "--all", "--quiet", f"docker://{image}", f"dir:{self._copy}")
        copied = digest_of((self._copy / "manifest.json").read_bytes())
        assert digest_of(self.skopeo("inspect", "--raw", f"docker://{image}").encode()) == copied
        return copied

    def run(self, image: str) -> str:
        raise NotImplementedError("skopeo runs nothing")

    def empty(self) -> None:
        shutil.rmtree(self._copy, ignore_errors=True)

    def stop(self) -> None:
        """It leaves nothing running."""
