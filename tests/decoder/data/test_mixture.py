"""Exact proportions in each block, all examples once an epoch, any order."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st

from twinstep.decoder.data.mixture import (
    BLOCK,
    Mixture,
    Permutation,
    Stage,
    Table,
    apportion,
    uniform,
)
from twinstep.errors import UsageError

EARLY = Stage(weights={"a": 0.5, "b": 0.3, "c": 0.2}, share=3)
LATE = Stage(weights={"c": 9, "a": 1})
MIXTURE = Mixture(stages=(EARLY, LATE))
SIZES = (100, 37, 900)
TABLE = Table(MIXTURE, SIZES, 5).after(1000)


def test_every_block_has_exactly_what_its_stage_says() -> None:
    for block in range(12):
        places = [TABLE[n] for n in range(block * BLOCK, (block + 1) * BLOCK)]
        found = Counter(place.task for place in places)
        expected = {0: 128, 1: 77, 2: 51} if block * BLOCK < 1024 else {0: 26, 2: 230}
        assert found == expected, block


def test_tasks_are_spread_evenly_over_a_block() -> None:
    for start in range(0, BLOCK, 32):
        found = Counter(TABLE[n].task for n in range(start, start + 32))
        assert abs(found[0] - 16) <= 1
        assert abs(found[1] - 9.6) <= 1.7


def test_every_example_is_shown_once_an_epoch_and_in_another_order_next() -> None:
    shown: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for n in range(8 * BLOCK):
        place = TABLE[n]
        shown[place.task].append(place.item)
    for task, size in enumerate(SIZES):
        epochs = [
            tuple(shown[task][at : at + size])
            for at in range(0, len(shown[task]) - size + 1, size)
        ]
        assert epochs, task
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len(set(epochs)) == len(epochs)


def test_any_order_gives_the_same_as_one_after_the_other() -> None:
    order = list(range(2000))
    expected = [TABLE[n] for n in order]
    random.Random(1).shuffle(order)
    again = Table(MIXTURE, SIZES, 5, begins=TABLE.begins)
    assert {n: again[n] for n in order} == dict(enumerate(expected))


def test_another_seed_is_another_order_in_the_same_proportions() -> None:
    other = Table(MIXTURE, SIZES, 6).after(1000)
    assert [other[n].task for n in range(500)] == [TABLE[n].task for n in range(500)]
    assert [other[n].item for n in range(500)] != [TABLE[n].item for n in range(500)]


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(max_examples=50, deadline=None)
def test_a_permutation_has_every_member_once(size: int, seed: int) -> None:
    order = Permutation(size, seed)
    assert sorted(order[index] for index in range(size)) == list(range(size))


def test_a_permutation_moves_neighbours_apart() -> None:
    order = Permutation(10_000, 3)
    steps = [abs(order[i + 1] - order[i]) for i in range(9999)]
    # Of two places drawn at random the distance is a third of the whole on average.
    assert 3000 < sum(steps) / len(steps) < 3700


@given(st.lists(st.floats(0.05, 10), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_an_apportionment_is_whole_and_close(weights: list[float]) -> None:
    counts = apportion([*weights, 0.0], 4096)
    assert sum(counts) == 4096
    assert counts[-1] == 0
    for weight, count in zip(weights, counts, strict=False):
        assert abs(count - weight / sum(weights) * 4096) < 1


def test_steps_of_the_stages_are_all_steps() -> None:
    assert MIXTURE.steps(1000) == [750, 250]
    assert MIXTURE.steps(1) == [1, 0]
    assert uniform(["b", "a"]).tasks == ("a", "b")


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ((), "at least one"),
        ((Stage(weights={}),), "above 0"),
        ((Stage(weights={"a": 0.0}),), "above 0"),
        ((Stage(weights={"a": 1.0}, share=0),), "above 0"),
        ((Stage(weights={"a": 1.0, "b": -1.0}),), "below 0"),
    ],
)
def test_a_mixture_that_shows_nothing_is_refused(
    stages: tuple[Stage, ...], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        Mixture(stages=stages)


def test_a_weight_too_small_and_a_task_without_examples_are_refused() -> None:
    with pytest.raises(UsageError, match="less than 1/256"):
        Table(Mixture(stages=(Stage(weights={"a": 1, "b": 1e-4}),)), (5, 5), 0)[0]
    with pytest.raises(UsageError, match="no training examples of b"):
        Table(uniform(["a", "b"]), (5, 0), 0)
