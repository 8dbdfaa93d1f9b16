"""The cluster's decisions where another launcher starts the ranks."""

from __future__ import annotations

from typing import Any

from tests.agent.scenes import inventory, join, of
from tests.agent.test_root import TIMING, new_root, told
from twinstep.agent import actions as do, messages as say
from twinstep.agent.phase import Phase
from twinstep.agent.root import Root


def launched(**job: Any) -> Root:
    """m0 and m1 are here, and their agents wait for the launcher's ranks."""
    root = new_root(**job)
    root.guests = True
    for one in (join("m0"), join("m1")):
        root.joins(one)
    for name in ("m0", "m1"):
        root.hears(inventory(name))
    return root


def test_a_round_waits_until_the_launcher_has_started_all_ranks() -> None:
    root = launched()
    assert root.phase is Phase.PLACING and root.roster.vacant() == [0, 1]
    root.hears(inventory("m0", place=0))
    assert root.phase is Phase.PLACING
    actions = root.hears(inventory("m1", place=1))
    assert told(actions, say.Begin) == ["m0", "m1"]


def test_machines_are_where_their_launcher_put_them() -> None:
    root = launched()
    root.hears(inventory("m0", place=1))
    root.hears(inventory("m1", place=0))
    assert root.begin is not None
    assert [member.machine for member in root.begin.members] == ["m1", "m0"]


def test_a_lost_machine_is_replaced_by_whoever_has_its_ranks_and_nobody_is_asked() -> (
    None
):
    root = launched()
    root.hears(inventory("m0", place=0))
    root.hears(inventory("m1", place=1))
    actions = root.machine_lost("m1", "silent")
    assert not of(actions, do.AskMachine)
    root.joins(join("m7"))
    root.hears(inventory("m0", round=2, place=0))
    root.hears(inventory("m7", round=2, place=1))
    assert root.phase is Phase.LOADING and root.begin is not None
    assert [member.machine for member in root.begin.members] == ["m0", "m7"]


def test_ranks_that_do_not_come_back_end_the_job_by_name() -> None:
    root = launched()
    root.hears(inventory("m0", place=0))
    root.now_s = TIMING.machine_s_max + 1
    finish = of(root.tick(), do.SaveResult)[0]
    assert "machine rank 1" in finish.reason
