"""Places keep their numbers while machines come and go."""

from __future__ import annotations

from tests.agent.scenes import join
from twinstep.agent.record import Plan
from twinstep.agent.roster import Roster


def roster(*names: str, machines: int = 3, **joins) -> Roster:
    made = Roster(machines=machines)
    for name in names:
        made.joined[name] = join(name, **joins)
    return made


def test_a_job_starts_when_enough_machines_are_here_that_are_not_standbys() -> None:
    one = roster("m1", "m0", machines=2)
    one.joined["a"] = join("a", standby=True)
    assert one.gather() and one.members == ["m0", "m1"]
    short = roster("m0", machines=2)
    short.joined["a"] = join("a", standby=True)
    assert not short.gather() and short.missing() == 1


def test_a_lost_machines_place_goes_to_a_standby_first() -> None:
    one = roster("m0", "m1", "m2", "m3")
    one.gather()
    one.joined["s"] = join("s", standby=True)
    one.vacate("m1")
    assert one.fill(["m0", "m2", "m3", "s"]) == [("s", 1)]
    assert one.members == ["m0", "s", "m2"] and one.vacated == {}


def test_only_machines_that_are_ready_and_here_get_a_place() -> None:
    one = roster("m0", "m1", "m2", "m3")
    one.gather()
    one.vacate("m1")
    assert one.fill(["m0", "m9"]) == []


def test_a_machine_that_comes_back_gets_its_own_place() -> None:
    one = roster("m0", "m1", "m2")
    one.gather()
    one.vacate("m0")
    one.vacate("m2")
    one.joined |= {"m2": join("m2", machine_rank=2), "a": join("a", standby=True)}
    assert sorted(one.fill(["a", "m1", "m2"])) == [("a", 0), ("m2", 2)]


def test_every_loss_is_asked_for_once() -> None:
    one = roster("m0", "m1", "m2")
    one.gather()
    one.vacate("m2")
    assert one.to_ask() == [("m2", 2)]
    assert one.to_ask() == []
    one.vacate("m0")
    assert one.to_ask() == [("m0", 0)]


def test_the_machine_that_was_asked_for_does_not_hide_another_loss() -> None:
    one = roster("m0", "m1", "m2")
    one.gather()
    one.vacate("m2")
    one.to_ask()
    one.vacate("m0")
    one.joined["new"] = join("new")
    assert one.fill(["new", "m1"]) == [("new", 2)]
    assert one.to_ask() == [("m0", 0)]


def test_a_replacement_that_is_lost_before_it_has_a_place_is_asked_for_again() -> None:
    one = roster("m0", "m1", "m2")
    one.gather()
    one.vacate("m2")
    assert not one.spare_lost("m2"), "its own lease, which lapses later"
    assert not one.spare_lost("new"), "nobody was asked for yet"
    one.to_ask()
    assert one.spare_lost("new")
    assert one.to_ask() == [("new", 2)]
    assert not Roster(machines=2, members=["m0", "m1"]).spare_lost("s")


def test_a_new_root_recalls_places_and_who_is_lost() -> None:
    plan = Plan(
        round=3,
        members=["m0", "", "m2"],
        vacated={1: "m1"},
        sizes={},
        shared=False,
        may_share=True,
        recoveries=1,
        fruitless=0,
    )
    one = Roster(machines=3)
    assert one.recall(plan, alive={"m0"}) == ["m2"]
    assert one.vacated == {1: "m1", 2: "m2"}
    assert [name for name, _ in one.to_ask()] == ["m1", "m2"], "under the same names"


def test_places_follow_the_launcher_once_it_has_given_them_all() -> None:
    one = roster("m0", "m1", machines=2)
    one.gather()
    assert one.follow({}) == [] and one.vacant() == [0, 1]
    assert one.follow({"m1": 0}) == [] and one.vacant() == [1]
    # A machine that came anew, and one that was given another place than before.
    assert one.follow({"m1": 0, "m2": 1}) == [("m1", 0), ("m2", 1)]
    assert one.members == ["m1", "m2"] and one.vacant() == []
    assert one.follow({"m1": 0, "m2": 1}) == []


def test_of_two_machines_that_want_one_place_one_is_waited_out() -> None:
    one = roster("m0", "m1", machines=2)
    one.gather()
    assert one.follow({"m0": 0, "m1": 1, "m2": 1}) == []
    assert one.vacant() == [1] and one.members == ["m0", "m1"]
