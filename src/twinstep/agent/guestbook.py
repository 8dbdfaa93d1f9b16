"""Decides which ranks may train of those that another launcher started.

Ranks arrive one by one and wait. When all of the machine are here, alive and with one
machine rank, the machine *has a place*, which its inventory tells the root. When the
root has begun a round with the machine in that place, they are admitted to it. A round
that is over ends those it admitted, for their launcher to start again; those that still
wait have done nothing yet, and wait for the next one.

    arrive ──► wait ──► admitted ──► gone ──► the launcher starts it again ──► arrive
                 └────── gone ────────┘

Left out: sockets, processes and their ends (guests.py), and who launches.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twinstep.agent.messages import Arrive
from twinstep.values import Grid


@dataclass(slots=True, kw_only=True)
class Guest:
    """A rank that is here. `round` is 0 while it waits."""

    arrive: Arrive
    pid: int
    parent: int
    """The process that started it, of its launcher."""
    round: int = 0
    left: bool = False
    """It has said that it is about to end well."""


@dataclass(slots=True, kw_only=True)
class Guestbook:
    """The ranks of one machine that are here.

    Invariant: those that were admitted are of one round; nobody is here twice."""

    grid: Grid
    guests: dict[int, Guest] = field(default_factory=dict[int, Guest])
    """By process."""
    round: int = 0
    """The round that has begun, and waits for its ranks; 0 for none."""
    machine_rank: int = -1

    def refusal(self, arrive: Arrive, *, parent: int, living: set[int]) -> str:
        """Returns why a rank that arrives cannot train here, or nothing.

        `living` are the parents of guests that are known to live."""
        grid = self.grid
        if (arrive.world_size, arrive.ranks_per_machine) != (
            grid.world_size,
            grid.ranks_per_machine,
        ):
            return (
                f"rank {arrive.rank} was started as one of {arrive.world_size}, "
                f"{arrive.ranks_per_machine} on a machine; this job's agents count on "
                f"{grid.world_size}, {grid.ranks_per_machine} on a machine. Start as "
                "many as before (torchrun --nnodes=N, without a range), or name "
                "another job with TWINSTEP_JOB"
            )
        known = 0 <= arrive.machine_rank < grid.machines
        if not known or arrive.rank not in grid.ranks(arrive.machine_rank):
            return f"rank {arrive.rank} is none of machine rank {arrive.machine_rank}"
        for guest in self.guests.values():
            other = guest.parent != parent and guest.parent in living
            if guest.arrive.local_rank == arrive.local_rank and other:
                return (
                    f"process {guest.pid} of another launcher (process {guest.parent}) "
                    f"is local rank {arrive.local_rank} of this machine already; where "
                    "one computer stands for several machines, give each a name with "
                    "TWINSTEP_MACHINE; where these are two jobs, with TWINSTEP_JOB"
                )
        return ""

    def arrives(self, arrive: Arrive, *, pid: int, parent: int) -> list[Guest]:
        """A rank is here. Returns those it takes the place of, which must end."""
        old = [
            guest
            for guest in self.guests.values()
            if guest.arrive.local_rank == arrive.local_rank and guest.pid != pid
        ]
        self.guests[pid] = Guest(arrive=arrive, pid=pid, parent=parent)
        return old

    def gone(self, pid: int) -> Guest | None:
        """A process is gone; returns the guest it was."""
        return self.guests.pop(pid, None)

    @property
    def place(self) -> int:
        """The machine rank of those that wait, once they are all here; else -1."""
        waiting = [guest.arrive for guest in self.guests.values() if not guest.round]
        places = {arrive.machine_rank for arrive in waiting}
        if len(places) != 1:
            return -1
        place = places.pop()
        ranks = sorted(arrive.rank for arrive in waiting)
        return place if ranks == list(self.grid.ranks(place)) else -1

    @property
    def admitted(self) -> list[Guest]:
        return [guest for guest in self.guests.values() if guest.round]

    def begins(self, *, round: int, machine_rank: int) -> None:
        """The round has begun, with the machine in this place."""
        assert not self.admitted, "ranks of an earlier round are still here"
        self.round, self.machine_rank = round, machine_rank

    def ends(self) -> list[Guest]:
        """The round is over; returns those who must end with it."""
        self.round = 0
        return self.admitted

    def enter(self) -> list[Guest]:
        """Admits those that wait, where a round has begun and all are here."""
        if not self.round or self.admitted or self.place != self.machine_rank:
            return []
        for guest in self.guests.values():
            guest.round = self.round
        self.round = 0  # once: whoever comes after them trains in the next round
        return self.admitted

    @property
    def misplaced(self) -> bool:
        """All are here, for a round in which the machine has another place: their
        launcher has placed them anew."""
        return bool(self.round) and self.place not in (-1, self.machine_rank)
