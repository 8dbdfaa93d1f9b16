"""Faults pick victims whose loss the copies must survive."""

from __future__ import annotations

from random import Random

import pytest

from tests.demo import records
from twinstep import inject
from twinstep.demo import faults
from twinstep.demo.faults import Scene, corruptible
from twinstep.demo.ground import Loopback
from twinstep.demo.kinds import FAULTS, GROUPS, check, named, needs
from twinstep.errors import UsageError
from twinstep.inject import Injury


def test_an_own_shard_is_damaged_only_where_its_twin_is_left() -> None:
    pairs = corruptible(records.status())
    twins = {"m00": "m01", "m01": "m00", "m02": "m03", "m03": "m02"}
    assert pairs
    for machine, shard, lost in pairs:
        assert shard == int(machine[1:])
        assert lost not in (machine, twins[machine], "m00", "m04")


def test_a_replicated_shard_is_damaged_and_any_other_machine_is_lost() -> None:
    pairs = corruptible(records.status(shared=True, root="m03"))
    assert {shard for _, shard, _ in pairs} == {4}
    expected = {
        (machine, lost)
        for machine in ("m00", "m01", "m02", "m03")
        for lost in ("m00", "m01", "m02")
        if machine != lost
    }
    assert {(machine, lost) for machine, _, lost in pairs} == expected


def test_nothing_is_damaged_where_no_good_copy_would_be_left() -> None:
    status = records.status()
    lonely = [m for m in status.machines if m.machine in ("m00", "m01")]
    assert corruptible(records.status(machines=lonely)) == []


def test_a_lost_machine_trains_and_is_not_the_root(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed: list[str] = []

    def kill(_status: object, machine: str) -> Injury:
        killed.append(machine)
        return Injury(kind="kill-machine", who=machine, detail="")

    monkeypatch.setattr(inject, "kill_machine", kill)
    for seed in range(40):
        scene = Scene(status=records.status(), ground=Loopback(), now_s=lambda: 7.0)
        blow = faults.kill_machine(scene, Random(seed))
        assert (blow.who, blow.struck_s) == (killed[-1], 7.0)
    assert set(killed) == {"m01", "m02", "m03"}


def test_kinds_that_leave_memory_are_those_of_a_rank() -> None:
    gentle = {kind for kind, fault in FAULTS.items() if not fault.takes_machine}
    ranks = {kind for kind in FAULTS if "-rank" in kind}
    assert gentle == ranks - set(GROUPS["recoveries"])


def test_who_comes_back_by_itself_may_not_be_missed() -> None:
    """A pause may be over before anybody notices; every other blow is noticed."""
    for kind, fault in GROUPS["moments"].items():
        assert fault.recovers != kind.startswith("pause"), kind


def test_a_group_names_its_kinds() -> None:
    assert named(["kill-rank", "together", "processes"])[:2] == [
        "kill-rank",
        "kill-two-ranks",
    ]
    assert len(named(["moments"])) == len(GROUPS["moments"]) == 24
    assert named(["quake"]) == ["quake"]
    assert sorted(named(GROUPS)) == sorted(FAULTS)


def test_an_unknown_kind_is_named_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match=r"flood, quake; known.*: kill-rank, .*delay"):
        check(["quake", "kill-rank", "flood"])
    with pytest.raises(UsageError, match="none given"):
        check([])


def test_kinds_say_what_they_need() -> None:
    assert needs(["kill-rank", "kill-root", "pause-root"]) == frozenset()
    assert needs(["kill-rank", "kill-etcd-leader"]) == {"etcd"}
    assert needs(["partition-etcd-leader", "skew-clock"]) == {"etcd", "hosts", "clocks"}
