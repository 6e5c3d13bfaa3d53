"""Mistakes that only show when a configuration is seen as a whole."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping

from .model import ALIASES, Address, Config
from .problem import Problem

KeyPath = tuple[str, ...]
"""A key with those above it. A tuple, because names of upstreams have dots in them."""


def problems(config: Config, lines: Mapping[KeyPath, int]) -> list[Problem]:
    """What does not go together; `lines` says where the keys of the file stand."""
    return [
        Problem(config.source, lines.get(path), ".".join(path), message)
        for check in (_two_names, _two_defaults, _two_listeners, _exposed)
        for path, message in check(config, lines)
    ]


_Found = Iterator[tuple[KeyPath, str]]


def _two_names(config: Config, lines: Mapping[KeyPath, int]) -> _Found:
    owners = {**ALIASES, **{name: name for name in config.upstreams}}
    for upstream in config.upstreams.values():
        path = ("upstreams", upstream.name, "prefix")
        for prefix in upstream.prefixes:
            owner = owners.get(prefix)
            if owner is None:
                owners[prefix] = upstream.name
            elif owner == upstream.name:
                yield path, f"`{prefix}` means this upstream already: leave it out"
            else:
                yield path, f"`{prefix}` means {owner} already: choose another"


def _two_defaults(config: Config, lines: Mapping[KeyPath, int]) -> _Found:
    first, *others = [name for name, upstream in config.upstreams.items() if upstream.default] or [""]
    for name in others:
        line = lines.get(("upstreams", first, "default"))
        yield (
            ("upstreams", name, "default"),
            f"{first} is the default already (line {line}): there can be only one",
        )


def _two_listeners(config: Config, lines: Mapping[KeyPath, int]) -> _Found:
    one, other = config.listen, config.admin
    if one.port == other.port != 0 and (one.host == other.host or _is_any(one) or _is_any(other)):
        yield ("admin",), f"{other} is taken by `listen` ({one}): give it another port"


def _exposed(config: Config, lines: Mapping[KeyPath, int]) -> _Found:
    """Until there are rules of access, whoever reaches the listener can pull what a credential can read."""
    if config.listen.is_loopback:
        return
    for upstream in config.upstreams.values():
        if upstream.credential is not None:
            yield (
                ("upstreams", upstream.name, "credentials"),
                f"anyone who reaches {config.listen} could pull what this credential can read: listen on a "
                "loopback address, or leave the credential out (rules for who may pull what are not built "
                "yet in this version)",
            )


def _is_any(address: Address) -> bool:
    try:
        return ipaddress.ip_address(address.host).is_unspecified
    except ValueError:
        return False
