"""The closed forms: what they are where failures are rare, and where they are not."""

from __future__ import annotations

import math

import pytest

from tests.planner.jobs import job, memory, policy, storage
from twinstep.planner.failures import DAY_S, Failures
from twinstep.planner.model import forecast, parts_s, wait_s
from twinstep.planner.policies import MAKERS, Costs


def test_where_failures_are_rare_each_costs_what_equation_1_says() -> None:
    """GEMINI, equation 1, and the recovery that footnote 1 leaves out of it."""
    one = policy(storage(3600, 480, read_s=480))
    failures = Failures(process_per_machine_day=1e-4)
    found = forecast(one, job(), failures)
    cost_s = 480 + 1800 + 480 + 100
    assert found.cost_s == pytest.approx(cost_s)
    assert found.wasted_s == pytest.approx(480 + 1800 + 480)
    lost = found.failures_per_day * cost_s / DAY_S
    assert 1 - found.goodput == pytest.approx(lost, rel=1e-3)


@pytest.mark.parametrize("name", list(MAKERS))
def test_the_parts_of_a_loss_are_what_a_failure_costs(name: str) -> None:
    failures = Failures(machine_per_machine_day=1e-3)
    one = MAKERS[name](job(standbys=1), failures, Costs())
    parts = parts_s(one, job(standbys=1), failures)
    whole = forecast(one, job(standbys=1), failures).cost_s
    assert sum(parts.values()) == pytest.approx(whole, rel=1e-3)


def test_without_failures_only_stalls_cost() -> None:
    found = forecast(policy(storage(3600, 480), slowdown=0.25), job(), Failures())
    assert found.goodput == pytest.approx(0.8)


def test_a_job_that_fails_before_it_has_recovered_hardly_advances() -> None:
    failures = Failures(process_per_machine_day=DAY_S / 16 / 10)  # Every 10 s.
    found = forecast(policy(memory(1, copies=2)), job(), failures)
    assert 0 < found.goodput == pytest.approx(math.exp(-10 - 0.1) * 0.95, rel=0.01)


def test_one_lost_machine_of_one_copy_goes_back_to_storage() -> None:
    failures = Failures(machine_per_machine_day=1 / 16)
    tiers = memory(62, copies=1), storage(7200, 600)
    found = forecast(policy(*tiers), job(), failures)
    assert found.fallbacks_per_day == pytest.approx(1)
    only = forecast(policy(tiers[1]), job(), failures)
    assert found.goodput == pytest.approx(only.goodput, rel=0.01)


def test_copies_make_falling_back_rare() -> None:
    failures = Failures(machine_per_machine_day=1 / 16)
    per_day = [
        forecast(
            policy(memory(62, copies=copies), storage(7200, 600)), job(), failures
        ).fallbacks_per_day
        for copies in (1, 2, 3)
    ]
    # 100 s in which 1 of 15 others is fatal, at one failure a day.
    assert per_day[1] == pytest.approx(100 / DAY_S / 15, rel=0.01)
    assert per_day[2] < per_day[1] / 100


def test_a_place_waits_for_what_is_left_of_the_replacement() -> None:
    """The mean number of failures beyond the standbys while a machine is replaced."""
    failures = Failures(machine_per_machine_day=24 * 4 / 16)  # Four an hour.
    one = policy(storage(62, 62), replace_s=1800.0, standby_s=0.0)
    assert wait_s(job(standbys=0), one, failures) == 1800
    mean = 2.0
    beyond_1 = mean - 1 + math.exp(-mean)
    assert wait_s(job(standbys=1), one, failures) == pytest.approx(beyond_1 * 900)
    beyond_2 = mean - 2 + 2 * math.exp(-mean) + mean * math.exp(-mean)
    assert wait_s(job(standbys=2), one, failures) == pytest.approx(beyond_2 * 900)
    assert wait_s(job(standbys=20), one, failures) == pytest.approx(0, abs=1e-6)


def test_a_rate_beyond_all_bounds_is_a_goodput_of_nothing() -> None:
    failures = Failures(process_per_machine_day=1e5)
    assert forecast(policy(storage(1e6, 10)), job(), failures).goodput == 0
