"""What must hold in a simulated cluster at every instant, whatever is done to it.

The invariants of the design, by number. They know the state of all machines and nothing
of the damage:

1. The newest step that somebody relies on can be found again while one good copy of
   each of its shards is on a machine that was not lost, and no such copy is
   overwritten. Relied on is the newest `keep` that anybody has acted on or, before
   there is one in a round, the step that the round began from.
2. A term has one root, and nobody acts on words older than it has heard.
3. What a rank loads is what was captured at that step, and all ranks load one state.
4. A machine never reserves more than placement gives it.
5. Copies stay inside the idle spans of steps (spans.py).
6. When all links are healed and machines can be had, training goes on within a bound
   (world.py).
7. A stored step is one state, whole (storage.py).
8. Nobody starts before a stored step that could be loaded.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from twinstep.agent import actions as do, messages as say
from twinstep.agent.census import ROOT
from twinstep.agent.election import RootKey
from twinstep.agent.record import Plan
from twinstep.agent.seat import PLAN
from twinstep.sim.memory import Place, Version
from twinstep.store.slots import SLOTS, SLOTS_MAX

if TYPE_CHECKING:
    from twinstep.sim.agent import SimAgent
    from twinstep.sim.ranks import SimRank
    from twinstep.sim.world import World


class Violation(AssertionError):
    """An invariant does not hold."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant


@dataclass(slots=True, kw_only=True, repr=False)
class Kept:
    """A step, and the machines with a good copy of each of its shards."""

    step: int
    captured_in: int
    holders: dict[int, set[str]]


@dataclass(slots=True, kw_only=True, repr=False)
class Check:
    """Watches one cluster. Raises: Violation."""

    world: World
    kept: Kept | None = None
    round: tuple[int, int] = (0, 0)
    machines: int = 0
    """How many trained in the last round."""
    acted: int = 0
    """The newest keep that anybody has acted on in this round."""
    began: list[int] = field(default_factory=list[int])
    """The steps that rounds began from."""
    roots: dict[int, str] = field(default_factory=dict[int, str])
    newest: dict[str, tuple[int, int]] = field(
        default_factory=dict[str, tuple[int, int]]
    )
    spoiled: set[tuple[str, int, int]] = field(
        default_factory=set[tuple[str, int, int]]
    )
    """(machine, shard, step) of copies that were damaged."""

    # 1: nothing that is relied on is lost.

    def lose(self, machine: str) -> None:
        """A machine is gone, or was given up: nobody counts on what it holds."""
        if self.kept is not None:
            for shard in list(self.kept.holders):
                self._drop(shard, machine)

    def spoil(self, machine: str, shard: int, step: int) -> None:
        """A copy was damaged."""
        self.spoiled.add((machine, shard, step))
        if self.kept is not None and self.kept.step == step:
            self._drop(shard, machine)

    def _drop(self, shard: int, machine: str) -> None:
        if self.kept is not None and shard in self.kept.holders:
            self.kept.holders[shard].discard(machine)
            if not self.kept.holders[shard]:
                self.world.events.probe("check: all holders of a shard were lost")
                self.kept = None  # nobody could bring it back

    def overwrites(self, machine: str, place: Place) -> None:
        """A slot is about to be written, or given up."""
        agent = self.world.agents.get(machine)
        if self.kept is None or agent is None:
            return
        version = agent.memory.version(place)
        if version is None or version[:2] != (self.kept.step, self.kept.captured_in):
            return
        if machine in self.kept.holders.get(place[0], ()):
            raise Violation(
                "1",
                f"{machine} overwrites shard {place[0]} at {version}, which is kept",
            )

    def releases(self, agent: SimAgent, shard: int) -> None:
        """All slots of a shard are about to be given up."""
        kept = self.kept
        if kept is None or agent.name not in kept.holders.get(shard, ()):
            return
        if self._is_stored(kept.step, kept.captured_in):
            return
        for slot in range(SLOTS_MAX):
            self.overwrites(agent.name, (shard, slot))

    def _is_stored(self, step: int, captured_in: int) -> bool:
        """Whether the storage has this step, or one that was kept later: whoever has
        damaged that since, nobody could know it."""
        steps = self.world.storage.steps
        version = steps.get(step)
        same = version is not None and version[1] == captured_in
        return same or max(steps, default=0) > step

    def _keep(
        self, step: int, captured_in: int, holders: dict[int, Collection[str]]
    ) -> None:
        good: dict[int, set[str]] = {}
        for shard, names in holders.items():
            fit = {
                name
                for name in names
                if name in self.world.agents and not self.world.is_given_up(name)
                if (name, shard, step) not in self.spoiled
            }
            for name in fit:
                if not self._holds(name, shard, step, captured_in):
                    raise Violation(
                        "1", f"{name} has no copy of shard {shard} at {step}"
                    )
            good[shard] = fit
        whole = all(good.values())
        self.kept = (
            Kept(step=step, captured_in=captured_in, holders=good) if whole else None
        )

    def _holds(self, name: str, shard: int, step: int, captured_in: int) -> bool:
        memory = self.world.agents[name].memory
        versions = [memory.version((shard, slot)) for slot in range(SLOTS_MAX)]
        return any(v is not None and v[:2] == (step, captured_in) for v in versions)

    def heard(
        self, agent: SimAgent, message: say.FromRoot, done: list[do.WorkerAction]
    ) -> None:
        """An agent has taken, or refused, what a root said."""
        worker = agent.worker
        said = (message.term, message.round)
        acts = any(not isinstance(action, do.Log) for action in done)
        if acts and said < self.newest.get(agent.name, (0, 0)):
            what = f"{type(message).__name__} of term and round {said}"
            raise Violation("2", f"{agent.name} acts on {what}, and has heard newer")
        present = (worker.term, worker.round)
        if present < self.newest.get(agent.name, (0, 0)):
            raise Violation("2", f"{agent.name} went back to {present}")
        self.newest[agent.name] = present
        if isinstance(message, say.Begin) and worker.begin is message:
            self._begins(message)
        accepted = not worker.stopped and worker.copies.reserved
        if isinstance(message, say.Answer) and accepted and worker.begin is not None:
            self._answers(message, worker.begin)

    def _begins(self, begin: say.Begin) -> None:
        if (begin.term, begin.round) <= self.round:
            return
        floor = self.kept.step if self.kept is not None else 0
        stored = self.world.storage.newest()
        if begin.step < stored and self._may_know(begin, stored):
            raise Violation(
                "8",
                f"round {begin.round} goes back to {begin.step}; {stored} is stored",
            )
        if begin.step < floor:
            raise Violation(
                "1",
                f"round {begin.round} goes back to {begin.step}, but {floor} was kept "
                f"and has copies on {self.kept.holders if self.kept else {}}",
            )
        lost = self.kept is not None and not self._is_stored(
            self.kept.step, self.kept.captured_in
        )
        if begin.resized_in == begin.round and lost:
            raise Violation(
                "1",
                f"round {begin.round} has other shards, and {floor} is not in storage",
            )
        item = self.world.store.ledger.items.get(PLAN)
        plan = msgspec.msgpack.decode(item.value, type=Plan) if item else None
        if plan is None or plan.round < begin.round:
            raise Violation(
                "6", f"round {begin.round} begins, and the next root would not know it"
            )
        self._count(begin)
        self.round, self.acted = (begin.term, begin.round), 0
        self.began.append(begin.step)
        self.kept = None
        if begin.step > 0:
            holders = self._holders(begin)
            sources = {s: set(names) for s, names in begin.sources.items()}
            stay = {s: holders[s] & sources.get(s, set()) for s in holders}
            self._keep(begin.step, begin.captured_in, {**stay})

    def _count(self, begin: say.Begin) -> None:
        events, machines = self.world.events, len(begin.members)
        events.probe("round: fewer machines begin", machines < self.machines)
        events.probe("round: more machines begin", 0 < self.machines < machines)
        self.machines = machines

    def _may_know(self, begin: say.Begin, stored: int) -> bool:
        """Whether the root that says this has heard what the storage holds, and not
        that this step is bad."""
        root = self.world.root
        if root is None or root.term != begin.term:
            return False
        return root.draining.known and stored not in root.draining.bad

    def _answers(self, answer: say.Answer, begin: say.Begin) -> None:
        """A worker of the present round acts on an answer."""
        if (answer.term, answer.round) != self.round or answer.keep <= self.acted:
            return
        self.acted = answer.keep
        if answer.keep > answer.step:
            raise Violation("1", f"{answer.keep} is kept, and nobody has reached it")
        restored = answer.keep == begin.step
        captured_in = begin.captured_in if restored else begin.round
        self._keep(answer.keep, captured_in, {**self._holders(begin)})

    def _holders(self, begin: say.Begin) -> dict[int, set[str]]:
        """Whose copies of each shard stay where they are in this round."""
        grid = begin.grid(self.world.grid.ranks_per_machine)
        names = [member.machine for member in begin.members]
        holders = {
            shard: {names[holder] for holder in begin.holders[owner]}
            for owner in range(grid.machines)
            for shard in grid.ranks(owner)
        }
        if self.world.settings.shared:
            for local in range(grid.ranks_per_machine):
                holders[grid.shared_shard(local)] = set(names)
        return holders

    # 6: in time all is as it was.

    def mended(self, begin: say.Begin | None) -> None:
        """Nothing was amiss for long since a round began: the step that it began from
        must have all its copies again, though no newer one was captured. Of one that
        was damaged at rest nobody knows until it is read."""
        if begin is None or begin.step == 0 or self.acted > begin.step:
            return
        if begin.stored:
            return  # its copies are those of the next step that is captured
        for shard, names in self._holders(begin).items():
            for name in names:
                spoiled = (name, shard, begin.step) in self.spoiled
                held = self._holds(name, shard, begin.step, begin.captured_in)
                if not held and not spoiled:
                    raise Violation(
                        "6",
                        f"{name} still has no copy of shard {shard} at {begin.step}",
                    )

    # 2: one root a term.

    def elected(self, machine: str, term: int) -> None:
        other = self.roots.setdefault(term, machine)
        if other != machine:
            raise Violation("2", f"term {term} has two roots: {other} and {machine}")

    def follows(self, machine: str, root: RootKey) -> None:
        """A machine that is root still has heard who is."""
        if root.machine != machine:
            raise Violation("2", f"{machine} stays root, and knows that it is {root}")

    def takes(self, holder: SimAgent, said: tuple[int, int]) -> None:
        """A holder lets a copy in that was offered in this term and round."""
        present = (holder.worker.term, holder.worker.round)
        if said != present:
            raise Violation("2", f"{holder.name} takes a copy of {said} in {present}")

    def acts(self, machine: str, message: say.FromRoot) -> None:
        """A root is about to begin or end a round. Only while nobody else can be root,
        unless the store broke its word and ended a lease that was renewed in time."""
        if not isinstance(message, say.Stop | say.Begin | say.Finish):
            return
        agent, ledger = self.world.agents[machine], self.world.store.ledger
        item = ledger.items.get(ROOT)
        if item is not None and item.created == agent.seat.created:
            return
        if agent.seat.elected in self.world.store.ended_early:
            return
        who = "nobody" if item is None else item.value.decode()
        raise Violation(
            "2", f"{machine} acts as root of term {message.term}; root is {who}"
        )

    # 3: what is loaded is what was captured.

    def restores(
        self, rank: SimRank, shard: int, version: Version | None, step: int
    ) -> None:
        wanted = (step, rank.begin.captured_in)
        if version is None or version[:2] != wanted:
            raise Violation(
                "3", f"rank {rank.rank} loads {version} of shard {shard}, not {wanted}"
            )
        crew = rank.crew
        crew.restored = crew.restored or version
        if version != crew.restored:
            raise Violation(
                "3", f"rank {rank.rank} loads {version}, others {crew.restored}"
            )

    # 4: memory is what was reserved.

    def reserved(self, agent: SimAgent) -> None:
        grid, worker, begun = self.world.grid, agent.worker, agent.begun
        assert begun is not None
        owners = [
            owner
            for owner, holders in enumerate(begun.holders)
            if worker.machine_rank in holders
        ]
        shards = len(owners) * grid.ranks_per_machine
        shards += grid.ranks_per_machine if self.world.settings.shared else 0
        most = SLOTS * shards
        most += len(worker.copies.table.spare)
        held = agent.memory.reserved
        if held > most:
            raise Violation("4", f"{agent.name} holds {held} slots, not {most}")
