"""When it is worth trying again, and what upstreams say of it."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from entrepot.cache.errors import SourceUnavailable
from entrepot.proxy.upstream.retry import Again, Retry, retry_after
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("7", 7.0),
        ("0", 1.0),
        ("1000000000000", 3600.0),
        ("9" * 5000, 3600.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("1.5", None),
        ("٣", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
    ],
)
def test_retry_after(value: str | None, expected: float | None) -> None:
    assert retry_after(value, 1_700_000_000.0) == expected


def test_retry_after_as_a_date() -> None:
    date = format_datetime(datetime.fromtimestamp(1_700_000_090, UTC), usegmt=True)
    assert retry_after(date, 1_700_000_000.0) == 90.0


@given(st.text() | st.text(alphabet="0123456789 :,-+GMTWedOct"), st.floats(0, 4e9))
def test_retry_after_may_be_anything(value: str, now: float) -> None:
    seconds = retry_after(value, now)
    assert seconds is None or 1 <= seconds <= 3600


class Attempts:
    """Fails as long as there are failures, then gives `done`."""

    def __init__(self, *failures: Again) -> None:
        self.failures = list(failures)
        self.slept: list[float] = []

    async def __call__(self) -> str:
        if self.failures:
            raise self.failures.pop(0)
        return "done"

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def again(wait: float | None = None) -> Again:
    return Again(SourceUnavailable("down"), wait)


async def test_waits_are_random_and_may_be_twice_as_long_each_time() -> None:
    attempts, dice = Attempts(again(), again()), iter([0.5, 0.1])
    retry = Retry(sleep=attempts.sleep, dice=lambda: next(dice))
    assert await retry(attempts) == "done"
    assert attempts.slept == [0.125, 0.05]


async def test_the_third_failure_is_the_last() -> None:
    attempts = Attempts(again(), again(), again(), again())
    with pytest.raises(SourceUnavailable, match="down"):
        await Retry(sleep=attempts.sleep)(attempts)
    assert len(attempts.failures) == 1


async def test_what_asks_for_much_time_is_not_tried_again_and_for_a_little_gets_it() -> None:
    attempts = Attempts(again(1.5), again(3.0))
    with pytest.raises(SourceUnavailable):
        await Retry(sleep=attempts.sleep)(attempts)
    assert attempts.slept == [1.5]
