"""How large shards are, and whether what is said to be the same is."""

from __future__ import annotations

from tests.agent import scenes
from twinstep.agent.layouts import Layouts
from twinstep.agent.messages import Laid
from twinstep.values import Grid

GRID = Grid(machines=2, ranks_per_machine=1)


def laid(name: str, sizes: dict[int, int], *digests: bytes) -> Laid:
    return Laid(
        machine=name, round=1, term=1, sizes=sizes, shared_digests=list(digests)
    )


def test_sizes_are_decided_when_every_machine_has_said_its_own() -> None:
    one = Layouts(machines=2)
    assert not one.take(laid("m0", {0: 10, 2: 5}, b"same"))
    assert one.take(laid("m1", {1: 11, 2: 5}, b"same"))
    assert (one.sizes, one.shared) == ({0: 10, 1: 11, 2: 5}, True)


def test_state_that_differs_is_shared_no_more_in_the_whole_job() -> None:
    one = Layouts(machines=2)
    one.take(laid("m0", {0: 10, 2: 5}, b"same"))
    assert one.take(laid("m1", {1: 11, 2: 5}, b"other"))
    assert (one.sizes, one.shared, one.may_share) == ({}, False, False)
    assert not one.take(laid("m1", {1: 16}))
    assert not one.take(laid("m0", {0: 10, 2: 5}, b"same")), "said before it heard"
    assert one.take(laid("m0", {0: 15}))
    assert (one.sizes, one.shared) == ({0: 15, 1: 16}, False)


def test_a_new_root_learns_sizes_from_all_machines_together_or_not_at_all() -> None:
    first = scenes.inventory("m0", sizes={0: 10, 2: 5})
    second = scenes.inventory("m1", sizes={1: 11, 2: 5})
    one = Layouts(machines=2)
    one.learn([first], grid=GRID)
    assert one.sizes == {}, "one machine knows its own slots only"
    one.learn([first, second], grid=GRID)
    assert (one.sizes, one.shared) == ({0: 10, 1: 11, 2: 5}, True)


def test_sizes_once_known_stay() -> None:
    one = Layouts(machines=2, sizes={0: 10, 1: 10})
    one.learn([scenes.inventory("m0", sizes={0: 99, 1: 99})], grid=GRID)
    assert one.sizes == {0: 10, 1: 10}


def test_a_machine_that_missed_the_sizes_is_told_again() -> None:
    one = Layouts(machines=1)
    begin = scenes.begin(sizes={}, shared=True)
    assert one.missed(begin) == []
    one.take(laid("m0", {0: 10}, b"d"))
    (reserve,) = one.missed(begin)
    assert (reserve.round, reserve.sizes, reserve.shared) == (1, {0: 10}, True)
