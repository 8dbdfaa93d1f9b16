"""Bugs to plant into the shipped decisions, to see that the simulator finds each.

A mutation is a function that returns what puts the bug in place for a while. Those that
a look at the code could miss are the point: most of them are one forgotten comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from twinstep.agent import actions as do, inventories
from twinstep.agent.ballot import Ballot
from twinstep.agent.copies import Copies
from twinstep.agent.election import Election
from twinstep.agent.health import StepWatch
from twinstep.agent.phase import Phase
from twinstep.agent.root import Root
from twinstep.agent.roster import Roster
from twinstep.agent.transit import Transit
from twinstep.agent.worker import Worker
from twinstep.store.slots import SlotTable

Mutation = Callable[[], AbstractContextManager[object]]


def _patched(owner: object, name: str) -> Callable[[Any], Mutation]:
    """The decorated function takes the original's place, and gets it first."""

    def plant(bug: Any) -> Mutation:
        def mutation() -> AbstractContextManager[object]:
            original = getattr(owner, name)

            def instead(*arguments: Any, **named: Any) -> Any:
                return bug(original, *arguments, **named)

            return patch.object(owner, name, instead)

        mutation.__name__ = bug.__name__
        MUTATIONS.append(mutation)
        return mutation

    return plant


MUTATIONS: list[Mutation] = []


# Two slots, one vote.


@_patched(SlotTable, "target")
def the_slot_of_keep_is_handed_out(original, self, shard, *, keep):
    return original(self, shard, keep=0)


@_patched(Worker, "_answer")
def each_machine_chooses_its_own_keep(_original, self, answer):
    if self.stopped or not self.copies.reserved:
        return []
    self.vote.keep = max([*self.copies.safe_steps(), self.vote.keep])
    return [
        do.TellRank(rank=rank, message=self.vote.order(rank, answer, self.copies))
        for rank in self.ranks()
        if rank not in self.vote.writing
    ]


@_patched(Ballot, "take")
def a_step_is_kept_when_one_machine_finds_it_safe(original, self, report):
    verdict = original(self, report)
    if verdict is None:
        return None
    self.keep = max([self.keep, *report.safe])
    return replace(verdict, keep=self.keep)


@_patched(Copies, "_is_safe")
def a_shard_is_safe_when_its_owner_has_it(_original, self, shard, step):
    return True


@_patched(Copies, "_ships")
def a_copy_counts_when_it_is_sent(original, self, shard, slot, entry, *, keep):
    sent = original(self, shard, slot, entry, keep=keep)
    for ship in sent:
        self.acknowledge(ship.shard, ship.step, ship.target_rank)
    return sent


@_patched(Copies, "start")
def a_restored_step_is_safe_at_once(original, self, begin, *, machine_rank):
    gone = original(self, begin, machine_rank=machine_rank)
    for key in self.acked:
        self.acked[key] = set(begin.holders[machine_rank])
    return gone


@_patched(Transit, "offered")
def a_holder_ignores_the_senders_keep(original, self, *, keep, **offer):
    return original(self, keep=0, **offer)


# Rounds and terms.


@_patched(Worker, "from_root")
def an_older_roots_words_are_heard(original, self, message):
    self.term = min(self.term, message.term)
    return original(self, message)


@_patched(Transit, "offered")
def offers_of_an_earlier_round_are_taken(original, self, *, round, term, **offer):
    worker = self.worker
    return original(self, round=worker.round, term=worker.term, **offer)


@_patched(Election, "observe")
def a_deposed_root_stays_root(original, self, root, *, term):
    was_root = self.is_root
    actions = original(self, root, term=term)
    return [] if was_root and root is not None and root.machine != self.machine else (
        actions
    )  # fmt: skip


@_patched(Worker, "_stop")
def slots_are_freed_while_ranks_live(original, self, stop):
    done = original(self, stop)
    if not self.quiet:
        done += self.all_quiet(stop.round, 29500)
    return done


@_patched(Copies, "start")
def acknowledgements_outlive_their_round(original, self, begin, *, machine_rank):
    acked = dict(self.acked)
    gone = original(self, begin, machine_rank=machine_rank)
    self.acked.update(acked)
    return gone


@_patched(Ballot, "start")
def what_was_kept_outlives_its_round(original, self, step):
    keep = self.keep
    original(self, step)
    self.keep = keep


# What is chosen.


@_patched(inventories, "choose")
def the_newest_step_is_taken_whole_or_not(original, inventories, *, grid, **others):
    shards = sorted({c.shard for copies in inventories.values() for c in copies})
    present = [shard for shard in grid.shards if shard in shards]
    found = original(inventories, grid=grid, **others)
    newest = max((c.step for cs in inventories.values() for c in cs), default=0)
    if newest <= found.step or not present:
        return found
    captured_in = max(
        c.captured_in for cs in inventories.values() for c in cs if c.step == newest
    )
    sources = {
        s: [m for m, cs in inventories.items() for c in cs
            if c.shard == s and c.step == newest]
        for s in present
    }  # fmt: skip
    return replace(found, step=newest, captured_in=captured_in, sources=sources)


@_patched(inventories, "choose")
def copies_of_two_rounds_make_one_step(original, inventories, **others):
    newest = max((c.captured_in for cs in inventories.values() for c in cs), default=0)
    mixed = {
        machine: [replace(copy, captured_in=newest) for copy in copies]
        for machine, copies in inventories.items()
    }
    return original(mixed, **others)


# Nobody is forgotten.


@_patched(StepWatch, "late")
def a_hang_is_never_noticed(_original, self, now_s):
    return False


@_patched(Roster, "to_ask")
def no_machine_is_asked_for(_original, self):
    return []


@_patched(Root, "joins")
def a_machine_that_comes_back_is_not_told_of_the_round(original, self, join):
    if self.phase in (Phase.STOPPING, Phase.PLACING):
        self.roster.joined[join.machine] = join
        return []
    return original(self, join)


@_patched(Copies, "due")
def a_failed_send_is_not_tried_again(_original, self, now_s, *, keep):
    self.retry.clear()
    return []


@_patched(Root, "machine_lost")
def the_loss_of_a_machine_while_ranks_stop_is_ignored(original, self, machine, reason):
    if self.phase is Phase.STOPPING:
        return []
    return original(self, machine, reason)
