"""The verdict on a tag, row by row."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from entrepot.cache.digest import Digest
from entrepot.cache.index import TagEntry
from entrepot.cache.revalidation import Rules, Verdict, judge
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_700_000_000.0
RULES = Rules(ttl=60.0, negative_ttl=10.0, stale_if_error=math.inf)
ENTRY = TagEntry(
    Digest.of(b"manifest"), "application/json", 8, first_seen_at=NOW - 500, confirmed_at=NOW - 30
)


def test_nothing_known_is_a_miss() -> None:
    assert judge(None, RULES, NOW, NOW).verdict is Verdict.MISS


@pytest.mark.parametrize(
    ("entry", "rules", "verdict", "usable"),
    [
        (ENTRY, RULES, Verdict.FRESH, True),
        (replace(ENTRY, confirmed_at=NOW - 60), RULES, Verdict.ASK, True),
        (replace(ENTRY, confirmed_at=NOW - 60), replace(RULES, stale_if_error=59.0), Verdict.ASK, False),
        (ENTRY, replace(RULES, ttl=0.0), Verdict.ASK, True),
        # a clock that jumped back makes nothing fresh
        (replace(ENTRY, confirmed_at=NOW + 3600), RULES, Verdict.ASK, True),
        # it failed only just now, and some time ago
        (replace(ENTRY, confirmed_at=NOW - 99, failed_at=NOW - 5), RULES, Verdict.STALE, True),
        (replace(ENTRY, confirmed_at=NOW - 99, failed_at=NOW - 15), RULES, Verdict.BEHIND, True),
        (
            replace(ENTRY, confirmed_at=NOW - 99, failed_at=NOW - 5),
            replace(RULES, stale_if_error=0.0),
            Verdict.FAILED,
            False,
        ),
        # the upstream deleted it
        (replace(ENTRY, gone_at=NOW - 5), RULES, Verdict.GONE, False),
        (replace(ENTRY, gone_at=NOW - 15), RULES, Verdict.ASK, False),
        (replace(ENTRY, gone_at=NOW - 5), replace(RULES, serve_gone=True), Verdict.STALE, True),
        (replace(ENTRY, gone_at=NOW - 15), replace(RULES, serve_gone=True), Verdict.ASK, True),
        (replace(ENTRY, gone_at=NOW - 99, failed_at=NOW - 5), RULES, Verdict.FAILED, False),
    ],
)
def test_what_is_known_decides(entry: TagEntry, rules: Rules, verdict: Verdict, usable: bool) -> None:
    judgement = judge(entry, rules, NOW, arrived_at=NOW)
    assert (judgement.verdict, judgement.usable) == (verdict, usable)


def test_with_no_ttl_an_answer_serves_all_who_had_come_before_it() -> None:
    rules = replace(RULES, ttl=0.0)
    entry = replace(ENTRY, confirmed_at=NOW)
    assert judge(entry, rules, NOW, arrived_at=NOW - 0.1).verdict is Verdict.FRESH
    assert judge(entry, rules, NOW + 1, arrived_at=NOW + 0.5).verdict is Verdict.ASK


def test_a_variant_is_stale_once_what_it_came_from_has_moved() -> None:
    assert judge(ENTRY, RULES, NOW, NOW, outdated=True).verdict is Verdict.ASK


times = st.floats(NOW - 1e6, NOW + 1e6)
entries = st.builds(
    replace,
    st.just(ENTRY),
    confirmed_at=times,
    failed_at=st.none() | times,
    gone_at=st.none() | times,
)
rules = st.builds(
    Rules,
    ttl=st.floats(0, 1e6),
    negative_ttl=st.floats(0, 1e6),
    stale_if_error=st.floats(0, 1e6) | st.just(math.inf),
    serve_gone=st.booleans(),
)


@given(entries, rules, times)
def test_nothing_is_served_unasked_that_is_neither_fresh_nor_usable(
    entry: TagEntry, rules: Rules, arrived_at: float
) -> None:
    judgement = judge(entry, rules, NOW, arrived_at)
    if judgement.verdict in (Verdict.STALE, Verdict.BEHIND):
        assert judgement.usable
    if judgement.verdict is Verdict.FRESH:
        assert entry.gone_at is None
        assert NOW - entry.confirmed_at < rules.ttl or arrived_at <= entry.confirmed_at
        assert entry.confirmed_at <= NOW
    if entry.gone_at is not None and not rules.serve_gone:
        assert judgement.verdict not in (Verdict.FRESH, Verdict.STALE, Verdict.BEHIND)
