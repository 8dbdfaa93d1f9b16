"""The vote, as the root counts it."""

from __future__ import annotations

from tests.agent.scenes import report
from twinstep.agent.ballot import AHEAD_MAX, Ballot, Verdict


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


# Steps shorter than the way to the root and back.


def rounds(one: Ballot, *, late: int, steps: int) -> list[int]:
    """Steps are made, and a capture is told `late` steps after its report: who was
    told too late skips. Returns the steps that were captured."""
    safe: list[int] = []
    due: list[int] = []
    for step in range(1, steps):
        while due and due[0] < step:
            safe.append(due.pop(0))
        waits = {"safe": safe[-2:], "in_flight": bool(due)}
        verdict = votes(one, step, m0=waits, m1=waits)
        if verdict is not None and verdict.capture and verdict.at >= step + late:
            due.append(verdict.at)
    return safe


def test_captures_are_told_ahead_where_answers_come_late() -> None:
    one = ballot()
    captured = rounds(one, late=5, steps=1000)
    assert len(captured) > 80
    assert 4 <= one.ahead <= 10


def test_they_are_not_where_answers_come_in_time() -> None:
    one = ballot()
    assert rounds(one, late=0, steps=200) == list(range(1, 199))
    assert one.ahead == 0


def test_what_was_learnt_is_forgotten_a_little_at_a_time() -> None:
    one = ballot()
    rounds(one, late=40, steps=2000)
    far = one.ahead
    one.start(0)
    rounds(one, late=0, steps=15_000)
    assert 40 <= far <= 64 and one.ahead < 5


def test_it_is_bounded() -> None:
    one = ballot()
    rounds(one, late=10**6, steps=20_000)
    assert one.ahead == AHEAD_MAX


def test_nothing_else_is_captured_before_all_have_passed_the_step() -> None:
    one = ballot()
    one.ahead = 3
    verdict = votes(one, 1)
    assert verdict is not None and (verdict.capture, verdict.at) == (True, 4)
    for step in (2, 3, 4):
        verdict = votes(one, step)
        assert verdict is not None and not verdict.capture
    verdict = votes(one, 5)
    assert verdict is not None and verdict.capture
