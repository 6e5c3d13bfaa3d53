"""Generations: what one process writes in shared memory, another sees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from entrepot.cache.generation import Generations, create_shared
from hypothesis import given
from hypothesis import strategies as st

KEYS = [f"docker.io/library/image-{number}:latest#0" for number in range(50)]


@pytest.fixture
def shared() -> Iterator[int]:
    descriptor = create_shared()
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def pair(shared: int) -> Iterator[tuple[Generations, Generations]]:
    one, other = Generations(shared, 1), Generations(shared, 2)
    yield one, other
    one.close()
    other.close()


def test_a_change_by_one_is_seen_by_the_other(pair: tuple[Generations, Generations]) -> None:
    one, other = pair
    for key in KEYS:
        group = Generations.group(key)
        before = other.read(group)
        one.bump(group)
        assert other.read(group) == one.read(group) != before


def test_groups_are_the_same_in_every_process_and_there_are_many() -> None:
    # Not `hash`, which differs from process to process.
    assert Generations.group("docker.io/library/nginx:latest#0") == 3387
    assert len({Generations.group(key) for key in KEYS}) > 40


def test_other_groups_stay_as_they_are(pair: tuple[Generations, Generations]) -> None:
    one, other = pair
    other_groups = {Generations.group(key) for key in KEYS} - {Generations.group(KEYS[0])}
    one.bump(Generations.group(KEYS[0]))
    assert all(other.read(group) == 0 for group in other_groups)


@given(st.lists(st.tuples(st.sampled_from([1, 2, 65_535]), st.integers(0, 2)), max_size=40))
def test_no_value_comes_twice_in_a_group(writes: list[tuple[int, int]]) -> None:
    descriptor = create_shared()
    writers = {number: Generations(descriptor, number) for number in (1, 2, 65_535)}
    os.close(descriptor)
    seen: set[tuple[int, int]] = {(group, 0) for group in range(3)}
    for number, group in writes:
        writers[number].bump(group)
        value = (group, writers[1].read(group))
        assert value not in seen
        seen.add(value)
    for writer in writers.values():
        writer.close()


def test_a_successor_with_the_same_number_repeats_nothing(shared: int) -> None:
    reader = Generations(shared, 2)
    seen: set[int] = set()
    for _ in range(3):  # a worker of slot 1 that is killed and started again
        writer = Generations(shared, 1)
        for _ in range(3):
            writer.bump(7)
            assert reader.read(7) not in seen
            seen.add(reader.read(7))
        writer.close()
    reader.close()


def test_threads_of_one_process_repeat_nothing() -> None:
    generations = Generations()

    def bump() -> None:
        for _ in range(2000):
            generations.bump(3)

    with ThreadPoolExecutor(4) as threads:
        for work in [threads.submit(bump) for _ in range(4)]:
            work.result()
    assert generations.read(3) >> 16 == 8000
    generations.close()


def test_the_memory_outlives_the_descriptor_and_lies_on_no_disk() -> None:
    descriptor = create_shared()
    assert os.fstat(descriptor).st_nlink == 0
    assert not os.get_inheritable(descriptor)
    generations = Generations(descriptor, 1)
    os.close(descriptor)
    generations.bump(0)
    assert generations.read(0) > 0
    generations.close()
