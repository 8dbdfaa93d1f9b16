"""Which ranks of another launcher may train, and when."""

from __future__ import annotations

from twinstep.agent.guestbook import Guestbook
from twinstep.agent.messages import Arrive
from twinstep.values import Grid

LAUNCHER = 10


def book() -> Guestbook:
    return Guestbook(grid=Grid(machines=2, ranks_per_machine=2))


def rank(number: int, **changed: int) -> Arrive:
    said = {
        "rank": number,
        "local_rank": number % 2,
        "ranks_per_machine": 2,
        "world_size": 4,
        "machine_rank": number // 2,
    }
    return Arrive(**(said | changed))


def come(guests: Guestbook, *ranks: int, pid: int = 100) -> list[int]:
    """Ranks arrive as processes pid + rank; returns who must end for them."""
    ended = [
        guests.arrives(rank(each), pid=pid + each, parent=LAUNCHER) for each in ranks
    ]
    return [guest.pid for each in ended for guest in each]


def admitted(guests: Guestbook) -> list[int]:
    return sorted(guest.pid for guest in guests.enter())


def test_the_machine_has_a_place_once_all_its_ranks_wait() -> None:
    guests = book()
    come(guests, 2)
    assert guests.place == -1
    come(guests, 3)
    assert guests.place == 1
    guests.gone(102)
    assert guests.place == -1


def test_ranks_enter_once_the_round_has_begun_and_only_once() -> None:
    guests = book()
    come(guests, 2, 3)
    assert admitted(guests) == []
    guests.begins(round=7, machine_rank=1)
    assert admitted(guests) == [102, 103]
    assert [guest.round for guest in guests.admitted] == [7, 7]
    assert guests.place == -1
    # Both die, and others come before the root has heard of it: not into round 7.
    guests.gone(102)
    guests.gone(103)
    come(guests, 2, 3, pid=200)
    assert admitted(guests) == []
    assert guests.place == 1


def test_ranks_may_come_after_the_round_has_begun() -> None:
    guests = book()
    guests.begins(round=7, machine_rank=1)
    come(guests, 2)
    assert admitted(guests) == []
    come(guests, 3)
    assert admitted(guests) == [102, 103]


def test_a_round_that_is_over_ends_those_it_admitted_and_nobody_else() -> None:
    guests = book()
    come(guests, 2, 3)
    assert guests.ends() == []  # they wait, and have done nothing yet
    assert guests.place == 1
    guests.begins(round=8, machine_rank=1)
    guests.enter()
    assert sorted(guest.pid for guest in guests.ends()) == [102, 103]


def test_ranks_with_another_place_than_the_round_gives_are_noticed() -> None:
    guests = book()
    guests.begins(round=7, machine_rank=1)
    come(guests, 0, 1)
    assert admitted(guests) == []
    assert guests.misplaced and guests.place == 0


def test_a_rank_that_is_started_again_takes_the_place_of_its_former_self() -> None:
    guests = book()
    assert come(guests, 2, 3) == []
    assert come(guests, 3, pid=200) == [103]
    guests.gone(103)
    assert guests.place == 1


def test_two_launchers_on_one_machine_are_told_how_to_differ() -> None:
    guests = book()
    come(guests, 2)
    other = guests.refusal(rank(0), parent=11, living={LAUNCHER, 11})
    assert "TWINSTEP_MACHINE" in other and "102" in other
    assert guests.refusal(rank(2), parent=LAUNCHER, living={LAUNCHER}) == ""
    # The former launcher is dead, and its ranks are about to be.
    assert guests.refusal(rank(0), parent=11, living={11}) == ""


def test_another_size_or_place_is_refused() -> None:
    guests = book()
    for wrong, says in (
        (rank(2, world_size=2), "--nnodes"),
        (rank(2, ranks_per_machine=1), "2 on a machine"),
        (rank(2, machine_rank=0), "none of machine rank 0"),
        (rank(2, machine_rank=-1), "none of machine rank -1"),
        (rank(2, machine_rank=1 << 40), "none of machine rank"),
    ):
        assert says in guests.refusal(wrong, parent=LAUNCHER, living=set()), wrong
