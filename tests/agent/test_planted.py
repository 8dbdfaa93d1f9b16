"""Bugs planted into the shipped decisions: the exploration of toy clusters finds each.

What finds them is toy_check.py, the contents of slots, or training that stands still.
SEEDS is looked through at most; PLANTED says which seed was the first to find each.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from unittest.mock import patch

import pytest

from tests.agent.toy_faults import explore
from twinstep.agent import actions as do, messages as say
from twinstep.agent.copies import Copies
from twinstep.agent.transit import Transit
from twinstep.agent.worker import Worker
from twinstep.recovery import choice
from twinstep.store.slots import SlotTable

SEEDS = 300

original_choose = choice.choose
original_target = SlotTable.target
original_from_root = Worker.from_root
original_offered = Transit.offered
original_start = Copies.start
original_stop = Worker._stop


def the_slot_of_keep_is_handed_out() -> AbstractContextManager[object]:
    def target(self, shard, *, keep):
        return original_target(self, shard, keep=0)

    return patch.object(SlotTable, "target", target)


def each_machine_chooses_its_own_keep() -> AbstractContextManager[object]:
    def answer(self, answer):
        if self.stopped or not self.copies.reserved:
            return []
        self.vote.keep = max([*self.copies.safe_steps(), self.vote.keep])
        return [
            do.TellRank(rank=rank, message=self.vote.order(rank, answer, self.copies))
            for rank in self.ranks()
            if rank not in self.vote.writing
        ]

    return patch.object(Worker, "_answer", answer)


def answers_of_an_earlier_round_count() -> AbstractContextManager[object]:
    def from_root(self, message):
        if isinstance(message, say.Answer):
            return self._answer(message)
        return original_from_root(self, message)

    return patch.object(Worker, "from_root", from_root)


def offers_of_an_earlier_round_are_taken() -> AbstractContextManager[object]:
    def offered(self, *, round, term, **offer):
        worker = self.worker
        return original_offered(self, round=worker.round, term=worker.term, **offer)

    return patch.object(Transit, "offered", offered)


def a_restored_step_is_safe_at_once() -> AbstractContextManager[object]:
    def start(self, begin, *, machine_rank):
        gone = original_start(self, begin, machine_rank=machine_rank)
        for key in self.acked:
            self.acked[key] = set(begin.holders[machine_rank])
        return gone

    return patch.object(Copies, "start", start)


def a_copy_counts_when_it_is_sent() -> AbstractContextManager[object]:
    original = Copies._ships

    def ships(self, shard, slot, entry, *, keep):
        sent = original(self, shard, slot, entry, keep=keep)
        for ship in sent:
            self.acknowledge(ship.shard, ship.step, ship.target_rank)
        return sent

    return patch.object(Copies, "_ships", ships)


def copies_of_two_rounds_make_one_step() -> AbstractContextManager[object]:
    def choose(inventories, **others):
        newest = max(
            (c.captured_in for cs in inventories.values() for c in cs), default=0
        )
        mixed = {
            machine: [
                choice.HeldCopy(
                    shard=c.shard, step=c.step, captured_in=newest, digest=c.digest
                )
                for c in copies
            ]
            for machine, copies in inventories.items()
        }
        return original_choose(mixed, **others)

    return patch("twinstep.agent.inventories.choose", choose)


def copies_after_the_step_are_not_forgotten() -> AbstractContextManager[object]:
    return patch.object(SlotTable, "forget_after", lambda self, step: None)


def a_holder_ignores_the_senders_keep() -> AbstractContextManager[object]:
    def offered(self, *, keep, **offer):
        return original_offered(self, keep=0, **offer)

    return patch.object(Transit, "offered", offered)


def slots_are_freed_while_ranks_live() -> AbstractContextManager[object]:
    def stop(self, stop):
        done = original_stop(self, stop)
        if not self.quiet:
            done += self.all_quiet(stop.round, 29500)
        return done

    return patch.object(Worker, "_stop", stop)


PLANTED = [
    the_slot_of_keep_is_handed_out,  # 1
    each_machine_chooses_its_own_keep,  # 1
    answers_of_an_earlier_round_count,  # 14
    offers_of_an_earlier_round_are_taken,  # 88
    a_restored_step_is_safe_at_once,  # 2
    a_copy_counts_when_it_is_sent,  # 0
    copies_of_two_rounds_make_one_step,  # 16
    copies_after_the_step_are_not_forgotten,  # 19
    a_holder_ignores_the_senders_keep,  # 9
    slots_are_freed_while_ranks_live,  # 1
]


def found_after(plant, seeds: int) -> tuple[int, str]:
    with plant():
        for seed in range(seeds):
            try:
                explore(seed)
            except AssertionError as error:
                return seed, str(error).splitlines()[0]
    return -1, ""


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_the_exploration_finds_a_planted_bug(plant) -> None:
    seed, _ = found_after(plant, SEEDS)
    assert seed >= 0, f"{plant.__name__}: not found within {SEEDS} seeds"
