"""Equation 1 and its constraint, and the intervals that follow."""

from __future__ import annotations

import math

import pytest

from tests.planner.jobs import job, storage
from twinstep.errors import ConfigError
from twinstep.planner.failures import Failures
from twinstep.planner.policies import MAKERS, Costs, every, policies
from twinstep.planner.policy import interval_best_s, interval_min_s, wasted_s


def test_equation_1_on_mt_nlg() -> None:
    """GEMINI, section 2.2: 42 min to write, so 42 + 21 + 42 = 105 min are wasted."""
    assert wasted_s(checkpoint_s=42, interval_s=42, read_s=42) == 105


def test_constraint_2_holds() -> None:
    """GEMINI, section 2.1: 1/f >= max(t_ckpt, T_iter)."""
    with pytest.raises(ConfigError, match="interval_s .60. must be at least"):
        wasted_s(checkpoint_s=61, interval_s=60, read_s=0)
    assert interval_min_s(480, step_s=62) == 8 * 62
    assert interval_min_s(0.1, step_s=62) == 62
    # A rounding error is no further step.
    assert interval_min_s(0.1 + 0.2, step_s=0.1) == pytest.approx(0.3)


def test_the_best_interval_is_young_s_where_stalls_are_short() -> None:
    young_s = math.sqrt(2 * 1 * 1e6)
    assert interval_best_s(1, between_s=1e6) == pytest.approx(young_s, rel=2e-3)


def test_the_best_interval_costs_least() -> None:
    """Of stalls (s / I) and lost training (I / 2M), over a fine grid of intervals, with
    the exact share for failures at any instant (Daly 2006)."""
    stall_s, between_s = 60.0, 3000.0

    def share(interval_s: float) -> float:
        whole_s = interval_s + stall_s
        return interval_s / between_s / math.expm1(whole_s / between_s)

    grid = [10.0 * n for n in range(10, 200)]
    best_s = max(grid, key=share)
    assert interval_best_s(stall_s, between_s=between_s) == pytest.approx(
        best_s, abs=20
    )


def test_the_best_interval_of_a_stall_that_is_longer_than_failures_are_apart() -> None:
    assert interval_best_s(100, between_s=40) == 40


def test_the_baselines_are_those_of_the_paper() -> None:
    """GEMINI, section 7.1: every 3 h, and as often as t_ckpt allows; section 7.3: both
    write with torch.save, 81 s a checkpoint."""
    made = {p.name: p for p in policies(job(), Failures(), Costs())}
    strawman, highfreq = made["strawman"].tiers[0], made["highfreq"].tiers[0]
    assert strawman.interval_s == 10_800
    # 81 s of torch.save and 480 s of writing; nine iterations of Figure 7's 64.9 s.
    assert highfreq.delay_s == pytest.approx(561)
    assert highfreq.interval_s == 10 * 62
    assert made["highfreq"].slowdown == pytest.approx(81 / (10 * 62))
    figure_7 = MAKERS["highfreq"](job(step_s=64.9), Failures(), Costs())
    assert figure_7.tiers[0].interval_s == pytest.approx(9 * 64.9)
    gemini = made["gemini"]
    assert gemini.tiers[0].interval_s == gemini.tiers[0].delay_s == 62
    assert gemini.tiers[0].read_s["machine"] < 5
    # Figure 14: 15 + 162 + 253 s.
    assert gemini.recovery.fixed_s("process") == pytest.approx(430)
    assert list(made) == list(MAKERS)


def test_copies_that_do_not_fit_a_step_lower_the_frequency() -> None:
    slow = job(network_bytes_per_s=job().network_bytes_per_s / 10)
    assert every(job()) == 1
    assert every(slow) == 4  # 25 s into 0.8 of 9.3 s
    twinstep = MAKERS["twinstep"](slow, Failures(), Costs())
    assert twinstep.tiers[0].interval_s == 4 * 62
    assert "every 4 steps" in twinstep.notes[0]
    assert every(job(copies=1, idle_share=0)) == 1
    assert every(job(idle_share=0)) == 64


def test_no_checkpoint_begins_before_the_last_is_complete() -> None:
    """Constraint 2, of every policy, for many jobs."""
    for gbps in (1, 20, 400, 10_000):
        for step_s in (0.5, 10, 62):
            one = job(step_s=step_s, storage_bytes_per_s=gbps * 1e9 / 8)
            for policy in policies(one, Failures(machine_per_machine_day=0.1), Costs()):
                for tier in policy.tiers:
                    assert tier.interval_s >= min(tier.delay_s, 1e9) - 1e-6, policy.name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"copies": 17}, "copies .17. must be at most machines .16."),
        ({"machines": 0}, "machines is 0"),
        ({"storage_bytes_per_s": 0.0}, "storage_bytes_per_s is 0; it must be more"),
        ({"step_s": float("nan")}, "step_s is nan"),
        ({"step_s": float("inf")}, "step_s is inf"),
        ({"idle_share": 1.5}, "idle_share is 1.5; at least 0, at most 1"),
        ({"standbys": -1}, "standbys is -1"),
        ({"memory_bytes": -1.0}, "memory_bytes is -1"),
        ({"parameters": float("nan")}, "parameters is nan"),
    ],
)
def test_an_impossible_job_is_refused(change: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        job(**change)


def test_a_tier_without_an_interval_is_refused() -> None:
    with pytest.raises(ConfigError, match="interval_s is 0"):
        storage(0.0, 1.0)
