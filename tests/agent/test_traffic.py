"""How often the root captures: what fits all links, and what it costs training."""

from __future__ import annotations

from typing import Any

from tests.agent.scenes import report
from twinstep.agent import messages as say
from twinstep.agent.ballot import Ballot, Verdict
from twinstep.agent.traffic import Traffic
from twinstep.schedule_settings import Schedule


def profiled(machine: str, **changed: Any) -> say.Profiled:
    settings = {
        "machine": machine,
        "round": 1,
        "term": 1,
        "step_s": 1.0,
        "idle_s": 0.5,
        "needs_s": 0.2,
        "every": 1,
        "unfitted_bytes": 0,
    }
    return say.Profiled(**(settings | changed))


def new(**settings: Any) -> tuple[Traffic, Ballot]:
    traffic = Traffic(settings=Schedule(**({"withhold_every": 0} | settings)))
    ballot = Ballot(machines=1, captures=traffic.budget.captures)
    ballot.start(0)
    traffic.begins(["m0", "m1"])
    return traffic, ballot


def captured(ballot: Ballot, steps: range, **more: Any) -> list[int]:
    """The steps that are captured of these."""
    verdicts = [
        ballot.take(report("m0", step, safe=[ballot.captured], **more))
        for step in steps
    ]
    return [one.step for one in verdicts if one is not None and one.capture]


def run(traffic: Traffic, ballot: Ballot, steps: range, *, cost: float) -> list[str]:
    """Steps of a second, longer by `cost` of it while copies are on their way."""
    lines: list[str] = []
    now_s = 1000.0 * steps[0]
    for step in steps:
        before = ballot.captured
        verdict = ballot.take(report("m0", step, safe=[before]))
        assert verdict is not None
        lines += traffic.stepped(verdict, captured=before, now_s=now_s)
        now_s += 1.0 + cost * verdict.capture
    return lines


def test_every_step_is_captured_until_somebody_says_that_it_does_not_fit() -> None:
    traffic, ballot = new()
    assert captured(ballot, range(1, 4)) == [1, 2, 3]
    assert traffic.hears(profiled("m0")) == []
    (line,) = traffic.hears(profiled("m1", every=3, needs_s=1.2))
    assert line == (
        "one step in 3 is captured from now on: copies of m1 take its link 1.2 s, and "
        "its steps of 1 s leave it idle for 0.5 s"
    )
    assert captured(ballot, range(4, 12)) == [6, 9]


def test_a_machine_that_has_left_no_longer_counts() -> None:
    traffic, _ = new()
    traffic.hears(profiled("m1", every=3))
    traffic.begins(["m0", "m2"])
    (line,) = traffic.hears(profiled("m0"))
    assert traffic.every == 1 and line.startswith("every step is captured")


def test_what_never_fits_is_captured_as_rarely_as_is_allowed() -> None:
    traffic, _ = new(every_max=7)
    traffic.hears(profiled("m0", every=0, unfitted_bytes=10))
    assert traffic.every == 7


def test_a_step_is_withheld_now_and_then_and_only_once_each() -> None:
    _, ballot = new(withhold_every=5)
    assert captured(ballot, range(1, 12)) == [1, 2, 3, 4, 6, 7, 8, 9, 11]


def test_a_step_that_waits_for_copies_counts_once() -> None:
    _, ballot = new(withhold_every=2)
    assert captured(ballot, range(1, 2)) == [1]
    waits = ballot.take(report("m0", 2, in_flight=True))
    assert waits is not None and waits.in_flight and not waits.capture
    assert ballot.take(report("m0", 2)) is None  # it is the one that is left out
    assert captured(ballot, range(3, 4)) == [3]


def test_copies_that_cost_too_much_come_less_often_and_the_reason_is_told() -> None:
    traffic, ballot = new(withhold_every=4)
    lines = run(traffic, ballot, range(1, 200), cost=0.05)
    assert traffic.every > 1
    assert "copies lengthen steps by" in lines[0] and "more than 1.0%" in lines[0]
    assert traffic.reason in lines[-1]


def test_copies_that_cost_nothing_stay() -> None:
    traffic, ballot = new(withhold_every=4)
    assert run(traffic, ballot, range(1, 200), cost=0.0) == []


def test_the_time_of_a_restart_is_no_steps() -> None:
    traffic, ballot = new(withhold_every=4)
    for start in range(1, 200, 10):
        ballot.start(start - 1)
        traffic.begins(["m0"])
        assert run(traffic, ballot, range(start, start + 10), cost=0.0) == []


def test_a_verdict_says_whether_copies_were_on_their_way() -> None:
    _, ballot = new()
    verdict = ballot.take(report("m0", 1, in_flight=True))
    assert isinstance(verdict, Verdict) and verdict.in_flight
