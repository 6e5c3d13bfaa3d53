"""Which client a request came from, through reverse proxies that are trusted."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

_HOPS_LIMIT: Final = 32


class ClientAddresses:
    """Reads `X-Forwarded-For` from the right, as far as whoever wrote it is trusted."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)

    def of(self, peer: str, forwarded: Iterable[str]) -> str:
        """The client's address. `peer` is who is connected, `forwarded` the values of `X-Forwarded-For` in
        the order of their lines. What a peer that is not trusted says counts for nothing."""
        if not self._trusted:
            return _text(peer)
        hops = [hop for line in forwarded for hop in line.split(",")][-_HOPS_LIMIT:]
        client = _parse(peer)
        if client is None:
            return _text(peer)
        while hops and self._is_trusted(client):
            before = _parse(hops.pop())
            if before is None:
                break
            client = before
        return str(client)

    def _is_trusted(self, address: _Ip) -> bool:
        return any(address.version == network.version and address in network for network in self._trusted)


def _text(peer: str) -> str:
    return peer.removeprefix("::ffff:")


def _parse(text: str) -> _Ip | None:
    """An address that may carry a port, as some proxies write it."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped
