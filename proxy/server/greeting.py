"""What the server says on standard output once it serves: what it is, and what to do first."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterator
from typing import Final

from ..config import BUILT_IN_SOURCE, Address, Config, format_size
from .limits import clients_for

_HUB: Final = "docker.io"
_SAMPLES: Final = {
    _HUB: "library/alpine",
    "quay.io": "prometheus/busybox",
    "ghcr.io": "homebrew/core/hello",
    "registry.k8s.io": "pause:3.10",
    "public.ecr.aws": "docker/library/alpine",
    "mcr.microsoft.com": "hello-world",
}
_DESKTOP: Final = "host.docker.internal"


def greeting(config: Config, listen: Address, admin: Address, descriptors: int) -> Iterator[str]:
    """Line by line. `listen` and `admin` are where it is in fact reached, `descriptors` how many each worker
    may have open."""
    names = ", ".join(config.upstreams) or "nothing: no upstream is configured"
    where = "no configuration file" if config.source == BUILT_IN_SOURCE else config.source
    yield f"entrepot mirrors {names} ({where})" + ", offline: what is here and nothing else" * config.offline
    limit = "80% of the disk" if config.cache.max_size is None else format_size(config.cache.max_size)
    yield f"  in {config.cache.dir}, at most {limit}"
    clients = clients_for(descriptors, config.workers)
    workers = f"{config.workers} worker{'s' * (config.workers != 1)}"
    yield f"  for clients on {listen}, for people and monitoring on {admin}"
    yield f"  {workers}, {descriptors} open files each: good for {clients} clients at once"
    name, port = _reached(listen), listen.port
    sample = _sample(config)
    if sample is None:
        return
    yield "Try it, which needs no change to any daemon:"
    yield f"  docker pull {name}:{port}/{sample}"
    default = config.default_upstream()
    if default is not None and default.name == _HUB:
        yield "For every pull from Docker Hub, put this into /etc/docker/daemon.json and restart dockerd:"
        yield "  " + json.dumps({"registry-mirrors": [f"http://{name}:{port}"]})
    if not _is_local(listen):
        insecure = json.dumps({"insecure-registries": [f"{name}:{port}"]})
        yield f"Docker on other machines wants TLS, or {insecure} in its daemon.json."
    yield f"Docker Desktop runs its daemon in a virtual machine, from where this is {_DESKTOP}."
    yield "  Settings > Docker Engine: " + json.dumps({"insecure-registries": [f"{_DESKTOP}:{port}"]})[1:-1]
    yield f"  docker pull {_DESKTOP}:{port}/{sample}"


def _sample(config: Config) -> str | None:
    for name, repository in _SAMPLES.items():
        if name in config.upstreams:
            return f"{name}/{repository}"
    first = next(iter(config.upstreams), None)
    return None if first is None else f"{first}/REPOSITORY:TAG"


def _reached(listen: Address) -> str:
    """The name that clients write. Docker takes localhost without TLS."""
    if _is_local(listen):
        return "localhost"
    try:
        everywhere = ipaddress.ip_address(listen.host).is_unspecified
    except ValueError:
        everywhere = False
    host = socket.gethostname() if everywhere else listen.host
    return f"[{host}]" if ":" in host else host


def _is_local(listen: Address) -> bool:
    return listen.host in ("127.0.0.1", "::1", "localhost")
