"""Sizes, durations, addresses and names: what is read, and that it is read back."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from entrepot.proxy.config import format_duration, format_size
from entrepot.proxy.config.model import Address
from entrepot.proxy.config.problem import Mistake
from entrepot.proxy.config.values import (
    address,
    duration,
    duration_or_forever,
    prefix,
    share,
    size,
    tag_pattern,
    token_realm,
    truth,
    upstream_name,
    url,
)
from hypothesis import given, settings
from hypothesis import strategies as st

unhurried = settings(deadline=None)  # a shared machine may stall for longer than any example takes


@unhurried
@given(st.integers(0, 2**63 - 1))
def test_sizes_are_read_back(counted: int) -> None:
    assert size(format_size(counted)) == counted


@unhurried
@given(st.integers(0, 100 * 365 * 86_400_000))
def test_durations_are_read_back(milliseconds: int) -> None:
    assert duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@unhurried
@given(st.ip_addresses(), st.integers(0, 65535))
def test_addresses_are_read_back(ip: object, port: int) -> None:
    found = Address(str(ip), port)
    assert address(str(found)) == found


def mistake_in(text: str, read: Callable[[str], object]) -> str:
    try:
        read(text)
    except Mistake as mistake:
        return str(mistake)
    return ""


@unhurried
@given(st.text())
def test_any_text_is_a_value_or_a_mistake_on_one_line(text: str) -> None:
    for read in (size, share, duration, address, truth, upstream_name, prefix, url, token_realm, tag_pattern):
        assert mistake_in(text, read).isprintable()


@unhurried
@given(st.from_regex(r"[a-z0-9.:/@?#\[\]%_-]{1,40}", fullmatch=True))
def test_a_url_is_read_the_same_twice(text: str) -> None:
    try:
        found = url(f"https://{text}")
    except Mistake:
        return
    assert url(found) == found


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("0", 0),
        ("1B", 1),
        ("500MB", 500_000_000),
        ("50GiB", 50 * 1024**3),
        ("50 gib", 50 * 1024**3),
        ("1.5TiB", 3 * 1024**4 // 2),
        ("1KB", 1000),
        ("1kB", 1000),
    ],
)
def test_sizes(text: str, counted: int) -> None:
    assert size(text) == counted


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1GB", "1e3MB", "1.GB", "1,5GB", "9EiB", "5%", "0x10B", "1GBs", "١GB"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(Mistake):
        size(text)


@pytest.mark.parametrize(
    ("counted", "text"),
    [(0, "0B"), (10**10, "10GB"), (50 * 1024**3, "50GiB"), (1023, "1023B"), (1536, "1536B")],
)
def test_sizes_are_written_short(counted: int, text: str) -> None:
    assert format_size(counted) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("15m", 900.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("2w", 1_209_600.0),
        ("1d1ms", 86_400.001),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "m", "1", "30m1h", "1m1m", "-1s", "1h30", "1:30", "101y", "99999w", "1S"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(Mistake):
        duration(text)


def test_forever() -> None:
    assert duration_or_forever("forever") == math.inf
    assert duration_or_forever("1s") == 1.0
    assert format_duration(math.inf) == "forever"
    assert format_duration(5400.0) == "1h30m"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://quay.io", "https://quay.io"),
        ("HTTPS://Quay.IO:443/", "https://quay.io"),
        ("http://registry_1:5000", "http://registry_1:5000"),
        ("http://[::1]:80/a/b//", "http://[::1]/a/b"),
        ("https://h:80", "https://h:80"),
    ],
)
def test_urls(text: str, expected: str) -> None:
    assert url(text) == expected


def test_token_realms_keep_their_path() -> None:
    assert token_realm("auth.example") == "https://auth.example"
    assert token_realm("auth.example:443/") == "https://auth.example"
    assert token_realm("http://auth.example:8080/token") == "http://auth.example:8080/token"
    assert token_realm("https://Git.example/jwt/Auth/") == "https://git.example/jwt/Auth"


@pytest.mark.parametrize(
    "text", ["https://a/b/../c", "https://a/%2e%2e/", "https://a?b", "ftp://a", "u:p@a", "a b"]
)
def test_no_token_realms(text: str) -> None:
    with pytest.raises(Mistake):
        token_realm(text)


@pytest.mark.parametrize(
    "text", ["quay.io", "localhost", "localhost:5000", "registry:5000", "10.0.0.1", "[::1]:5000"]
)
def test_names_of_upstreams(text: str) -> None:
    assert upstream_name(text) == text


@pytest.mark.parametrize(
    "text", ["", "a", "a:", "a:0", "[::1", "[x]:1", "::1", "a..b", "a.b.", "a b", "a_b.c", "é.fr"]
)
def test_no_names_of_upstreams(text: str) -> None:
    with pytest.raises(Mistake):
        upstream_name(text)


@pytest.mark.parametrize("text", ["latest", "latest|main", "[0-9]*.[0-9]*", "v?", "[!v]*", "*"])
def test_patterns_of_tags(text: str) -> None:
    assert tag_pattern(text) == text


@pytest.mark.parametrize("text", ["", "|", "a|", "a | b", "^v", r"v\d+", "[", "[]", "a/b", "v(1|2)"])
def test_no_patterns_of_tags(text: str) -> None:
    with pytest.raises(Mistake):
        tag_pattern(text)
