"""Which step a run goes back to, and from where."""

from __future__ import annotations

from twinstep.recovery.choice import Choice, HeldCopy, choose, nearest
from twinstep.values import Grid

TWO = Grid(machines=2, ranks_per_machine=1)


def held(shard: int, step: int, captured_in: int = 1, digest: bytes = b"d") -> HeldCopy:
    return HeldCopy(shard=shard, step=step, captured_in=captured_in, digest=digest)


def chosen(inventories, *, grid: Grid = TWO, shared: bool = False, bad=()) -> Choice:
    return choose(inventories, grid=grid, shared=shared, bad=bad)


def test_the_newest_step_with_a_copy_of_every_shard_is_taken() -> None:
    choice = chosen({"m0": [held(0, 5), held(0, 6)], "m1": [held(1, 5), held(1, 6)]})
    assert (choice.step, choice.sources) == (6, {0: ["m0"], 1: ["m1"]})


def test_a_step_that_lacks_a_shard_is_passed_over_and_said_so() -> None:
    choice = chosen({"m0": [held(0, 5), held(0, 6)], "m1": [held(1, 5)]})
    assert choice.step == 5
    assert "step 6 is not whole: no good copy of shard 1" in choice.reason


def test_copies_of_two_rounds_never_make_one_step() -> None:
    choice = chosen(
        {"m0": [held(0, 6, 2), held(0, 5, 1)], "m1": [held(1, 6, 1), held(1, 5, 1)]}
    )
    assert (choice.step, choice.captured_in) == (5, 1)


def test_of_two_rounds_with_one_step_the_newer_is_taken() -> None:
    both = {f"m{r}": [held(r, 6, 1), held(r, 6, 2)] for r in (0, 1)}
    assert chosen(both).captured_in == 2


def test_a_copy_that_differs_from_most_of_its_twins_is_left_out_and_named() -> None:
    grid = Grid(machines=3, ranks_per_machine=1)
    choice = chosen(
        {
            "m0": [held(0, 5, digest=b"other"), held(2, 5)],
            "m1": [held(0, 5), held(1, 5)],
            "m2": [held(0, 5), held(2, 5)],
        },
        grid=grid,
    )
    assert choice.sources[0] == ["m1", "m2"]
    assert choice.differing == ["m0's copy of shard 0 differs from its twins"]


def test_a_copy_known_to_be_bad_is_no_source() -> None:
    both = {"m0": [held(0, 5), held(1, 5)], "m1": [held(0, 5), held(1, 5)]}
    assert chosen(both, bad=[("m0", 0, 5, 1)]).sources == {0: ["m1"], 1: ["m0", "m1"]}
    bad = [("m0", 0, 5, 1), ("m1", 0, 5, 1)]
    assert chosen(both, bad=bad).step == 0
    assert chosen(both, bad=[("m0", 0, 5, 2)]).sources[0] == ["m0", "m1"]


def test_shared_shards_count_only_where_the_job_shares() -> None:
    own = {"m0": [held(0, 5)], "m1": [held(1, 5)]}
    assert chosen(own, shared=True).step == 0
    assert chosen(own, shared=False).step == 5
    with_shared = {"m0": [held(0, 5), held(2, 5)], "m1": [held(1, 5), held(2, 5)]}
    assert chosen(with_shared, shared=True).sources[2] == ["m0", "m1"]


def test_without_any_complete_step_a_run_starts_at_0() -> None:
    choice = chosen({"m0": [held(0, 5)], "m1": []})
    assert (choice.step, choice.sources) == (0, {})
    assert choice.reason.startswith("no step has a good copy of every shard")


def test_the_own_machine_is_the_nearest() -> None:
    first, second = nearest(["m0", "m1"], own="m1")
    assert (first, second) == (("m1", "own memory"), ("m0", "memory of m0"))
    assert nearest(["m0"], own="m1") == [("m0", "memory of m0")]
