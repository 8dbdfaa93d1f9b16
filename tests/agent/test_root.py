"""The cluster's decisions: rounds, places, deadlines, and a new root's first words."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.agent import scenes
from tests.agent.scenes import copy, inventory, join, of, report
from twinstep.agent import actions as do, messages as say
from twinstep.agent.phase import Phase
from twinstep.agent.record import Plan
from twinstep.agent.root import Root
from twinstep.config import Job, Timing
from twinstep.placement.strategy import place
from twinstep.values import Grid

TIMING = Timing(stop_s_max=10.0, machine_s_max=100.0, first_step_s_max=50.0)


def new_root(*, term: int = 1, machines: int = 2, **job: Any) -> Root:
    return Root(
        job=Job(machines=machines, timing=TIMING, **job),
        grid=Grid(machines=machines, ranks_per_machine=1),
        holders=[list(one) for one in place(machines, copies=2).holders],
        term=term,
        now_s=0.0,
    )


def loading(**job: Any) -> Root:
    """Round 1 has begun from step 0 on m0 and m1; s stands by."""
    root = new_root(**job)
    for one in (join("m0"), join("s", standby=True), join("m1")):
        root.joins(one)
    for name in ("m0", "m1"):
        root.hears(inventory(name))
    assert root.phase is Phase.LOADING
    return root


def training(*, step: int = 5, **job: Any) -> Root:
    """The same, and all ranks stand at `step`."""
    root = loading(**job)
    root.layouts.sizes = {0: scenes.SIZE, 1: scenes.SIZE}
    root.layouts.shared = False
    for name in ("m0", "m1"):
        root.hears(report(name, step, safe=[step - 1]))
    assert root.phase is Phase.TRAINING
    return root


def ended(rank: int = 0, status: int = -9, **changed: Any) -> say.RankEnded:
    values: dict[str, Any] = {
        "machine": f"m{rank}",
        "round": 1,
        "term": 1,
        "rank": rank,
        "status": status,
        "step": 5,
        "tail": ["last words"],
    }
    return say.RankEnded(**(values | changed))


def plan_in(actions: list[Any]) -> Plan:
    return msgspec.msgpack.decode(of(actions, do.SavePlan)[-1].plan, type=Plan)


def told(actions: list[Any], kind: type) -> list[str]:
    """The machines that are told a message of this kind."""
    return [
        action.machine
        for action in actions
        if isinstance(action, do.TellAgent) and isinstance(action.message, kind)
    ]


# A round.


def test_a_job_starts_when_its_machines_are_here() -> None:
    root = new_root()
    assert root.joins(join("m0")) == []
    done = root.joins(join("m1"))
    assert told(done, say.Stop) == ["m0", "m1"]
    assert root.hears(inventory("m0")) == []
    done = root.hears(inventory("m1"))
    assert told(done, say.Begin) == ["m0", "m1"]
    (begin, _) = of(done, say.Begin)
    assert (begin.round, begin.step, begin.captured_in) == (1, 0, 0)


def test_words_of_another_round_or_term_are_old() -> None:
    root = training()
    for old in (
        ended(round=0),
        ended(term=0),
        report("m0", 6, round=2),
        inventory("m0", round=0),
    ):
        assert root.hears(old) == [], old
    assert root.round == 1


def test_all_are_answered_when_all_have_reported() -> None:
    root = training()
    assert told(root.hears(report("m0", 6, safe=[5])), say.Answer) == []
    done = root.hears(report("m1", 6, safe=[5]))
    assert told(done, say.Answer) == ["m0", "m1"]
    assert {(one.step, one.keep) for one in of(done, say.Answer)} == {(6, 5)}


def test_a_no_says_whether_a_yes_may_follow() -> None:
    root = training()
    for in_flight in (True, False):  # the second time, what was on its way is there
        said: list[say.Answer] = []
        for name in ("m0", "m1"):
            busy = in_flight and name == "m1"
            said = of(root.hears(report(name, 9, in_flight=busy)), say.Answer)
        assert {(one.capture, one.again) for one in said} == {(not busy, busy)}


def test_a_rank_that_dies_brings_all_back_to_the_newest_whole_step() -> None:
    root = training()
    done = root.hears(ended())
    assert told(done, say.Stop) == ["m0", "m1", "s"]
    copies = [copy(0, 4), copy(1, 4)]
    root.hears(inventory("m0", [*copies, copy(0, 5)], round=2))
    done = root.hears(inventory("m1", copies, round=2))
    begin = of(done, say.Begin)[0]
    assert (begin.round, begin.step, begin.captured_in) == (2, 4, 1)
    assert begin.sources == {0: ["m0", "m1"], 1: ["m0", "m1"]}


def test_nothing_begins_before_every_member_has_stopped() -> None:
    root = training()
    root.hears(ended())
    assert root.hears(inventory("m0", round=2)) == []
    assert root.hears(inventory("s", round=2)) == []
    assert root.phase is Phase.STOPPING


def test_a_copy_that_is_bad_is_named_and_no_source_until_it_is_made_again() -> None:
    root = training()
    root.hears(ended())
    copies = [copy(0, 4), copy(1, 4)]
    for name in ("m0", "m1"):
        root.hears(inventory(name, copies, round=2))
    bad = say.CopyBad(
        machine="m0",
        round=2,
        term=1,
        shard=0,
        step=4,
        holder="m1",
        corrupt=True,
        last=False,
        reason="chunk 3",
    )
    (log,) = of(root.hears(bad), do.Log)
    assert "m1's copy of shard 0 at step 4 is bad: chunk 3 (found by m0)" in log.text
    root.hears(ended(round=2))
    root.hears(inventory("m0", copies, round=3))
    begin = of(root.hears(inventory("m1", copies, round=3)), say.Begin)[0]
    assert begin.sources[0] == ["m0"]
    for name in ("m0", "m1"):
        root.hears(report(name, 5, safe=[4], round=3))
    assert root.bad == set(), "every holder has verified its copy since"


def test_when_no_good_copy_is_left_all_go_back_further() -> None:
    root = training()
    bad = say.CopyBad(
        machine="m0",
        round=1,
        term=1,
        shard=0,
        step=4,
        holder="m0",
        corrupt=True,
        last=True,
        reason="chunk 3",
    )
    assert told(root.hears(bad), say.Stop)
    assert root.round == 2


# Machines.


def test_a_lost_machine_is_given_back_and_a_standby_takes_its_place() -> None:
    root = training()
    done = root.machine_lost("m1", "silent")
    assert of(done, do.GiveBack) == [do.GiveBack(machine="m1", reason="silent")]
    assert told(done, say.Stop) == ["m0", "s"]
    copies = [copy(0, 4), copy(1, 4)]
    root.hears(inventory("s", round=2))
    done = root.hears(inventory("m0", copies, round=2))
    assert [one.machine for one in of(done, say.Begin)[0].members] == ["m0", "s"]
    assert plan_in(done).members == ["m0", "s"]


def test_without_a_standby_one_machine_is_asked_for_under_one_name() -> None:
    root = training()
    root.roster.joined.pop("s")
    done = root.machine_lost("m1", "silent")
    done += root.hears(inventory("m0", round=2))
    assert [ask.lost for ask in of(done, do.AskMachine)] == ["m1"]
    assert root.phase is Phase.PLACING
    assert plan_in(done).vacated == {1: "m1"}
    assert plan_in(done).asked == {"m1": 1}


def test_a_new_root_asks_for_the_same_machines_by_the_same_names() -> None:
    # Paper section 3.2: a new worker machine is initialised in the root's place; one,
    # although the old root may have asked for it as well.
    root = new_root(term=2)
    done = root.elected(plan(asked={"m9": 2}), alive={"m1"})
    assert [ask.request for ask in of(done, do.AskMachine)] == ["for-m9.2", "for-m0"]
    assert plan_in(done).asked == {"m9": 2, "m0": 1}
    root.requests.answered("m0", 1, "new", "", here=False, now_s=0.0)
    done = root.joins(join("new"))
    assert plan_in(done).asked == {"m9": 2}, "the next root does not wait for it"


def test_a_machine_that_dies_before_it_joins_is_asked_for_again() -> None:
    root = training()
    root.roster.joined.pop("s")
    root.machine_lost("m1", "silent")
    root.requests.answered("m1", 1, "new", "", here=False, now_s=0.0)
    done = root.machine_lost("new", "its lease lapsed")
    (ask,) = of(done, do.AskMachine)
    assert (ask.request, ask.lost) == ("for-m1.2", "m1")
    assert "new ended before it joined" in ask.reason


def test_a_machine_whose_place_was_given_away_stops() -> None:
    root = training()
    late = join("m7", round=1, term=1, machine_rank=1)
    (stop,) = of(root.joins(late), say.Stop)
    assert "given away" in stop.reason


def test_a_member_that_connects_again_hears_what_it_may_have_missed() -> None:
    root = loading()
    begin = root.begin
    root.layouts.sizes = {0: 1, 1: 1}
    done = root.joins(join("m0", round=1, term=1, machine_rank=0))
    assert [type(one.message) for one in done] == [say.Begin, say.Reserve]
    assert done[0].message == begin


def test_a_member_that_was_cut_off_has_ended_its_ranks_and_starts_everybody_anew() -> (
    None
):
    root = training()
    done = root.joins(join("m0", round=1, term=1, machine_rank=0, ended=True))
    assert told(done, say.Stop) == ["m0", "m1", "s"]
    assert "m0 was cut off in round 1" in of(done, say.Stop)[0].reason


def test_a_member_that_fell_behind_starts_everybody_anew() -> None:
    root = training()
    root.round = 3
    assert told(root.joins(join("m0", round=2, term=1, machine_rank=0)), say.Stop)
    assert root.round == 4


# A new root.


def plan(**changed: Any) -> Plan:
    values: dict[str, Any] = {
        "round": 4,
        "members": ["m0", "m1"],
        "vacated": {},
        "sizes": {0: 1, 1: 1},
        "shared": False,
        "may_share": False,
        "recoveries": 2,
        "fruitless": 1,
    }
    return Plan(**(values | changed))


def test_a_new_root_continues_with_places_sizes_and_counts() -> None:
    root = new_root(term=2)
    done = root.elected(plan(), alive={"m1"})
    assert of(done, do.GiveBack)[0].machine == "m0"
    saved = plan_in(done)
    assert (saved.round, saved.members, saved.vacated) == (5, ["", "m1"], {0: "m0"})
    assert (saved.sizes, saved.may_share) == ({0: 1, 1: 1}, False)
    assert (saved.recoveries, saved.fruitless) == (3, 1)
    assert told(root.joins(join("m1", round=4, term=1)), say.Stop) == ["m1"]


def test_a_round_that_the_store_never_heard_of_is_not_used_again() -> None:
    # The former root died between its Begin and the write of its plan. Copies of its
    # round and of ours would have the same name.
    for round, term in ((5, 1), (7, 1)):
        root = new_root(term=2)
        root.elected(plan(), alive={"m0", "m1"})
        assert root.round == 5
        root.joins(join("m0", round=round, term=term, machine_rank=0))
        assert root.round == round + 1
        root.joins(join("m1", round=round, term=term, machine_rank=1))
        assert root.round == round + 1, "once is enough"


def test_a_root_without_a_plan_gathers_even_those_who_know_a_round() -> None:
    root = new_root(term=2)
    assert root.elected(None, alive={"m0", "m1"}) == []
    assert root.joins(join("m0", round=1, term=1)) == []
    done = root.joins(join("m1", round=1, term=1))
    assert {stop.round for stop in of(done, say.Stop)} == {2}


# Crash loops, hangs and deadlines.


def test_a_script_that_cannot_work_ends_the_job_with_its_last_lines() -> None:
    root = loading(rounds_without_progress_max=2)
    root.hears(ended(status=1))
    for name in ("m0", "m1"):
        root.hears(inventory(name, round=2))
    done = root.hears(ended(status=1, round=2))
    (result,) = of(done, do.SaveResult)
    assert result.status == 1
    assert "2 rounds in a row made no new step" in result.reason
    assert "last words" in result.reason
    assert told(done, say.Finish) == ["m0", "m1", "s"]


def test_the_job_is_over_when_every_rank_has_ended_well() -> None:
    root = training()
    assert root.hears(ended(0, status=0)) == []
    done = root.hears(ended(1, status=0))
    assert of(done, do.SaveResult)[0].status == 0
    assert root.phase is Phase.OVER
    assert root.machine_lost("m1", "gone") == []


def test_a_hung_rank_is_looked_at_named_and_all_start_again() -> None:
    root = training()
    root.now_s = 51.0
    assert told(root.tick(), say.LookAtRanks) == ["m0", "m1"]
    assert root.tick() == [], "asked once"
    for threads in (True, False):
        for rank, state in ((0, "S"), (1, "T")):
            sights = {rank: say.Sight(state=state, step=5)}
            looked = say.Looked(machine=f"m{rank}", round=1, term=1, ranks=sights)
            done = root.hears(looked)
        if threads:  # once more, before they are gone
            assert [look.threads for look in of(done, say.LookAtRanks)] == [True, True]
    (stop, *_) = of(done, say.Stop)
    assert "rank 1 is stopped by a signal" in stop.reason
    assert root.round == 2


def test_a_machine_that_does_not_stop_is_lost() -> None:
    root = training()
    root.hears(ended())
    root.hears(inventory("m0", round=2))
    root.now_s = 10.0
    assert root.tick() == []
    root.now_s = 10.1
    done = root.tick()
    assert of(done, do.GiveBack)[0].machine == "m1"
    assert "did not stop within 10 s" in of(done, do.GiveBack)[0].reason


def test_waiting_for_a_machine_ends_and_names_the_place() -> None:
    root = training()
    root.roster.joined.pop("s")
    root.machine_lost("m1", "silent")
    root.hears(inventory("m0", round=2))
    root.now_s = 100.1
    (result,) = of(root.tick(), do.SaveResult)
    assert result.reason == "no machine came for machine rank 1 within 100 s"


def test_waiting_for_the_first_machines_ends_and_names_who_is_here() -> None:
    root = new_root()
    root.joins(join("m0"))
    root.now_s = 100.1
    (result,) = of(root.tick(), do.SaveResult)
    assert "2 machines are needed" in result.reason
    assert result.reason.endswith("only: m0")


def test_what_cannot_be_done_ends_the_job_as_a_usage_error_once() -> None:
    root = loading()
    unable = say.Unable(machine="m0", round=1, term=1, reason="too large")
    (result,) = of(root.hears(unable), do.SaveResult)
    assert (result.status, result.reason) == (2, "m0: too large")
    assert root.hears(unable) == []
