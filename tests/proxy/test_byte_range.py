"""`Range` headers: a parser with laws."""

from __future__ import annotations

import pytest
from entrepot.proxy.byte_range import LIMIT, ByteRange, Unsatisfiable, parse
from hypothesis import given
from hypothesis import strategies as st

SIZE = 1000


@pytest.mark.parametrize(
    ("header", "ranges"),
    [
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-", [(0, 1000)]),
        ("bytes=990-", [(990, 1000)]),
        ("bytes=-10", [(990, 1000)]),
        ("bytes=-5000", [(0, 1000)]),
        ("bytes=10-5000", [(10, 1000)]),
        ("bytes = 1-2", [(1, 3)]),
        ("Bytes=1-2", [(1, 3)]),
        ("bytes=0-9,20-29", [(0, 10), (20, 30)]),
        ("bytes=20-29 , 0-9", [(20, 30), (0, 10)]),
        ("bytes=0-9,5-14", [(0, 15)]),
        ("bytes=5-14,100-199,0-9", [(0, 15), (100, 200)]),
        ("bytes=0-9,,20-29,", [(0, 10), (20, 30)]),
        ("bytes=0-9,2000-3000", [(0, 10)]),
        ("bytes=0-999,0-999,0-999", [(0, 1000)]),
    ],
)
def test_what_is_asked_for(header: str, ranges: list[tuple[int, int]]) -> None:
    assert parse(header, SIZE) == tuple(ByteRange(*pair) for pair in ranges)


@pytest.mark.parametrize(
    "header",
    ["", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-2", "items=0-1", "bytes=1-2-3", "bytes=0x1-2"],
)
def test_what_is_to_be_ignored(header: str) -> None:
    assert parse(header, SIZE) is None


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=5000-6000", "bytes=-0", "bytes=1000-,2000-"])
def test_what_is_not_there(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        parse(header, SIZE)


def test_nothing_of_an_empty_blob_is_there() -> None:
    with pytest.raises(Unsatisfiable):
        parse("bytes=0-", 0)


def test_so_many_ranges_and_no_more() -> None:
    specs = [f"{2 * number}-{2 * number}" for number in range(LIMIT)]
    ranges = parse("bytes=" + ",".join(specs), 10 * LIMIT)
    assert ranges is not None
    assert len(ranges) == LIMIT
    with pytest.raises(Unsatisfiable):
        parse("bytes=" + ",".join([*specs, "9000-9000"]), 10 * LIMIT)


pairs = st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 600)), min_size=1, max_size=20)


@given(pairs)
def test_the_ranges_cover_what_was_asked_for_once_and_nothing_else(asked: list[tuple[int, int]]) -> None:
    header = "bytes=" + ",".join(f"{start}-{start + more}" for start, more in asked)
    wanted = {byte for start, more in asked for byte in range(start, min(start + more + 1, SIZE))}
    try:
        ranges = parse(header, SIZE)
    except Unsatisfiable:
        assert not wanted
        return
    assert ranges is not None
    given_out = [byte for part in ranges for byte in range(part.start, part.end)]
    assert len(given_out) == len(set(given_out))
    assert set(given_out) == wanted


@given(st.text(max_size=200))
def test_nothing_that_a_client_sends_breaks_the_parser(header: str) -> None:
    try:
        ranges = parse(header, SIZE)
    except Unsatisfiable:
        return
    assert ranges is None or all(0 <= part.start < part.end <= SIZE for part in ranges)
