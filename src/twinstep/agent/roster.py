"""Which machines train, which stand by, and which places are vacant.

A place is a machine rank. The machine in it is replaced when it is lost; the machine
rank stays, so that placement, ranks and their shards keep their numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from twinstep.agent.messages import Condition, Inventory, Join, Member
from twinstep.agent.record import Plan


@dataclass(slots=True, kw_only=True)
class Roster:
    """The places of a job and the machines that are here.

    Invariant: a machine has at most one place."""

    machines: int
    members: list[str] = field(default_factory=list[str])
    """By machine rank; an empty name is a vacant place."""
    vacated: dict[int, str] = field(default_factory=dict[int, str])
    """Per vacant machine rank the machine that was lost there."""
    joined: dict[str, Join] = field(default_factory=dict[str, Join])
    asked: set[str] = field(default_factory=set[str])
    """The machines in whose place another one was asked for."""
    struck: dict[str, str] = field(default_factory=dict[str, str])
    """Machines whose ranks died too often, and how."""
    conditions: dict[str, Condition] = field(default_factory=dict[str, Condition])
    """What machines said of themselves."""
    kept: set[str] = field(default_factory=set[str])
    """Machines that are not well and kept their place: copies were only there."""
    awaited: set[int] = field(default_factory=set[int])
    """The places whose ranks another launcher has yet to start."""

    def recall(self, plan: Plan, *, alive: Collection[str]) -> list[str]:
        """Takes the places as the former root knew them; returns who is lost."""
        self.members, self.vacated = list(plan.members), dict(plan.vacated)
        self.struck = {n: why for n, why in plan.struck.items() if n in alive}
        gone = [name for name in self.present() if name not in alive]
        for name in gone:
            self.vacate(name)
        return gone

    def gather(self) -> bool:
        """Fills the places for the first time, by name, once enough are here."""
        names = sorted(n for n, join in self.joined.items() if not join.standby)
        if len(names) < self.machines:
            return False
        self.members = names[: self.machines]
        return True

    def missing(self) -> int:
        """How many machines must join before the job can start."""
        here = sum(not join.standby for join in self.joined.values())
        return max(0, self.machines - here)

    def present(self) -> list[str]:
        """The machines that have a place."""
        return [name for name in self.members if name]

    def addresses(self) -> list[Member]:
        """The machines by machine rank, once every place is taken."""
        joins = [self.joined[name] for name in self.members]
        return [Member(machine=j.machine, host=j.host, port=j.port) for j in joins]

    def reason(self, machine: str) -> str:
        """Why a machine is not well; empty if it is."""
        if machine in self.struck:
            return self.struck[machine]
        said = self.conditions.get(machine)
        return f"unhealthy: {said.failing}" if said and said.failing else ""

    def unwell(self) -> list[str]:
        """The machines with a place that had better be replaced."""
        return [name for name in self.present() if self.reason(name)]

    def fit_spares(self) -> list[str]:
        """The machines without a place that are here and well."""
        spare = [name for name in self.joined if name not in self.members]
        return sorted(name for name in spare if not self.reason(name))

    def forget(self, machine: str) -> None:
        """The machine is gone, and whoever comes under its name is another."""
        self.joined.pop(machine, None)
        self.struck.pop(machine, None)
        self.conditions.pop(machine, None)
        self.kept.discard(machine)

    def vacant(self) -> list[int]:
        empty = {place for place, name in enumerate(self.members) if not name}
        return sorted(empty | self.awaited)

    def seat(
        self, inventories: Mapping[str, Inventory], *, guests: bool
    ) -> list[tuple[str, int]]:
        """Gives places to the machines that have said what they hold; with `guests`,
        as their launcher did. Returns (machine, machine rank) of each that is new."""
        if not guests:
            return self.fill(inventories)
        told = inventories.values()
        return self.follow({i.machine: i.place for i in told if i.place >= 0})

    def follow(self, wanted: Mapping[str, int]) -> list[tuple[str, int]]:
        """Gives the places as another launcher did, once it has given them all.

        `wanted` is the machine rank of each machine whose ranks wait. Of two that want
        one place, one is old: its launcher says so soon. Returns who has moved."""
        places = sorted(wanted.values())
        every = range(self.machines)
        self.awaited = {place for place in every if places.count(place) != 1}
        if self.awaited:
            return []
        former = list(self.members)
        self.members = sorted(wanted, key=lambda name: wanted[name])
        self.vacated.clear()
        return [
            (name, place)
            for place, name in enumerate(self.members)
            if former[place] != name
        ]

    def vacate(self, machine: str) -> None:
        """The machine is lost; its place waits for another."""
        place = self.members.index(machine)
        self.members[place], self.vacated[place] = "", machine
        self.asked.discard(machine)

    def spare_lost(self, machine: str) -> bool:
        """A machine without a place is lost. Where a place waits for one, another is
        asked for, under the name of this one."""
        if machine in self.vacated.values():
            return False
        for place in self.vacant():
            if self.vacated.get(place, "") in self.asked:
                self.vacated[place] = machine
                return True
        return False

    def fill(self, ready: Collection[str]) -> list[tuple[str, int]]:
        """Gives vacant places to machines of `ready`: to one that comes back its own,
        where its copies belong; then standbys first, to the places that were asked
        for first, or a machine that was asked for would be missed elsewhere.

        Returns (machine, machine rank) of each."""
        spare = [
            name for name in ready if name in self.joined and name not in self.members
        ]
        if self.fit_spares():  # ready or not: who is not well is the last resort
            spare = [name for name in spare if not self.reason(name)]
        spare.sort(key=lambda name: (not self.joined[name].standby, name))
        vacant = self.vacant()
        vacant.sort(key=lambda place: self.vacated.get(place, "") not in self.asked)
        taken: list[tuple[str, int]] = []
        for name in list(spare):
            if self.joined[name].machine_rank in vacant:
                vacant.remove(self.joined[name].machine_rank)
                spare.remove(name)
                taken.append((name, self.joined[name].machine_rank))
        taken += zip(spare, vacant, strict=False)
        for name, place in taken:
            self.members[place] = name
            self.vacated.pop(place, None)
        return taken

    def to_ask(self) -> list[tuple[str, int]]:
        """The lost machines (and their places) for which nobody was asked yet."""
        wanted: list[tuple[str, int]] = []
        for place in self.vacant():
            lost = self.vacated.get(place, f"rank{place}")
            if lost not in self.asked:
                self.asked.add(lost)
                wanted.append((lost, place))
        return wanted
