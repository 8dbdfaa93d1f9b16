"""How often steps are captured, by what copies cost training."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, strategies as st

from twinstep.config import Schedule
from twinstep.schedule.budget import Budget, Change


def run(
    steps: int,
    *,
    noise: float,
    cost: float,
    seed: int = 0,
    budget: Budget | None = None,
    growth: float = 0.0,
    **settings: Any,
) -> tuple[Budget, list[Change]]:
    """A job whose captured steps are longer by `cost`, and vary by `noise`."""
    budget = budget or Budget(settings=Schedule(**settings))
    numbers = random.Random(seed)
    changes = []
    for step in range(1, steps + 1):
        traffic = budget.captures(step)
        step_s = (1 + growth) ** step * (1 + numbers.gauss(0, noise))
        change = budget.took(step_s * (1 + cost * traffic), traffic=traffic)
        changes += [change] if change else []
    return budget, changes


@pytest.mark.parametrize("seed", range(10))
def test_noise_alone_changes_nothing(seed: int) -> None:
    budget, changes = run(3000, noise=0.10, cost=0.0, seed=seed)
    assert (budget.every, changes) == (1, [])


@pytest.mark.parametrize("seed", range(10))
def test_an_overhead_of_three_percent_is_spread_over_three_steps(seed: int) -> None:
    budget, changes = run(3000, noise=0.01, cost=0.03, seed=seed)
    assert budget.every in (3, 4) and 1 <= len(changes) <= 3
    assert "copies lengthen steps by" in changes[0].reason
    assert "more than 1.0%" in changes[0].reason


@pytest.mark.parametrize("seed", range(5))
def test_more_samples_see_through_more_noise(seed: int) -> None:
    budget, changes = run(5000, noise=0.03, cost=0.03, seed=seed)
    assert changes and budget.every in (2, 3, 4)


def test_an_overhead_within_the_budget_changes_nothing() -> None:
    budget, changes = run(3000, noise=0.002, cost=0.008)
    assert (budget.every, changes) == (1, [])
    overhead = budget.overhead
    assert overhead is not None
    assert overhead.mean == pytest.approx(0.008, abs=0.002)
    assert 0 < overhead.noise < 0.002 and overhead.samples == 150


def test_steps_that_grow_longer_are_no_overhead() -> None:
    _, changes = run(3000, noise=0.002, cost=0.0, growth=0.0003)
    assert changes == [], "from 1 s to 2.5 s"


def test_rare_steps_that_take_long_are_no_overhead() -> None:
    budget = Budget(settings=Schedule())
    for step in range(1, 3001):
        traffic = budget.captures(step)
        step_s = 60.0 if step % 50 == 0 else 1.0 + step % 7 * 0.001
        assert budget.took(step_s, traffic=traffic) is None


def test_captures_come_oftener_again_when_they_cost_less() -> None:
    budget, _ = run(2000, noise=0.002, cost=0.05)
    assert budget.every >= 5
    run(20_000, noise=0.002, cost=0.0, budget=budget)
    assert budget.every == 1


def test_it_settles() -> None:
    budget, changes = run(20_000, noise=0.002, cost=0.05)
    assert budget.every in (5, 6, 7) and len(changes) <= 3


def test_not_rarer_than_allowed() -> None:
    budget, changes = run(3000, noise=0.001, cost=5.0, every_max=4)
    assert (budget.every, len(changes)) == (4, 1)


def test_not_oftener_than_the_timetables_allow() -> None:
    budget = Budget(settings=Schedule(every_max=16))
    budget.fits(3)
    assert budget.every == 3
    run(20_000, noise=0.001, cost=0.0, budget=budget)
    assert budget.every == 3
    budget.fits(0)
    assert budget.every == 16, "it does not fit at all: as rarely as allowed"
    budget.fits(1)
    assert budget.every == 1


def test_what_was_measured_at_another_frequency_is_forgotten() -> None:
    budget, _ = run(1000, noise=0.001, cost=0.005)
    assert budget.overhead is not None
    budget.fits(1)
    assert budget.overhead is not None, "nothing has changed"
    budget.fits(2)
    assert budget.overhead is None


@given(st.integers(0, 8).filter(lambda n: n != 1), st.integers(1, 5))
def test_single_captures_are_left_out(withhold_every: int, every: int) -> None:
    budget = Budget(settings=Schedule(withhold_every=withhold_every))
    budget.fits(every)
    captured = [step for step in range(1, 200) if budget.captures(step)]
    apart = [b - a for a, b in itertools.pairwise(captured)]
    assert set(apart) <= {every, every + 1}, "one step later, never two"
    late = [i for i, steps in enumerate(apart) if steps == every + 1]
    if withhold_every == 0:
        assert late == []
    else:
        assert len(late) >= len(captured) // withhold_every
        between = {b - a for a, b in itertools.pairwise(late)}
        assert between <= {withhold_every - 1}


def test_after_a_fall_back_captures_go_on() -> None:
    budget = Budget(settings=Schedule(withhold_every=0))
    budget.fits(10)
    assert budget.captures(100) and not budget.captures(105)
    assert budget.captures(42), "step 42 comes again"
    assert not budget.captures(43) and budget.captures(52)


def test_steps_that_seem_to_take_no_time_say_nothing() -> None:
    budget = Budget(settings=Schedule())
    for step in range(1, 3000):
        assert budget.took(0.0, traffic=budget.captures(step)) is None
    assert budget.overhead is None and budget.every == 1
