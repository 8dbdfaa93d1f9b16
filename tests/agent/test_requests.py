"""Machines that were asked for and never came: asked for again, so often, no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twinstep.agent.actions import AskMachine, Log
from twinstep.agent.record import Plan
from twinstep.agent.requests import NAMES_MAX, Requests


def requests(*, asks_max: int = 3) -> Requests:
    return Requests(asks_max=asks_max, ask_again_s=30.0)


def plan(**changes: Any) -> Plan:
    facts: dict[str, Any] = {"round": 1, "members": [], "vacated": {}, "sizes": {}}
    facts |= {"shared": False, "may_share": True, "recoveries": 0, "fruitless": 0}
    return Plan(**facts, **changes)


def names(actions: Sequence[AskMachine | Log]) -> list[str]:
    return [action.request for action in actions if isinstance(action, AskMachine)]


def given(found: Requests, machine: str, *, attempt: int = 1) -> list[str]:
    return names(
        found.answered("m1", attempt, machine, "none left", here=False, now_s=10.0)
    )


def test_one_attempt_is_under_way_at_a_time() -> None:
    found = requests()
    ask = found.first("m1", "m1 was lost")
    assert ask is not None and ask.request == "for-m1"
    assert found.first("m1", "m1 was lost") is None
    assert given(found, "a") == []
    assert found.joined("a") and not found.joined("a")
    assert found.open == {}


def test_a_machine_that_ends_before_it_joins_is_asked_for_again_but_not_for_ever() -> (
    None
):
    found = requests(asks_max=3)
    found.first("m1", "")
    for attempt, machine in enumerate(("a", "b"), start=1):
        assert given(found, machine, attempt=attempt) == []
        again = names(found.ended(machine, "killed"))
        assert again == [f"for-m1.{attempt + 1}"]
        assert found.ended(machine, "its lease lapsed, too") == [], "counted once"
    given(found, "c", attempt=3)
    (said,) = found.ended("c", "killed")
    assert isinstance(said, Log) and "the last one" in said.text
    assert found.first("m1", "") is None, "nor under its first name"


def test_a_lease_that_lapses_before_the_answer_is_known_counts_as_well() -> None:
    found = requests()
    found.first("m1", "")
    assert found.ended("a", "its lease lapsed") == []
    assert given(found, "a") == ["for-m1.2"]


def test_where_there_was_no_machine_it_is_asked_again_later() -> None:
    found = requests(asks_max=2)
    found.first("m1", "")
    assert given(found, "") == []
    assert found.due(39.0) == []
    assert names(found.due(40.0)) == ["for-m1.2"]
    assert found.due(100.0) == []
    assert given(found, "", attempt=2) == [] and found.due(100.0) == []


def test_a_new_root_walks_through_the_same_names() -> None:
    old, new = requests(), requests()
    old.first("m1", "")
    given(old, "a")
    old.ended("a", "killed")
    # Its plan may be older than its last request.
    assert names(new.recall(plan(asked={"m1": 1}))) == ["for-m1"]
    given(new, "a")
    assert names(new.ended("a", "killed")) == ["for-m1.2"]
    assert new.open == old.open


def test_a_machine_that_is_here_before_the_answer_has_come() -> None:
    found = requests()
    found.first("m1", "")
    assert not found.joined("a")
    found.answered("m1", 1, "a", "", here=True, now_s=0.0)
    assert found.open == {} and found.given == {}


def test_a_machine_that_is_lost_again_gets_none_of_its_old_answers() -> None:
    for back_late in (True, False):
        found = requests(asks_max=2)
        found.first("m1", "")
        given(found, "a")
        if back_late:
            assert found.joined("a") and not found.joined("m1")
        else:
            assert not found.joined("m1") and found.joined("a")
        new = requests(asks_max=2)
        assert new.recall(plan(closed=found.closed, spent=found.spent)) == []
        for root in (found, new):
            ask = root.first("m1", "")
            assert ask is not None and ask.request == "for-m1.2", back_late
            given(root, "b", attempt=2)
            assert names(root.ended("b", "killed")) == ["for-m1.3"], "asks_max anew"
            given(root, "c", attempt=3)
            assert names(root.ended("c", "killed")) == []


def test_a_loss_that_a_new_root_sees_still_open_has_its_old_answer() -> None:
    found = requests()
    found.first("m1", "")
    given(found, "a")
    assert found.joined("a")
    new = requests()
    new.recall(plan(closed=found.closed, spent=found.spent))
    ask = new.first("m1", "")
    assert ask is not None and ask.request == "for-m1"


def test_only_the_newest_answers_are_remembered() -> None:
    found = requests()
    for number in range(NAMES_MAX + 5):
        found.first(f"m{number}", "")
        found.answered(f"m{number}", 1, f"n{number}", "", here=True, now_s=1.0)
    assert len(found.closed) == NAMES_MAX and "m4" not in found.closed
