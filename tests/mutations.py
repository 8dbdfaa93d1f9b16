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

from twinstep.agent import actions as do, inventories, messages as say, pacing
from twinstep.agent.ballot import Ballot
from twinstep.agent.begins import Begins
from twinstep.agent.census import ROOT
from twinstep.agent.copies import Copies
from twinstep.agent.election import Election
from twinstep.agent.health import StepWatch
from twinstep.agent.phase import Phase
from twinstep.agent.root import Root
from twinstep.agent.roster import Roster
from twinstep.agent.traffic import Traffic
from twinstep.agent.transit import Transit
from twinstep.agent.worker import Worker
from twinstep.capture import turn
from twinstep.schedule.budget import Budget
from twinstep.schedule.gate import Gate
from twinstep.schedule.profile import Profiler
from twinstep.schedule.timetable import Link
from twinstep.sim.copies import Arriving
from twinstep.sim.ranks import SimRank
from twinstep.sim.seat import SimSeat
from twinstep.store.slots import SlotTable, State

Mutation = Callable[[], AbstractContextManager[object]]


def planted(owner: object, name: str) -> Callable[[Any], Mutation]:
    """The decorated function takes the original's place, and gets it first."""

    def plant(bug: Any) -> Mutation:
        def mutation() -> AbstractContextManager[object]:
            original = getattr(owner, name)

            def instead(*arguments: Any, **named: Any) -> Any:
                return bug(original, *arguments, **named)

            bugged = property(instead) if isinstance(original, property) else instead
            return patch.object(owner, name, bugged)

        mutation.__name__ = bug.__name__
        MUTATIONS.append(mutation)
        return mutation

    return plant


MUTATIONS: list[Mutation] = []


# Two slots, one vote.


@planted(SlotTable, "target")
def the_slot_of_keep_is_handed_out(original, self, shard, *, keep):
    return original(self, shard, keep=0)


@planted(Worker, "_answer")
def each_machine_chooses_its_own_keep(_original, self, answer):
    if self.stopped or not self.copies.reserved:
        return []
    self.vote.keep = max([*self.copies.safe_steps(), self.vote.keep])
    return [
        do.TellRank(rank=rank, message=self.vote.order(rank, answer, self.copies))
        for rank in self.ranks()
        if rank not in self.vote.writing
    ]


@planted(Ballot, "take")
def a_step_is_kept_when_one_machine_finds_it_safe(original, self, report):
    verdict = original(self, report)
    if verdict is None:
        return None
    self.keep = max([self.keep, *report.safe])
    return replace(verdict, keep=self.keep)


@planted(Copies, "_is_safe")
def a_shard_is_safe_when_its_owner_has_it(_original, self, shard, step):
    return True


@planted(Copies, "_ships")
def a_copy_counts_when_it_is_sent(original, self, shard, slot, entry, *, keep):
    sent = original(self, shard, slot, entry, keep=keep)
    for ship in sent:
        self.acknowledge(ship.shard, ship.step, ship.target_rank)
    return sent


@planted(Copies, "start")
def a_restored_step_is_safe_at_once(original, self, begin, *, machine_rank):
    gone = original(self, begin, machine_rank=machine_rank)
    for key in self.acked:
        self.acked[key] = set(begin.holders[machine_rank])
    return gone


@planted(Transit, "offered")
def a_holder_ignores_the_senders_keep(original, self, *, keep, **offer):
    return original(self, keep=0, **offer)


@planted(turn, "turn")
def a_late_answer_for_a_skipped_step_is_acted_on(original, ordered, **stands):
    due = original(ordered, **stands)
    return turn.Turn.NOW if due is turn.Turn.LATE and not stands["closed"] else due


@planted(turn, "turn")
def a_rank_captures_before_it_stands_at_the_step(original, ordered, **stands):
    due = original(ordered, **stands)
    return turn.Turn.NOW if due is turn.Turn.LATER and not stands["closed"] else due


@planted(Ballot, "take")
def a_capture_is_ordered_while_another_lies_ahead(original, self, report):
    verdict = original(self, report)
    if verdict is not None and verdict.capture:
        self.captured = verdict.step
    return verdict


@planted(Arriving, "verify")
def a_holder_acknowledges_before_it_has_verified(original, self, chunk, due):
    if not original(self, chunk, due):
        self.fail()  # found out when the sender was told already
    return True


@planted(Arriving, "verify")
def a_holder_does_not_verify(_original, self, chunk, due):
    return True


@planted(Copies, "mend")
def twins_that_are_missing_are_not_made_again(_original, self, *, keep):
    return []


# Slots.


@planted(SlotTable, "target")
def a_slot_changes_its_writer_while_the_former_lives(original, self, shard, *, keep):
    slot = original(self, shard, keep=keep)
    filling = [i for i, s in enumerate(self.slots[shard]) if s.state is State.FILLING]
    if slot is None and filling:
        self.abandon(shard, filling[0])
        return filling[0]
    return slot


@planted(Worker, "all_quiet")
def a_half_written_copy_is_listed(original, self, round, master_port):
    for shard, slot, _ in self.copies.table.filling():
        self.copies.table.written(shard, slot)
    return original(self, round, master_port)


@planted(SimRank, "_is_good")
def a_copy_is_loaded_unseen(_original, self, info):
    return True


# Rounds and terms.


@planted(Worker, "from_root")
def answers_of_an_earlier_round_are_accepted(original, self, message):
    old = isinstance(message, say.Answer) and message.round < self.round
    if old and message.term == self.term:
        return self._answer(message)
    return original(self, message)


@planted(Worker, "from_root")
def an_older_roots_words_are_heard(original, self, message):
    self.term = min(self.term, message.term)
    return original(self, message)


@planted(Transit, "offered")
def offers_of_an_earlier_round_are_taken(original, self, *, round, term, **offer):
    worker = self.worker
    return original(self, round=worker.round, term=worker.term, **offer)


@planted(Election, "observe")
def a_deposed_root_stays_root(original, self, root, *, term):
    was_root = self.is_root
    actions = original(self, root, term=term)
    return [] if was_root and root is not None and root.machine != self.machine else (
        actions
    )  # fmt: skip


@planted(SimSeat, "may_decide")
def a_root_acts_though_its_lease_may_be_over(_original, self):
    return ROOT in self.leases


@planted(Begins, "holds")
def the_plan_is_saved_after_begin_is_sent(_original, self, machine, message):
    return False


@planted(Root, "save")
def the_plan_is_not_saved(_original, self):
    return do.Log(text="no plan")


@planted(Worker, "_stop")
def slots_are_freed_while_ranks_live(original, self, stop):
    done = original(self, stop)
    if not self.quiet:
        done += self.all_quiet(stop.round, 29500)
    return done


@planted(Copies, "start")
def acknowledgements_outlive_their_round(original, self, begin, *, machine_rank):
    acked = dict(self.acked)
    gone = original(self, begin, machine_rank=machine_rank)
    self.acked.update(acked)
    return gone


@planted(Ballot, "start")
def what_was_kept_outlives_its_round(original, self, step):
    keep = self.keep
    original(self, step)
    self.keep = keep


# What is chosen.


@planted(inventories, "choose")
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


@planted(inventories, "choose")
def copies_of_two_rounds_make_one_step(original, inventories, **others):
    newest = max((c.captured_in for cs in inventories.values() for c in cs), default=0)
    mixed = {
        machine: [replace(copy, captured_in=newest) for copy in copies]
        for machine, copies in inventories.items()
    }
    return original(mixed, **others)


# Nobody is forgotten.


@planted(StepWatch, "late")
def a_hang_is_never_noticed(_original, self, now_s):
    return False


@planted(Roster, "to_ask")
def no_machine_is_asked_for(_original, self):
    return []


@planted(Root, "joins")
def a_machine_that_comes_back_is_not_told_of_the_round(original, self, join):
    if self.phase in (Phase.STOPPING, Phase.PLACING):
        self.roster.joined[join.machine] = join
        return []
    return original(self, join)


@planted(Copies, "due")
def a_failed_send_is_not_tried_again(_original, self, now_s, *, keep):
    self.retry.clear()
    return []


@planted(Root, "machine_lost")
def the_loss_of_a_machine_while_ranks_stop_is_ignored(original, self, machine, reason):
    if self.phase is Phase.STOPPING:
        return []
    return original(self, machine, reason)


# Copies keep to their spans, and wait no longer than is said.


@planted(Gate, "ask")
def the_gate_does_not_look_whether_training_is_busy(original, self, now, **asked):
    return original(self, now and now._replace(busy=False), **asked)


@planted(Gate, "ask")
def the_gate_forgets_what_is_on_its_way(original, self, now, *, now_s, **asked):
    self._free_s = now_s
    return original(self, now, now_s=now_s, **{**asked, "queued_bytes": 0})


@planted(Gate, "ask")
def a_copy_is_held_back_for_ever(original, self, now, *, held_s, **asked):
    return original(self, now, held_s=0.0, **asked)


@planted(pacing, "fit")
def a_span_is_charged_with_the_rest_of_the_copy(
    original, spans, *, copies_bytes, link, **others
):
    rest = [0]

    class Printed(Link):
        """f(remain) of the paper's Algorithm 2, where f(size) is meant."""

        def fits_bytes(self, room_s, wanted_bytes):
            rest[0] = wanted_bytes
            return super().fits_bytes(room_s, wanted_bytes)

        def takes_s(self, size):
            return super().takes_s(rest[0])

    fields = {name: getattr(link, name) for name in Link.__dataclass_fields__}
    printed = Printed(**fields)
    return original(spans, copies_bytes=copies_bytes, link=printed, **others)


@planted(Profiler, "_watch")
def a_profile_is_never_made_anew(_original, self, found):
    return None


@planted(Budget, "captures")
def the_budget_withholds_two_captures_in_a_row(original, self, step):
    last = self._captured
    due = last is None or not last < step < last + self.every
    if due and self._count == self.settings.withhold_every - 2:
        self._count += 1
        return False
    return original(self, step)


@planted(Budget, "captures")
def a_capture_once_withheld_is_withheld_for_ever(original, self, step):
    captured = original(self, step)
    if self.settings.withhold_every and not captured and self._count == 0:
        self._count = self.settings.withhold_every - 1
    return captured


@planted(Traffic, "hears")
def what_a_slower_machine_needs_is_overwritten(original, self, said):
    self.said.clear()
    return original(self, said)
