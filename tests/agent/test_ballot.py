"""The vote, as the root counts it."""

from __future__ import annotations

from tests.agent.scenes import report
from twinstep.agent.ballot import Ballot, Verdict


def ballot(step: int = 0) -> Ballot:
    made = Ballot(machines=2)
    made.start(step)
    return made


def votes(one: Ballot, step: int, *, m0=None, m1=None) -> Verdict | None:
    assert one.take(report("m0", step, **(m0 or {}))) is None
    return one.take(report("m1", step, **(m1 or {})))


def test_there_is_a_verdict_when_every_machine_stands_at_the_step() -> None:
    verdict = votes(ballot(), 1)
    assert verdict is not None
    assert (verdict.step, verdict.first, verdict.keep, verdict.capture) == (
        1,
        True,
        0,
        True,
    )


def test_one_machine_twice_is_not_two() -> None:
    one = ballot()
    assert one.take(report("m0", 1)) is None
    assert one.take(report("m0", 1)) is None


def test_keep_is_the_newest_step_that_is_safe_on_every_machine() -> None:
    verdict = votes(ballot(), 9, m0={"safe": [5, 7]}, m1={"safe": [3, 5]})
    assert verdict is not None and verdict.keep == 5


def test_keep_never_falls() -> None:
    one = ballot()
    votes(one, 5, m0={"safe": [4]}, m1={"safe": [4]})
    verdict = votes(one, 6)
    assert verdict is not None and verdict.keep == 4


def test_a_restored_step_is_not_safe_by_itself() -> None:
    verdict = votes(ballot(5), 6, m0={"safe": [5]}, m1={"safe": []})
    assert verdict is not None and verdict.keep == 0


def test_nothing_is_captured_while_anything_is_in_flight_anywhere() -> None:
    one = ballot()
    verdict = votes(one, 1, m0={"in_flight": True})
    assert verdict is not None and not verdict.capture
    again = one.take(report("m0", 1))
    assert again is not None
    assert (again.first, again.capture) == (False, True), "it has arrived: now"


def test_a_step_is_captured_once() -> None:
    one = ballot()
    assert votes(one, 1).capture
    assert one.take(report("m0", 1)) is None, "all hold the same keep for it"


def test_reports_of_a_step_that_was_answered_are_old() -> None:
    one = ballot()
    votes(one, 2)
    assert votes(one, 1) is None
    assert one.reports.keys() <= {2}


def test_shared_state_that_differs_is_not_safe_and_its_machines_are_named() -> None:
    one = ballot()
    both = {"safe": [3, 4]}
    verdict = votes(
        one,
        5,
        m0=both | {"digests": {3: [b"a"], 4: [b"a"]}},
        m1=both | {"digests": {3: [b"a"], 4: [b"b"]}},
    )
    assert verdict is not None and verdict.keep == 3
    (note,) = verdict.notes
    assert note.startswith("step 4 is not safe") and note.endswith("m0 | m1")
