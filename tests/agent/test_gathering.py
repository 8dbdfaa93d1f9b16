"""Before the job begins: who is lost then, and who goes on gathering."""

from __future__ import annotations

import msgspec

from tests.agent.scenes import join, of
from tests.agent.test_root import new_root
from twinstep.agent import actions as do
from twinstep.agent.phase import Phase
from twinstep.agent.record import Plan


def test_a_machine_that_is_lost_before_the_job_begins_is_asked_for() -> None:
    root = new_root()
    root.joins(join("m0"))
    root.joins(join("s", standby=True))
    (ask,) = of(root.machine_lost("m0", "silent"), do.AskMachine)
    assert ask.request == "for-m0"
    assert of(root.machine_lost("s", "silent"), do.AskMachine) == []
    root.joins(join("m1"))
    assert root.phase is Phase.GATHERING
    root.joins(join("m2"))
    assert root.phase is Phase.STOPPING


def test_a_new_root_goes_on_gathering_where_the_job_had_not_begun() -> None:
    root = new_root()
    root.joins(join("m0"))
    (ask,) = of(root.machine_lost("m0", "silent"), do.AskMachine)
    root.requests.answered(ask.lost, 1, "m2", "", here=False, now_s=0.0)
    (saved,) = of(root.joins(join("m2")), do.SavePlan)
    successor = new_root(term=2)
    plan = msgspec.msgpack.decode(saved.plan, type=Plan)
    assert of(successor.elected(plan, alive={"m2"}), do.TellAgent) == []
    successor.joins(join("m2"))
    assert successor.phase is Phase.GATHERING
    successor.joins(join("m3"))
    assert successor.phase is Phase.STOPPING
