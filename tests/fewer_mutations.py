"""Bugs to plant into how a job goes on with another number of machines (mutations.py).

Importing this adds them to the others."""

from __future__ import annotations

import msgspec

from tests.storage_mutations import MUTATIONS as MUTATIONS, planted
from twinstep.agent import resizing
from twinstep.agent.copies import Copies
from twinstep.agent.draining import Draining


@planted(Draining, "holds")
def slots_are_given_up_before_the_step_is_in_storage(_original, self, *version):
    return True


@planted(resizing, "counted")
def copies_of_another_number_of_machines_count(_original, root, inventory):
    return inventory


@planted(Copies, "start")
def slots_of_another_number_of_machines_stay(original, self, begin, *, machine_rank):
    self.resized_in = begin.resized_in
    return original(self, begin, machine_rank=machine_rank)


@planted(resizing, "_orders")
def what_a_lost_machine_owned_is_not_written(original, root, choice):
    grid, members = root.grid, root.roster.members
    return {
        name: msgspec.structs.replace(
            told, own=[r for r in told.own if members[grid.machine_rank(r)] == name]
        )
        for name, told in original(root, choice).items()
    }
