"""The culprit is told from the victims, and a deadlock from an evaluation."""

from __future__ import annotations

from typing import Any

import pytest

from twinstep.agent.culprits import Stillness, Verdict, judge
from twinstep.agent.messages import Sight


def sight(doing: str = "collective", call: str = "all_reduce", **more: Any) -> Sight:
    values: dict[str, Any] = {"state": "S", "place": "train.py:41", "digest": 7}
    return Sight(doing=doing, call=call, **(values | more))


WAITS = sight()
LOCKED = sight("lock", "lock.acquire()")
ASLEEP = sight("sleep", "sleep(9e9)")


def verdict(*sights: Sight, looks: int = 3) -> Verdict:
    ranks = dict(enumerate(sights))
    return judge(ranks, dict.fromkeys(ranks, looks), looks_min=3)


def test_the_rank_that_waits_for_a_lock_holds_up_those_in_the_collective() -> None:
    found = verdict(WAITS, WAITS, LOCKED, WAITS)
    assert found.ranks == (2,) and found.who == "rank 2" and found.proven
    assert found.how == (
        "rank 2 waits for a lock in train.py:41 (lock.acquire()); "
        "ranks 0, 1, 3 wait in all_reduce"
    )


def test_a_sleeper_too() -> None:
    found = verdict(ASLEEP, WAITS)
    assert found.ranks == (0,) and found.proven
    assert found.how.startswith("rank 0 sleeps in train.py:41 (sleep(9e9)); rank 1 w")


@pytest.mark.parametrize(
    "other",
    [
        sight("own", "f(x)"),
        sight("data", "the data loader"),
        sight("agent", "_read"),
        sight("unseen", ""),
    ],
)
def test_who_may_go_on_by_itself_is_suspected_and_proves_nothing(other: Sight) -> None:
    found = verdict(WAITS, other)
    assert found.ranks == (1,) and not found.proven


def test_one_rank_that_moves_proves_that_it_is_no_deadlock() -> None:
    for mover in range(3):
        looks = {0: 3, 1: 3, 2: 3, mover: 2}
        found = judge({0: WAITS, 1: LOCKED, 2: WAITS}, looks, looks_min=3)
        assert found.ranks == (1,) and not found.proven, f"rank {mover} moves"


def test_two_suspects_must_both_be_stuck() -> None:
    assert verdict(WAITS, LOCKED, ASLEEP).proven
    found = verdict(WAITS, LOCKED, sight("own", "evaluate()"))
    assert found.ranks == (1, 2) and not found.proven


def test_backward_waits_where_it_uses_no_processor() -> None:
    backward = sight("framework", "backward")
    assert verdict(backward, LOCKED).ranks == (1,)
    assert "rank 0 waits in backward" in verdict(backward, LOCKED).how
    busy = judge({0: backward, 1: WAITS}, {0: 0, 1: 3}, looks_min=3)
    assert busy.ranks == (0,) and "rank 0 is in backward" in busy.how


def test_the_rank_in_another_collective_is_the_odd_one() -> None:
    found = verdict(WAITS, sight(call="broadcast"), WAITS)
    assert found.ranks == (1,) and found.proven
    assert found.how == "rank 1 waits in broadcast; ranks 0, 2 wait in all_reduce"
    both = verdict(WAITS, sight(call="broadcast"))
    assert both.ranks == (0, 1) and both.proven


def test_all_in_one_collective_prove_nothing() -> None:
    found = verdict(WAITS, WAITS)
    assert not found.proven and "no culprit can be told" in found.how


def test_else_those_that_are_behind() -> None:
    found = verdict(sight("own", "f()", step=3), sight("own", "f()", step=4))
    assert found.ranks == (0,) and "rank 0 still at step 3" in found.how


def test_a_stopped_rank_is_the_culprit_whatever_the_others_do() -> None:
    found = verdict(LOCKED, sight(state="T"), sight(state="t", doing="unseen"))
    assert found.ranks == (1, 2) and found.stopped and not found.proven
    assert "ranks 1, 2 are stopped by a signal in train.py:41" in found.how


def test_many_ranks_are_counted_and_not_all_named() -> None:
    found = verdict(LOCKED, *[WAITS] * 500)
    assert found.how.endswith(
        "ranks 1, 2, 3, 4, 5, 6, 7, 8 and 492 more wait in all_reduce"
    )


def looks(*pairs: tuple[Sight, float]) -> int:
    one = Stillness()
    for seen, now_s in pairs:
        one.seen({0: seen}, now_s)
    return one.looks[0]


def test_a_rank_is_still_while_it_stands_at_one_line_and_uses_nothing() -> None:
    at = [sight(cpu_s=5.0), sight(cpu_s=5.0), sight(cpu_s=5.02)]
    assert looks(*zip(at, (0.0, 5.0, 10.0), strict=True)) == 2
    assert looks((at[0], 0.0), (sight(cpu_s=5.2), 5.0)) == 0, "it computes"
    assert looks((at[0], 0.0), (sight(cpu_s=5.0, digest=8), 5.0)) == 0, "it went on"
    assert looks((at[0], 0.0), (sight(cpu_s=5.0, state="R"), 5.0)) == 0
    assert looks((at[0], 0.0), (sight(cpu_s=5.0, state="D"), 5.0)) == 0, "a disk"
    unseen = sight(cpu_s=5.0, digest=0)
    assert looks((unseen, 0.0), (unseen, 5.0)) == 0, "nothing is known of it"
    other = sight(cpu_s=0.0)
    assert looks((at[0], 0.0), (other, 5.0)) == 0, "another process"
