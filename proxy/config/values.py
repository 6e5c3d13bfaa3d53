"""Values as people write them: sizes, durations, addresses, names. Text in, values out, no I/O.

Every reader raises `Mistake`, whose text goes on from the key's name."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final, TypeVar
from urllib.parse import SplitResult, urlsplit

from entrepot.cache.errors import InvalidReference
from entrepot.cache.reference import check_name

from .model import Address, Network, Share
from .problem import Mistake

C = TypeVar("C", bound=str)

_NUMBER: Final = r"\d{1,19}(?:\.\d{1,9})?"
_SIZE: Final = re.compile(rf"({_NUMBER}) ?([A-Za-z]*)", re.ASCII)
_SIZE_UNITS: Final[Mapping[str, int]] = {
    **{f"{prefix}iB": 1024**power for power, prefix in reversed([*enumerate("KMGTPE", 1)])},
    **{f"{prefix}B": 1000**power for power, prefix in reversed([*enumerate("kMGTPE", 1)])},
    "B": 1,
}
_SIZE_BY_LETTERS: Final = {unit.lower(): size for unit, size in _SIZE_UNITS.items()}
_SIZE_LIMIT: Final = 2**63 - 1
"""Bytes: what a file system can count."""

_DURATION_UNITS: Final[Mapping[str, int]] = {
    "w": 7 * 86_400_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1000,
    "ms": 1,
}
"""In milliseconds, longest first."""
_DURATION: Final = re.compile(
    "".join(rf"(?:({_NUMBER}) ?{unit})? ?" for unit in _DURATION_UNITS).removesuffix(" ?"), re.ASCII
)
_DURATION_LIMIT: Final = 100 * 365 * 86_400_000
"""Milliseconds: a hundred years. Longer is a slip of the hand."""
FOREVER: Final = "forever"

_PERCENT: Final = re.compile(rf"({_NUMBER}) ?%", re.ASCII)
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_SERVICE: Final = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?")
"""Hosts to connect to: container networks have names with underscores, which no reference can have."""
_LISTEN_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?", re.IGNORECASE)
_HOST_LIMIT: Final = 253  # RFC 1035, 2.3.4
_TAG_PART: Final = r"(?:[A-Za-z0-9_.*?-]|\[!?[A-Za-z0-9_.-]+\])+"
_TAG_PATTERN: Final = re.compile(rf"{_TAG_PART}(?:\|{_TAG_PART})*")
_PREFIX: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?::[0-9]+)?")


def size(text: str) -> int:
    """Bytes from `50GiB`, `500MB`, `1.5TiB`; letters in any case; `0` needs no unit."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise Mistake("must be a size such as 50GiB or 500MB")
    number, unit = match.groups()
    if not unit and Decimal(number) != 0:
        raise Mistake(f"must have a unit: {number}GiB? {number}MB? {number}B?")
    factor = _SIZE_BY_LETTERS.get(unit.lower(), 1 if not unit else None)
    if factor is None:
        letter = unit[0].upper()
        if len(unit) == 1 and letter in "KMGTPE":
            raise Mistake(
                f"must say which unit it means: {number}{letter}iB (1024) or {number}{letter}B (1000)"
            )
        raise Mistake(f"must be a size in one of {', '.join(_SIZE_UNITS)}")
    counted = int(Decimal(number) * factor)
    if counted > _SIZE_LIMIT:
        raise Mistake("must be a size that a disk can have")
    return counted


def some_size(text: str) -> int:
    """A size of more than nothing."""
    counted = size(text)
    if counted == 0:
        raise Mistake("must be more than 0")
    return counted


def format_size(counted: int) -> str:
    """The shortest form that `size` reads back as just this many bytes."""
    forms = [f"{counted // factor}{unit}" for unit, factor in _SIZE_UNITS.items() if counted % factor == 0]
    return min(forms, key=len) if counted else "0B"


def share(text: str) -> Share:
    """A size, or a part of the disk such as `5%`."""
    match = _PERCENT.fullmatch(text)
    if match is None:
        if "%" in text:
            raise Mistake("must be a share of the disk such as 5%, or a size such as 10GiB")
        return Share(bytes=size(text))
    percent = float(match[1])
    if percent >= 100:
        raise Mistake("must be less than 100%: nothing could be kept")
    return Share(percent=percent)


def duration(text: str) -> float:
    """Seconds from `15m`, `1h30m`, `500ms`, `1.5s`; longer units first, each once; `0` needs no unit."""
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        if re.fullmatch(_NUMBER, text, re.ASCII):
            raise Mistake(f"must have a unit: {text}s? {text}m? {text}h?")
        if text == FOREVER:
            raise Mistake("must be a duration such as 15m; `forever` is only for `stale_if_error`")
        raise Mistake("must be a duration such as 15m, 1h30m or 0s (units: w, d, h, m, s, ms)")
    amount = Decimal(0)
    for number, factor in zip(match.groups(), _DURATION_UNITS.values(), strict=True):
        amount += Decimal(number or 0) * factor
    if amount > _DURATION_LIMIT:
        raise Mistake("must be less than a hundred years")
    return float(amount / 1000)


def some_duration(text: str) -> float:
    """A duration of more than nothing."""
    seconds = duration(text)
    if seconds == 0:
        raise Mistake("must be more than 0s")
    return seconds


def duration_or_forever(text: str) -> float:
    """A duration; infinite for `forever`."""
    return math.inf if text == FOREVER else duration(text)


def format_duration(seconds: float) -> str:
    """The form that `duration` reads back as this, to the millisecond."""
    if math.isinf(seconds):
        return FOREVER
    rest, text = round(seconds * 1000), ""
    for unit, factor in _DURATION_UNITS.items():
        count, rest = divmod(rest, factor)
        if count:
            text += f"{count}{unit}"
    return text or "0s"


def address(text: str) -> Address:
    """`HOST:PORT`, IPv6 in brackets, as `127.0.0.1:5080` or `[::]:5080`."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or host == "*":
        digits = (port if colon else text) if (port if colon else text).isdecimal() else "5080"
        raise Mistake(
            f"must be HOST:PORT, such as 127.0.0.1:{digits}, or 0.0.0.0:{digits} for every interface"
        )
    if re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) is None or int(port) > 65535:
        raise Mistake("must end with a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        try:
            return Address(str(ipaddress.IPv6Address(host[1:-1])), int(port))
        except ValueError:
            raise Mistake("must have an IPv6 address between the brackets") from None
    if ":" in host:
        raise Mistake(f"must have its IPv6 address in brackets, such as [::1]:{port}")
    if not _is_host(host, _LISTEN_HOST):
        raise Mistake("must begin with the name or address of an interface, such as 127.0.0.1")
    return Address(host.lower(), int(port))


def network(text: str) -> Network:
    """An address, or a network such as `10.0.0.0/8`."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Mistake("must be an address or a network such as 10.0.0.0/8") from None
    raise Mistake(f"must not have bits set behind the network's: {meant}, or the address alone")


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """A reader of numbers from `low` to `high`."""

    def read(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) is None or not low <= int(text) <= high:
            raise Mistake(f"must be a whole number from {low} to {high}")
        return int(text)

    return read


def truth(text: str) -> bool:
    """`true` or `false`, and YAML's other words for them."""
    word = text.lower()
    if word in ("true", "yes", "on"):
        return True
    if word in ("false", "no", "off"):
        return False
    raise Mistake("must be true or false")


def choice(*words: C) -> Callable[[str], C]:
    """A reader of one of these words."""
    by_text = {str(word): word for word in words}

    def read(text: str) -> C:
        found = by_text.get(text)
        if found is None:
            raise Mistake(f"must be {' or '.join(words)}")
        return found

    return read


def upstream_name(text: str) -> str:
    """A registry as it is written at the head of a reference: a host, perhaps with a port. Its text is a
    key, so the message stands alone."""
    if not text.isprintable():
        raise Mistake("must hold no control characters")
    if "://" in text:
        raise Mistake("must be the registry's name as in an image reference; its address goes under `url:`")
    if "/" in text:
        raise Mistake(f"must end before the first `/`: `{text.partition('/')[0]}` mirrors all that is there")
    if text != text.lower():
        raise Mistake(f"must be in lower case: `{text.lower()}`")
    host, colon, port = _split_port(text)
    if colon and not _is_port(port):
        raise Mistake("must end with a port from 1 to 65535, or have none")
    bracketed = text.startswith("[")
    if not (_is_ipv6(host) if bracketed else _is_host(host, _HOST)):
        raise Mistake("must be a registry's host, such as quay.io or registry.corp.example:5000")
    if not colon and not bracketed and "." not in host and host != "localhost":
        raise Mistake(
            "has neither a dot nor a port, so that no client takes it for a registry; put the registry's own "
            f"name here, and under it `prefix: {text}`"
        )
    return text


def tag_pattern(text: str) -> str:
    """Alternatives with `|` between them, each of what tags are made of, `*`, `?` and `[…]`. Its text is a
    key, so the message stands alone."""
    if _TAG_PATTERN.fullmatch(text) is None:
        raise Mistake(
            "must be a pattern of tags: their characters, `*`, `?`, `[0-9]`, and `|` between alternatives"
        )
    return text


def prefix(text: str) -> str:
    """A first component of a path, by the grammar of repository names (distribution-spec, Pulling
    manifests), perhaps with a port."""
    if "/" in text.strip("/"):
        raise Mistake("must be a single component of a path, without `/`")
    if _PREFIX.fullmatch(text) is None or len(text) > _HOST_LIMIT:
        raise Mistake("must be lower-case letters and digits, with single `.`, `_` or `-` between them")
    return text


def url(text: str) -> str:
    """Where a registry is: scheme, host, perhaps port and path, without the slash at the end. Never shown
    in a message: it may hold what should not be in it."""
    parts = _parts(text)
    if parts.query or "?" in text or parts.fragment or "#" in text:
        raise Mistake("must have no query and no fragment", quotable=False)
    path = parts.path.strip("/")
    if path == "v2" or path.startswith("v2/") or path.endswith("/v2"):
        raise Mistake("must not contain /v2: it is put there by itself", quotable=False)
    if path:
        try:
            check_name(path)
        except InvalidReference:
            raise Mistake(
                "must have a path that can stand before a repository's name: lower case, no empty parts",
                quotable=False,
            ) from None
    return f"{_origin(parts)}/{path}" if path else _origin(parts)


def token_realm(text: str) -> str:
    """A token server: scheme, host, perhaps port and path, without the slash at the end. A host alone means
    https. The path is kept: a realm must be under it."""
    parts = _parts(text if "://" in text else f"https://{text}")
    if "?" in text or "#" in text:
        raise Mistake("must have no query and no fragment", quotable=False)
    path = parts.path.rstrip("/")
    if ".." in path.split("/") or "%" in path or "\\" in path:
        raise Mistake("must have a plain path, without `..`, `%` and backslashes", quotable=False)
    return _origin(parts) + path


def host(text: str) -> str:
    """A host's name or address, without scheme and port, in lower case."""
    name = text.lower().removeprefix("[").removesuffix("]")
    if not _is_host(name, _SERVICE) and not _is_ipv6(name):
        raise Mistake(
            "must be a host's name or address, without scheme, port and path", quotable="@" not in text
        )
    return name


def username(text: str) -> str:
    """RFC 7617, 2: neither a colon nor control characters can be sent."""
    if ":" in text or not text.isprintable():
        raise Mistake("must contain neither a colon nor control characters", quotable=False)
    return text


def _parts(text: str) -> SplitResult:
    if not text.isprintable() or " " in text:  # urlsplit would drop some of these in silence
        raise Mistake("must hold no spaces and no control characters", quotable=False)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise Mistake("must be a URL such as https://registry.example", quotable=False) from None
    if "@" in parts.netloc:
        raise Mistake("must hold no user name and no password: they go under `credentials:`", quotable=False)
    if parts.scheme not in ("http", "https"):
        raise Mistake("must begin with https:// or http://", quotable=False)
    if port == 0 or parts.netloc.endswith(":"):
        raise Mistake("must have a port from 1 to 65535, or none", quotable=False)
    name = parts.hostname or ""
    if not _is_host(name, _SERVICE) and not _is_ipv6(name):
        raise Mistake("must name a host, in ASCII", quotable=False)
    return parts


def _origin(parts: SplitResult) -> str:
    name = parts.hostname or ""
    shown = f"[{ipaddress.IPv6Address(name)}]" if ":" in name else name
    own = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{shown}" + (f":{parts.port}" if parts.port not in (None, own) else "")


def _split_port(text: str) -> tuple[str, str, str]:
    """Host without brackets, colon, port."""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        return host if bracket else "", port[:1], port[1:]
    return text.partition(":")


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) is not None and 1 <= int(text) <= 65535


def _is_host(text: str, grammar: re.Pattern[str]) -> bool:
    return len(text) <= _HOST_LIMIT and grammar.fullmatch(text) is not None


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
