"""Bugs to plant into what decides about storage, as in mutations.py."""

from __future__ import annotations

from dataclasses import replace

from tests.mutations import MUTATIONS as MUTATIONS, planted
from twinstep.agent import actions as do, storing
from twinstep.agent.draining import Draining
from twinstep.store.slots import SlotTable


@planted(SlotTable, "target")
def a_pinned_slot_is_handed_out(original, self, shard, *, keep):
    pinned, self.pinned = self.pinned, {}
    slot = original(self, shard, keep=keep)
    self.pinned = pinned
    return slot


@planted(Draining, "hears")
def a_step_is_made_whole_when_one_part_is_missing(original, self, said, *, now_s):
    writers, self.writers = self.writers, {}
    if said.machine in writers:
        self.writers = {said.machine: writers[said.machine]}
    done = original(self, said, now_s=now_s)
    self.writers = writers
    return [
        replace(one, parts=tuple(writers.values()))
        if isinstance(one, do.MakeWhole)
        else one
        for one in done
    ]


@planted(Draining, "waits")
def a_job_starts_at_step_0_before_the_storage_has_answered(_original, self):
    self.known = True
    return False


@planted(Draining, "better")
def the_storage_is_never_gone_back_to(_original, self, choice):
    return None


@planted(storing, "stored")
def a_part_that_failed_is_said_to_be_there(original, worker, action, **said):
    return original(worker, action, **{**said, "failed": ""})
