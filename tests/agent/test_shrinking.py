"""A job goes on with fewer machines, and grows again, and no step is lost by it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agent.scenes import SIZE, Scene, begin, copy, inventory, join, of
from tests.agent.test_root import plan_in, told
from twinstep.agent import actions as do, messages as say
from twinstep.agent.draining import Looked, Made, StoredStep
from twinstep.agent.filing import found, made
from twinstep.agent.phase import Phase
from twinstep.agent.plans import read_plan
from twinstep.agent.reserving import Reserving
from twinstep.agent.resizing import placed
from twinstep.agent.root import Root
from twinstep.config import Job, Storage, Timing
from twinstep.errors import ConfigError
from twinstep.values import Grid

NAMES = ("m0", "m1", "m2")
TIMING = Timing(machine_s_max=100.0, resize_after_s=5.0)
HELD = {
    "m0": [copy(0, 5), copy(2, 5)],
    "m1": [copy(1, 5), copy(0, 5)],
    "m2": [copy(2, 5), copy(1, 5)],
}
"""What each machine holds at step 5, with copies in a ring."""


def job(**changed: Any) -> Job:
    values: dict[str, Any] = {
        "machines": 3,
        "min_machines": 2,
        "placement": "ring",
        "timing": TIMING,
        "storage": Storage(path="/storage"),
    }
    return Job(**(values | changed))


def new_root(*, term: int = 1, **changed: Any) -> Root:
    one = job(**changed)
    grid = Grid(machines=3, ranks_per_machine=1)
    holders = placed(one, [0, 1, 2])
    root = Root(job=one, grid=grid, holders=holders, term=term, now_s=0.0)
    found(root, Looked(steps=[]))
    return root


def without_m1(*, round: int = 2, **changed: Any) -> Root:
    """Round 1 has trained to step 5; m1 is lost, and the others have stopped."""
    root = new_root(**changed)
    for name in NAMES:
        root.joins(join(name))
    for name in NAMES:
        root.hears(inventory(name))
    root.layouts.sizes = dict.fromkeys(range(3), SIZE)
    root.layouts.shared = False
    root.machine_lost("m1", "its lease lapsed")
    for name in ("m0", "m2"):
        root.hears(inventory(name, HELD[name], round=round))
    assert root.phase is Phase.PLACING
    return root


def after(root: Root, seconds: float) -> list[Any]:
    root.now_s += seconds
    return list(root.tick())


def stored(machine: str, *, round: int = 2, **changed: Any) -> say.Stored:
    return say.Stored(machine=machine, round=round, term=1, step=5, **changed)


def whole(*, step: int = 5, captured_in: int = 1) -> Made:
    stored = StoredStep(
        step=step,
        captured_in=captured_in,
        machines=3,
        ranks_per_machine=1,
        size=1,
        written_s=0.0,
    )
    return Made(whole=stored)


def shrunk() -> tuple[Root, list[Any]]:
    """m0 and m2 have begun round 2 without m1; returns what was done for it."""
    root = without_m1()
    after(root, 6.0)
    for name in ("m0", "m2"):
        root.hears(stored(name))
    return root, list(made(root, whole()))


# With fewer.


def test_while_the_operator_may_have_one_a_machine_is_waited_for() -> None:
    root = without_m1()
    assert of(after(root, 4.0), say.Store) == []
    assert len(of(after(root, 2.0), say.Store)) == 2


def test_an_operator_that_has_none_for_good_is_not_waited_for() -> None:
    root = without_m1(asks_max=1)
    none = {"here": False, "now_s": root.now_s}
    root.requests.answered("m1", 1, "", "sold out", **none)
    assert len(of(after(root, 0.1), say.Store)) == 2


def test_with_fewer_than_the_least_a_machine_is_waited_for() -> None:
    root = without_m1(min_machines=3)
    assert of(after(root, 50.0), say.Store) == []
    root = without_m1(min_machines=0)
    assert of(after(root, 50.0), say.Store) == []


def test_what_is_left_writes_every_shard_the_lost_machines_too() -> None:
    done = after(without_m1(), 6.0)
    orders = {
        a.machine: a.message
        for a in done
        if isinstance(a, do.TellAgent) and isinstance(a.message, say.Store)
    }
    assert {name: one.own for name, one in orders.items()} == {"m0": [0], "m2": [1, 2]}
    assert {(one.step, one.captured_in) for one in orders.values()} == {(5, 1)}


def test_nobody_begins_before_the_step_is_whole_in_storage() -> None:
    root = without_m1()
    after(root, 6.0)
    assert root.hears(stored("m0")) == []
    done = root.hears(stored("m2"))
    (make,) = of(done, do.MakeWhole)
    assert make.parts == ("r2-t1-m0", "r2-t1-m2")
    assert told(done, say.Begin) == []
    assert told(made(root, whole()), say.Begin) == ["m0", "m2"]


def test_the_smaller_round_reads_from_storage_and_counts_no_former_copy() -> None:
    root, done = shrunk()
    (one, _) = of(done, say.Begin)
    assert (one.step, one.stored, one.sources, one.sizes) == (5, True, {}, {})
    assert [m.machine for m in one.members] == ["m0", "m2"]
    assert one.resized_in == one.round == 2
    assert one.holders == [[0, 1], [1, 0]]
    assert root.grid.world_size == 2
    logs = [line.text for line in of(done, do.Log)]
    assert any("goes on with 2 machines instead of 3" in text for text in logs)
    assert any("machine rank 1" in t and "resharded from step 5" in t for t in logs)
    root.new_round("rank", "rank 0", "a test")
    for name in ("m0", "m2"):
        root.hears(inventory(name, HELD[name], round=3))
    assert root.begin is not None and root.begin.stored


def test_what_is_in_storage_already_is_not_written_again() -> None:
    root = without_m1()
    root.draining.stored[5] = whole().whole  # type: ignore[assignment]
    assert told(after(root, 6.0), say.Begin) == ["m0", "m2"]


def test_another_step_of_that_number_in_storage_is_not_it() -> None:
    root = without_m1()
    root.draining.stored[5] = whole(captured_in=9).whole  # type: ignore[assignment]
    assert len(of(after(root, 6.0), say.Store)) == 2


def test_a_step_that_cannot_be_written_stays_in_memory_and_is_tried_again() -> None:
    root = without_m1()
    after(root, 6.0)
    done = root.hears(stored("m0", failed="no space left"))
    assert told(done, say.Stop) == ["m0", "m2"], "lest m2 still reads its slots"
    assert told(done, say.Begin) == []
    assert root.grid.machines == 3
    for name in ("m0", "m2"):
        root.hears(inventory(name, HELD[name], round=3))
    assert of(after(root, 10.0), say.Store) == [], "before storage.retry_s"
    assert len(of(after(root, 30.0), say.Store)) == 2


def test_a_copy_that_does_not_verify_is_written_by_its_next_holder() -> None:
    root = without_m1()
    after(root, 6.0)
    root.hears(stored("m2", failed="a wrong checksum", bad=2))
    for name in ("m0", "m2"):
        root.hears(inventory(name, HELD[name], round=3))
    orders = of(after(root, 40.0), say.Store)
    assert sorted(tuple(one.own) for one in orders) == [(0, 2), (1,)]


def test_a_machine_that_comes_while_the_step_is_written_takes_its_place() -> None:
    root = without_m1()
    after(root, 6.0)
    root.joins(join("m3"))
    done = root.hears(inventory("m3", round=2))
    assert told(done, say.Stop) == ["m0", "m2", "m3"]
    for name in ("m0", "m2", "m3"):
        done = root.hears(inventory(name, HELD.get(name, []), round=3))
    assert root.begin is not None and not root.begin.stored
    assert told(done, say.Begin) == ["m0", "m3", "m2"]


def test_who_comes_anew_hears_once_more_what_to_write() -> None:
    root = without_m1()
    after(root, 6.0)
    done = root.hears(inventory("m2", HELD["m2"], round=2))
    assert told(done, say.Store) == ["m2"]
    root.hears(stored("m2"))
    assert told(root.hears(inventory("m2", HELD["m2"], round=2)), say.Store) == []


def test_a_new_root_knows_how_many_train() -> None:
    _, done = shrunk()
    plan = plan_in(done)
    assert (plan.members, plan.seats, plan.resized_in) == (["m0", "m2"], [0, 2], 2)
    (save,) = of(done, do.SavePlan)
    assert read_plan(save.plan, machines=3) == (plan, "")
    assert read_plan(save.plan, machines=2)[0] is None, "of a job of two"
    root = new_root(term=2)
    root.elected(plan, alive={"m0", "m2"})
    assert (root.grid.machines, root.resizing.since) == (2, 2)
    assert root.roster.vacant() == []


# With more again.


def grown(*, until: str = "whole") -> tuple[Root, list[Any]]:
    root, _ = shrunk()
    root.layouts.sizes = dict.fromkeys(range(2), SIZE)
    root.layouts.shared = False
    root.joins(join("m3"))
    for step in (6, 7):
        for name in ("m0", "m2"):
            root.hears(
                say.Report(
                    machine=name,
                    round=2,
                    term=1,
                    step=step,
                    safe=[step - 1],
                    in_flight=False,
                    digests={},
                )
            )
    after(root, 0.1)
    if until == "here":
        return root, after(root, 1.0)
    done = after(root, 6.0)
    if until == "stopped":
        return root, done
    held = [copy(0, 6, captured_in=2), copy(1, 6, captured_in=2)]
    for name in ("m0", "m2"):
        root.hears(inventory(name, held, round=3, resized_in=2))
    return root, root.hears(inventory("m3", round=3))


def test_a_job_grows_once_a_machine_has_been_here_for_a_while() -> None:
    root, done = grown(until="here")
    assert root.phase is Phase.TRAINING and told(done, say.Stop) == []
    _, done = grown(until="stopped")
    assert told(done, say.Stop) == ["m0", "m2", "m3"]


def test_the_newest_step_is_written_and_all_begin_from_it() -> None:
    root, done = grown()
    assert sorted(told(done, say.Store)) == ["m0", "m2"]
    for name in ("m0", "m2"):
        root.hears(say.Stored(machine=name, round=3, term=1, step=6))
    done = list(made(root, whole(step=6, captured_in=2)))
    assert told(done, say.Begin) == ["m0", "m3", "m2"], "m0 and m2 where they were"
    (one, *_) = of(done, say.Begin)
    assert (one.step, one.stored, one.resized_in) == (6, True, 3)
    assert root.chronicle.last is not None and root.chronicle.last.kind == "resize"


def test_a_job_that_cannot_grow_goes_on_from_memory() -> None:
    root, _ = grown()
    root.hears(say.Stored(machine="m0", round=3, term=1, step=6, failed="no space"))
    held = [copy(0, 6, captured_in=2), copy(1, 6, captured_in=2)]
    for name in ("m0", "m2"):
        done = root.hears(inventory(name, held, round=4, resized_in=2))
    assert told(done, say.Begin) == ["m0", "m2"]
    assert root.begin is not None and (root.begin.step, root.begin.stored) == (6, False)


def test_where_too_few_are_on_their_way_another_machine_is_asked_for() -> None:
    root, _ = grown(until="here")
    root.machine_lost("m3", "gone")
    root.requests.open.clear()
    asked: list[Any] = []
    for _ in range(3):
        asked += of(after(root, 3.0), do.AskMachine)
    assert [one.request for one in asked] == ["for-seat1"]


# At a machine.


def test_all_slots_are_given_up_where_shards_are_others() -> None:
    scene = Scene(machines=3)
    scene.begins(begin(machines=3, sizes=dict.fromkeys(range(3), SIZE)))
    scene.captures(5)
    held = sorted(scene.table.slots)
    scene.stops(round=2)
    smaller = begin(machines=2, round=2, step=5, sizes={})
    done = scene.worker.from_root(
        say.Begin(
            **{f: getattr(smaller, f) for f in smaller.__struct_fields__}
            | {"resized_in": 2, "stored": True}
        )
    )
    (release,) = of(done, do.ReleaseSlots)
    assert sorted(release.shards) == held and scene.table.slots == {}
    assert scene.worker.grid.world_size == 2


def test_the_copies_that_are_named_are_written_once_however_often_told() -> None:
    scene = Scene(machines=3)
    scene.holds(0, 0, 5)
    scene.holds(2, 1, 5)
    scene.stops(round=2)
    order = say.Store(
        round=2,
        term=1,
        step=5,
        captured_in=1,
        machines=3,
        place=0,
        own=[0, 2],
        index=-1,
        parts=1,
    )
    (write,) = of(scene.worker.from_root(order), do.StoreCopies)
    assert (write.slots, write.own, write.still) == ({0: 0, 2: 1}, (0, 2), True)
    assert of(scene.worker.from_root(order), do.StoreCopies) == []


def test_a_copy_of_another_round_is_not_written_for_it() -> None:
    scene = Scene(machines=3)
    scene.holds(0, 0, 5, captured_in=4)
    scene.stops(round=5)
    order = say.Store(
        round=5,
        term=1,
        step=5,
        captured_in=1,
        machines=3,
        place=0,
        own=[0],
        index=-1,
        parts=1,
    )
    (said,) = of(scene.worker.from_root(order), say.Stored)
    assert "no copy of shard 0 at step 5" in said.failed


def test_slots_that_come_late_for_other_shards_are_given_up() -> None:
    reserving = Reserving()
    assert reserving.wants({0: 1, 2: 1}, there=()) == {0: 1, 2: 1}
    reserving.resized()
    assert reserving.wants({0: 9}, there=()) == {}, "0 is another shard now"
    reserving.ended([0, 2])
    assert reserving.wants({0: 9}, there=()) == {0: 9}


# Settings.


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"min_machines": 4}, "min_machines is 4"),
        ({"storage": Storage()}, "without storage.path"),
        ({"timing": Timing(resize_after_s=700.0)}, "resize_after_s"),
    ],
)
def test_what_cannot_work_is_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        job(**changed)


def test_copies_are_placed_as_well_as_fewer_machines_allow() -> None:
    group = job(machines=4, placement="group")
    assert placed(group, [0, 1, 3]) == placed(job(placement="mixed"), [0, 1, 2])
    racks = job(machines=4, placement="mixed", domains=("a", "b", "a", "b"))
    assert placed(racks, [0, 3]) == [[0, 1], [1, 0]]
    assert placed(racks, [0, 2]) == [[0, 1], [1, 0]], "in one rack, if it must be"
    with pytest.raises(ConfigError, match="divide"):
        placed(job(placement="group"), [0, 1, 2])
