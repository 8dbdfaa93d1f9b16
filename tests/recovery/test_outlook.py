"""What may still be lost, and what would happen then (paper section 4)."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, strategies

from tests.recovery.test_choice import held
from twinstep.placement.strategy import place
from twinstep.recovery.outlook import if_lost, outlook
from twinstep.values import Grid


def test_two_copies_survive_any_one_machine() -> None:
    found = outlook({0: ["m0", "m1"], 1: ["m1", "m0"], 2: ["m2", "m3"]})
    assert found.may_lose == 1
    assert found.fatal == [("m0", "m1"), ("m2", "m3")]
    assert found.only_here == {}


def test_before_redundancy_is_back_the_last_holder_is_named() -> None:
    found = outlook({0: ["m0", "m1"], 1: ["m1"], 2: ["m1"]})
    assert found.may_lose == 0
    assert found.fatal == [("m1",)]
    assert found.only_here == {"m1": [1, 2]}


def test_where_nothing_is_held_nothing_may_be_promised() -> None:
    assert outlook({}).may_lose == -1


@given(machines=strategies.integers(2, 7), copies=strategies.integers(1, 3))
def test_may_lose_is_what_trying_every_loss_finds(machines: int, copies: int) -> None:
    copies = min(copies, machines)
    placement = place(machines, copies=copies, strategy="mixed")
    names = [f"m{rank}" for rank in range(machines)]
    grid = Grid(machines=machines, ranks_per_machine=1)
    inventories = {
        name: [held(shard, 5) for shard in range(machines)
               if rank in placement.holders[shard]]
        for rank, name in enumerate(names)
    }  # fmt: skip
    sources = {s: [names[r] for r in placement.holders[s]] for s in range(machines)}
    found = outlook(sources)

    def lives(lost: tuple[str, ...]) -> bool:
        return if_lost(lost, inventories, grid=grid, shared=False).step == 5

    for count in range(found.may_lose + 1):
        assert all(lives(lost) for lost in combinations(names, count))
    assert not any(lives(lost) for lost in found.fatal)


def test_a_loss_is_answered_by_the_choice_that_ships() -> None:
    grid = Grid(machines=2, ranks_per_machine=1)
    inventories = {
        "m0": [held(0, 5), held(0, 6), held(1, 5)],
        "m1": [held(1, 5), held(1, 6), held(0, 5)],
    }
    choice = if_lost({"m1"}, inventories, grid=grid, shared=False)
    assert choice.step == 5
    assert "step 6 is not whole: no good copy of shard 1" in choice.reason
    assert choice.sources == {0: ["m0"], 1: ["m0"]}


@pytest.mark.parametrize("lost", [("m0", "m1"), ("m1", "m0", "nobody")])
def test_the_loss_of_all_holders_is_step_0(lost: tuple[str, ...]) -> None:
    grid = Grid(machines=2, ranks_per_machine=1)
    choice = if_lost(lost, {"m0": [held(0, 5)], "m1": [held(1, 5)]}, grid=grid,
                     shared=False)  # fmt: skip
    assert choice.step == 0
