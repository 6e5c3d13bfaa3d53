"""Addresses and origins: where a request may go."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final, TypeAlias

from yarl import URL

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IsGlobal: TypeAlias = Callable[[IpAddress], bool]
"""Whether an address is anyone's on the internet, and not this machine's or this site's own."""

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_FORBIDDEN_IN_URL: Final = re.compile(rb"[^\x21-\x7e]")
_HOST: Final = re.compile(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:.]+")


def is_global_address(address: IpAddress) -> bool:
    """The real answer to `IsGlobal`. An IPv6 address that stands for an IPv4 one (mapped, 6to4, NAT64) is
    judged as that one: some machine on the way would go there."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_global_address(inner)
    return address.is_global and not address.is_multicast


def parse_address(text: str) -> IpAddress | None:
    """The address that a socket says it is connected to; None for what is no IP address."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def same_origin(one: URL, other: URL) -> bool:
    """Whether scheme, host and port are the same (RFC 6454)."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def origin(url: URL) -> str:
    """Scheme and host, and the port where it is not the scheme's own: all of a URL that may be shown."""
    return f"{url.scheme}://{host_of(url)}"


def host_of(url: URL) -> str:
    """Host, and the port where it is not the scheme's own."""
    host = url.raw_host or ""
    host = f"[{host}]" if ":" in host else host
    return host if url.port is None or url.is_default_port() else f"{host}:{url.port}"


def parse_url(text: str, base: URL | None = None) -> URL | None:
    """An http or https URL that an upstream named, exactly as it named it: signed ones break when they are
    quoted anew. Only what could not stand in a request line is quoted. None for what is no such URL, or has
    a user in it, who would become a credential."""
    try:
        raw = text.strip().encode("utf-8", "surrogateescape")
        cleaned = _FORBIDDEN_IN_URL.sub(lambda found: b"%%%02X" % found[0][0], raw).decode("ascii")
        url = URL(cleaned, encoded=True)
        if base is not None and not url.absolute and not url.scheme:
            url = base.join(url)
        elif base is not None and not url.scheme:
            url = URL(f"{base.scheme}:{cleaned}", encoded=True)  # `//host/path`
        host, port = url.host or "", url.port
    except ValueError:  # also a port out of range, and characters that no encoding has
        return None
    if url.scheme not in ("http", "https") or not port or _HOST.fullmatch(host) is None:
        return None
    return url if url.raw_user is None and url.raw_password is None else None
