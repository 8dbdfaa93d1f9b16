"""Samples agree with closed forms where those apply, and go on where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.planner.jobs import job, memory, policy, storage
from twinstep.errors import ConfigError
from twinstep.planner.failures import DAY_S, Domain, Event, Failures
from twinstep.planner.model import forecast, wait_s
from twinstep.planner.policies import Costs, policies
from twinstep.planner.policy import Policy
from twinstep.planner.sampling import Outcome, sample
from twinstep.planner.spares import Spares

ERRORS = 4.0
"""Standard errors that a mean may be off: one in 15,000."""


def draw(
    one: Policy, failures: Failures, *, days: float = 60.0, **changes: float
) -> Outcome:
    found = sample([one], job(**changes), failures, days=days, samples=300, seed=7)
    return found[one.name]


def agrees(outcome: Outcome, share: float, *, besides: float = 2e-4) -> bool:
    """Whether a share is that of the samples; `besides`: what the ends of a job, which
    closed forms leave out, may come to."""
    return abs(outcome.goodput - share) < ERRORS * outcome.error + besides


@pytest.mark.parametrize("per_day", [1, 15, 150])
@pytest.mark.parametrize("slowdown", [0.0, 0.15])
def test_storage_alone_agrees_with_the_exact_share(
    per_day: float, slowdown: float
) -> None:
    one = policy(storage(1800, 480, read_s=240), slowdown=slowdown)
    failures = Failures(process_per_machine_day=per_day / 16)
    outcome = draw(one, failures)
    assert agrees(outcome, forecast(one, job(), failures).goodput, besides=1e-3)
    assert outcome.failures_per_day == pytest.approx(per_day, rel=0.02)


def test_copies_that_fall_back_agree() -> None:
    one = policy(memory(62, copies=2), storage(7200, 600, read_s=600))
    failures = Failures(process_per_machine_day=5 / 16, machine_per_machine_day=50 / 16)
    outcome = draw(one, failures)
    found = forecast(one, job(), failures)
    assert outcome.fallbacks_per_day == pytest.approx(found.fallbacks_per_day, rel=0.1)
    assert found.fallbacks_per_day > 0.1
    assert agrees(outcome, found.goodput, besides=0.004)


def test_a_machine_s_own_disk_agrees() -> None:
    one = policy(memory(62, copies=1), storage(7200, 600, read_s=600))
    failures = Failures(process_per_machine_day=0.5, machine_per_machine_day=0.1)
    assert agrees(
        draw(one, failures), forecast(one, job(), failures).goodput, besides=2e-3
    )


def test_what_becomes_of_the_time_adds_up() -> None:
    failures = Failures(process_per_machine_day=0.5, machine_per_machine_day=1.0)
    every = policies(job(standbys=1), failures, Costs())
    found = sample(every, job(standbys=1), failures, days=20, samples=50, seed=1)
    assert set(found) == {one.name for one in every}
    for name, outcome in found.items():
        parts = outcome.goodput + outcome.slowed + outcome.lost + outcome.recovering
        # What is trained and not yet kept when the days are over counts as useful.
        assert parts == pytest.approx(1, abs=1e-9), name
        assert outcome.low <= outcome.goodput <= outcome.high or outcome.error < 1e-3


def test_standbys_shorten_recoveries_as_the_closed_form_says() -> None:
    one = policy(memory(62, copies=2), storage(7200, 0), replace_s=1800.0)
    failures = Failures(machine_per_machine_day=10 / 16)
    shares: list[float] = []
    for standbys in (0, 1, 2):
        outcome = draw(one, failures, standbys=standbys)
        shares.append(outcome.recovering)
        waits_s = wait_s(job(standbys=standbys), one, failures)
        expected = 10 * (100 + waits_s) / DAY_S
        assert outcome.recovering == pytest.approx(expected, rel=0.12)
    assert shares == sorted(shares, reverse=True)


def test_spares_come_back_in_the_order_they_were_asked_for() -> None:
    spares = Spares(standbys=2, samples=1, replace_s=100.0)
    all_ = np.array([0])

    def take(machines: int, now_s: float) -> float:
        return float(spares.take(all_, machines, np.array([now_s]))[0])

    assert take(1, 0.0) == 0
    assert take(1, 10.0) == 0
    assert take(1, 20.0) == 80  # The first one's replacement comes at 100.
    assert take(1, 105.0) == 5  # The second's at 110.
    assert take(2, 500.0) == 0
    assert take(3, 1000.0) == 100  # More than there are.
    assert take(1, 1050.0) == 50


def test_a_lost_domain_loses_nothing_where_holders_are_apart() -> None:
    one = policy(memory(62, copies=2), storage(7200, 600))

    def falls(apart: bool) -> float:
        racks = Domain(name="rack", machines=4, per_day=0.5, apart=apart)
        outcome = draw(one, Failures(domains=(racks,)))
        assert outcome.failures_per_day == pytest.approx(2, rel=0.05)
        return outcome.fallbacks_per_day

    assert falls(False) == pytest.approx(2, rel=0.05)
    assert falls(True) < 0.01


def test_a_trace_is_drawn_again_and_again() -> None:
    """Two failures an hour, 600 s apart, of which the second meets a recovery."""
    trace = (Event(at_s=3000.0, cause="process"), Event(at_s=3600.0, cause="process"))
    one = policy(storage(60, 0), start_s=690.0)  # 700 s in all.
    found = sample([one], job(), Failures(), days=30, samples=8, trace=trace)
    outcome = found["tried"]
    assert outcome.failures_per_day == pytest.approx(48, rel=0.01)
    # 600 s of recovery, then 700 s more; the rest of 3,600 s, less what was not saved.
    assert outcome.recovering == pytest.approx(1300 / 3600, rel=0.01)
    assert outcome.goodput == pytest.approx(2280 / 3600, rel=0.02)


@pytest.mark.parametrize(
    ("at_s", "says"), [(0.0, "all at 0 s"), (1e-3, "use fewer days")]
)
def test_a_trace_that_would_not_end_is_refused(at_s: float, says: str) -> None:
    trace = [Event(at_s=0.0)] * 300 + [Event(at_s=at_s)]
    with pytest.raises(ConfigError, match=says):
        sample(
            [policy(storage(60, 0))], job(), Failures(), days=9, samples=1, trace=trace
        )


def test_the_same_seed_draws_the_same_months() -> None:
    one = policy(storage(1800, 480))
    failures = Failures(process_per_machine_day=1.0)
    first, second = draw(one, failures), draw(one, failures)
    assert first == second
    other = sample([one], job(), failures, days=60, samples=300, seed=8)["tried"]
    assert other.goodput != first.goodput


def test_nothing_fails() -> None:
    outcome = draw(policy(storage(60, 0), slowdown=0.25), Failures())
    assert (outcome.goodput, outcome.slowed, outcome.lost) == (
        0.8,
        pytest.approx(0.2),
        0,
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"samples": 0}, "samples .0."),
        ({"samples": 10**9}, "samples .1000000000. must be 1 to 100000"),
        ({"days": 0.0}, "days .0."),
        ({"days": float("nan")}, "days .nan."),
    ],
)
def test_what_would_not_end_is_refused(change: dict[str, float], says: str) -> None:
    arguments = {"days": 1.0, "samples": 1} | change
    with pytest.raises(ConfigError, match=says):
        sample(
            [policy(storage(60, 0))],
            job(),
            Failures(machine_per_machine_day=1),
            **arguments,  # pyright: ignore[reportArgumentType]
        )


def test_too_many_failures_are_refused_with_a_way_out() -> None:
    failures = Failures(machine_per_machine_day=1e5)
    with pytest.raises(ConfigError, match="use fewer days, or a lower rate"):
        sample([policy(storage(60, 0))], job(), failures, days=365, samples=1)
