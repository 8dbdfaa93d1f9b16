"""A machine that is not well gives up its place, and only if nothing is lost by it."""

from __future__ import annotations

from typing import Any

from tests.agent.scenes import copy, inventory, join, of, report
from tests.agent.test_root import ended, loading, new_root, plan_in, told, training
from twinstep.agent import actions as do, messages as say
from twinstep.agent.phase import Phase
from twinstep.agent.root import Root
from twinstep.config import Health

CUDA = "RuntimeError: CUDA error"
BOTH = [copy(0, 5), copy(1, 5)]


def dies(root: Root, machine: str = "m1") -> list[Any]:
    """A rank of the machine fails by itself, before any new step."""
    return root.hears(ended(1, 1, machine=machine, round=root.round, tail=[CUDA]))


def all_say(root: Root, *names: str, **held: list[Any]) -> list[Any]:
    done: list[Any] = []
    for name in names:
        said = inventory(name, held.get(name, BOTH), round=root.round)
        done += root.hears(said)
    return done


def struck(*, spare: bool = True, **held: list[Any]) -> tuple[Root, list[Any]]:
    """m1's ranks have died three times; the machines have said what they hold."""
    root = training(rounds_without_progress_max=3)
    if not spare:
        root.machine_lost("s", "gone")
    for _ in range(2):
        dies(root)
        all_say(root, "m0", "m1")
        assert root.phase is Phase.LOADING
    done = dies(root)
    names = ("m0", "m1", "s") if spare else ("m0", "m1")
    return root, done + all_say(root, *names, s=[], **held)


def unhealthy(root: Root, machine: str = "m1", failing: str = "disk full") -> list[Any]:
    # Of any round: how a machine is does not change with it.
    return root.hears(
        say.Condition(machine=machine, round=0, term=0, failing=failing, warnings=[])
    )


def test_after_three_strikes_the_standby_takes_the_place() -> None:
    root, done = struck()
    assert root.roster.members == ["m0", "s"]
    logs = [one.text for one in of(done, do.Log)]
    assert any("m1 is to be replaced: its ranks ended by themselves" in t for t in logs)
    assert "s takes machine rank 1" in logs
    assert [one.machine for one in of(done, do.GiveBack)] == ["m1"]
    assert told(done, say.Begin) == ["m0", "s"]
    assert root.begin is not None and root.begin.step == 5
    assert of(done, do.SaveResult) == [], "the machine, and not the script"


def test_a_machine_with_the_only_copy_keeps_its_place() -> None:
    root, done = struck(m0=[copy(0, 5)])
    assert root.roster.members == ["m0", "m1"]
    logs = [one.text for one in of(done, do.Log)]
    assert "m1 keeps its place: step 5 is not whole without it" in logs
    assert of(done, do.GiveBack) == []
    assert root.begin is not None and root.begin.step == 5


def test_without_a_spare_one_is_asked_for_and_the_job_goes_on() -> None:
    root, done = struck(spare=False)
    assert [one.lost for one in of(done, do.AskMachine)] == ["m1"]
    assert root.roster.members == ["m0", "m1"] and root.phase is Phase.LOADING
    # It comes while training is under way; every copy exists by then.
    root.joins(join("m7"))
    for step in (6, 7):
        for name in ("m0", "m1"):
            root.hears(report(name, step, safe=[step - 1], round=root.round))
    assert root.phase is Phase.STOPPING, "a round to replace it in"
    held = [copy(0, 6), copy(1, 6)]
    done = all_say(root, "m0", "m1", m0=held, m1=held)
    assert told(done, say.Begin) == [], "the spare has not said what it holds yet"
    done = all_say(root, "m7", m7=[])
    assert root.roster.members == ["m0", "m7"]
    assert root.begin is not None and root.begin.step == 6


def test_a_spare_that_stays_silent_holds_up_nobody_for_long() -> None:
    root = training()
    unhealthy(root)
    dies(root)
    assert all_say(root, "m0", "m1") == []
    root.now_s += root.job.timing.stop_s_max + 0.1
    assert told(root.tick(), say.Begin) == ["m0", "m1"]


def test_a_spare_that_is_lost_meanwhile_holds_up_nobody() -> None:
    root = training()
    unhealthy(root)
    dies(root)
    assert all_say(root, "m0", "m1") == []
    assert told(root.machine_lost("s", "gone"), say.Begin) == ["m0", "m1"]


def test_no_machine_to_be_had_and_the_crash_loop_still_ends() -> None:
    root, _ = struck(spare=False)
    ends = []
    for _ in range(3):
        done = dies(root)
        ends.append([one.status for one in of(done, do.SaveResult)])
        all_say(root, "m0", "m1")
    assert ends == [[], [], [1]], "it might have been well without m1"


def test_a_script_that_dies_on_its_successor_too_ends_with_a_report() -> None:
    root, _ = struck()
    ends = []
    for _ in range(3):
        done = dies(root, "s")
        ends += [one.reason for one in of(done, do.SaveResult)]
        all_say(root, "m0", "s")
    assert len(ends) == 1 and "3 rounds in a row made no new step" in ends[0]


def young(**job: Any) -> Root:
    """Step 1 is reached everywhere, and no copy exists yet."""
    root = loading(**job)
    for name in ("m0", "m1"):
        root.hears(report(name, 1))
    return root


def test_an_unhealthy_machine_is_replaced_in_a_round_of_its_own() -> None:
    root = young()
    done = unhealthy(root)
    assert [one.text for one in of(done, do.Log)] == [
        "m1 is to be replaced: unhealthy: disk full"
    ]
    assert root.round == 1, "not before every copy exists"
    for name in ("m0", "m1"):
        done = root.hears(report(name, 2, safe=[1]))
    assert told(done, say.Answer) == ["m0", "m1"] and root.round == 2
    assert told(done, say.Stop) == ["m0", "m1", "s"]
    all_say(root, "m0", "m1", "s", s=[])
    assert root.roster.members == ["m0", "s"]
    assert root.chronicle.last is not None and root.chronicle.last.who == "m1"


def test_what_is_said_of_a_healthy_machine_or_only_to_be_told_changes_nothing() -> None:
    for root in (young(), young(health=Health(replace=False))):
        failing = "disk full" if not root.job.health.replace else ""
        unhealthy(root, failing=failing)
        for step in (2, 3):
            for name in ("m0", "m1"):
                root.hears(report(name, step, safe=[step - 1]))
        assert root.round == 1
    assert unhealthy(root, machine="stranger") == []


def test_what_all_machines_fail_for_is_not_theirs() -> None:
    root = young()
    root.roster.joined["m2"] = join("m2", standby=True)
    for machine in ("m0", "m1"):
        unhealthy(root, machine=machine, failing="the shared disk is full")
    for name in ("m0", "m1"):
        root.hears(report(name, 2, safe=[1]))
    assert root.round == 1


def test_a_machine_that_is_well_again_keeps_its_place() -> None:
    root = young()
    unhealthy(root)
    unhealthy(root, failing="")
    for name in ("m0", "m1"):
        root.hears(report(name, 2, safe=[1]))
    assert root.round == 1


def test_an_unhealthy_standby_is_the_last_to_get_a_place() -> None:
    root = training()
    root.joins(join("t", standby=True))
    unhealthy(root, machine="s")
    root.machine_lost("m1", "gone")
    all_say(root, "m0", "s", m0=BOTH, s=[])
    assert root.phase is Phase.PLACING, "t is here, and has not answered yet"
    all_say(root, "t", t=[])
    assert root.roster.members == ["m0", "t"]


def test_where_there_is_no_other_it_gets_one() -> None:
    root = training()
    unhealthy(root, machine="s")
    root.machine_lost("m1", "gone")
    all_say(root, "m0", "s", m0=BOTH, s=[])
    assert root.roster.members == ["m0", "s"]


def test_a_new_root_remembers_strikes_and_who_is_to_be_replaced() -> None:
    root = training()
    done: list[Any] = []
    for _ in range(2):
        done = dies(root)
        all_say(root, "m0", "m1")
    plan = plan_in(done)
    assert [one.machine for one in plan.strikes] == ["m1", "m1"]
    new = new_root(term=2)
    new.elected(plan, alive={"m0", "m1", "s"})
    for name in ("m0", "m1"):
        new.joins(join(name, round=1, term=1))
    for name in ("m0", "m1"):
        new.hears(inventory(name, BOTH, round=new.round, term=2))
    done = new.hears(ended(1, 1, machine="m1", round=new.round, term=2, tail=[CUDA]))
    assert plan_in(done).struck["m1"].startswith("its ranks ended by themselves 3")


def test_a_lost_machine_excuses_the_others() -> None:
    root = training()
    for _ in range(2):
        dies(root)
        all_say(root, "m0", "m1")
    root.now_s = 1.0
    dies(root, "m0")
    root.machine_lost("m1", "silent")
    known = [one.machine for one in root.suspicion.strikes.known]
    assert known == ["m1", "m1"], "but not m0, which ended for want of m1"


def test_with_one_copy_of_each_shard_nobody_is_to_be_replaced() -> None:
    root = training(copies=1, rounds_without_progress_max=9)
    for _ in range(4):
        dies(root)
        all_say(root, "m0", "m1")
    assert root.roster.struck == {}


def test_before_the_first_step_a_broken_script_accuses_no_machine() -> None:
    root = loading(rounds_without_progress_max=9)
    for _ in range(4):
        dies(root)
        all_say(root, "m0", "m1", m0=[], m1=[])
    assert root.roster.struck == {}
