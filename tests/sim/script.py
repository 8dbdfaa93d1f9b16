"""Plays a scenario script on a simulated cluster, and says what is to be seen.

A script is made of steps: a command, `----`, what it prints; prose begins with `#`.
What is printed has names and relations, but no times and no step numbers, so that a
script is about what happens and not about how fast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from twinstep.agent.census import MACHINES
from twinstep.sim import memory
from twinstep.sim.agent import SimAgent
from twinstep.sim.ranks import SimRank
from twinstep.sim.store import PLACE
from twinstep.sim.world import Settings, World
from twinstep.store.slots import State

MARK = "----"
STEPS_S_MAX = 120.0
NOTICED_S = 15.0
"""Whatever happens is noticed within this time."""


@dataclass
class Step:
    prose: list[str]
    command: str
    prints: list[str]


def parse(text: str) -> list[Step]:
    """Returns the steps of a script."""
    steps: list[Step] = []
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        prose = [line for line in lines if line.startswith("#")]
        rest = [line for line in lines if not line.startswith("#")]
        if not rest:
            steps.append(Step(prose=prose, command="", prints=[]))
            continue
        at = rest.index(MARK)
        steps.append(Step(prose, " ".join(rest[:at]), rest[at + 1 :]))
    return steps


def render(steps: list[Step]) -> str:
    """Returns the script of steps, as it is kept."""
    blocks = [
        "\n".join([*s.prose, *([s.command, MARK, *s.prints] if s.command else [])])
        for s in steps
    ]
    return "\n\n".join(blocks) + "\n"


@dataclass
class Scene:
    """A cluster, and what a script does to it."""

    world: World = field(init=False)
    kept: int = 0
    rounds: int = 0

    def play(self, command: str) -> list[str]:
        """Does what a command says, and returns what is to be seen."""
        word, *arguments = command.split()
        return getattr(self, f"do_{word}")(*arguments)

    # A cluster that trains.

    def do_cluster(self, *settings: str) -> list[str]:
        pairs = [setting.split("=") for setting in settings]
        chosen: dict[str, Any] = {
            name: float(value) if "." in value else int(value) for name, value in pairs
        }
        self.world = World(settings=Settings(**chosen), random=Random("scenario"))
        self.world.run_to_health()
        return [self._who()]

    def do_train(self, steps: str) -> list[str]:
        """So many more steps are safe."""
        world, until_s = self.world, self.world.events.now_s + STEPS_S_MAX
        goal = self._answered() + int(steps)
        while self._answered() < goal or self._safe() < goal - 3:
            world.run_until(world.events.now_s + 0.1)
            assert world.events.now_s < until_s, "no training"
        return ["steps are made and kept"]

    def do_wait(self, seconds: str) -> list[str]:
        self._note()
        self.world.run_until(self.world.events.now_s + float(seconds))
        return self._since()

    def do_resume(self) -> list[str]:
        """Training goes on, whatever that takes; nothing is healed for it."""
        self._note()
        self.world.run_until(self.world.events.now_s + NOTICED_S)
        self.world.run_to_health()
        return [*self._since(), self._who()]

    # What is done to it.

    def do_kill(self, what: str, name: str = "") -> list[str]:
        self._note()
        if what == "rank":
            rank = self._agent_of(int(name)).ranks[int(name)]
            rank.agent.rank_died(rank)
        elif what == "ranks":
            for rank in self._ranks():
                rank.agent.rank_died(rank)
            return ["all ranks of all machines are dead"]
        elif what == "writer":
            while not (writing := [rank for rank in self._ranks() if rank.writing]):
                self.world.events.next()
            writing[0].agent.rank_died(writing[0])
            return ["a rank is dead, and half of its step is written"]
        else:
            self.world.kill_machine(self._name(name))
        return [f"{what} {self._name(name)} is dead"]

    def do_freeze(self, rank: str) -> list[str]:
        self._note()
        self._agent_of(int(rank)).ranks[int(rank)].frozen = True
        return [f"rank {rank} lives, and does nothing"]

    def do_pause(self, name: str, seconds: str) -> list[str]:
        self._note()
        agent = self.world.agents[self._name(name)]
        agent.paused_until_s = self.world.events.now_s + float(seconds)
        return [f"{agent.name} stands still"]

    def do_expire(self, name: str) -> list[str]:
        """The store ends the lease of a machine that has done nothing wrong."""
        self._note()
        agent = self.world.agents[self._name(name)]
        lease = agent.seat.leases[f"{MACHINES}{agent.name}"]
        self.world.store.ended_early.add(lease)
        self.world.store.ledger.leases[lease].ends_s = 0.0
        return [f"the store has ended the lease of {agent.name}"]

    def do_cut(self, one: str, other: str) -> list[str]:
        self._note()
        places = [p for p in [*self.world.agents, PLACE] if p != self._name(one)]
        others = places if other == "all" else [self._name(other)]
        for place in others:
            self.world.network.cut(self._name(one), place)
        return [f"{self._name(one)} does not reach {other}"]

    def do_heal(self) -> list[str]:
        self.world.heal()
        return ["every path works"]

    def do_store(self, how: str) -> list[str]:
        self._note()
        self.world.store.away = how == "away"
        return [f"the store is {how}"]

    def do_operator(self, how: str) -> list[str]:
        self.world.operator.refuses = how == "refuses"
        return [f"the operator {how}"]

    def do_corrupt(self, name: str, shard: str) -> list[str]:
        """A bit flips in each whole copy of a shard on a machine."""
        agent = self.world.agents[self._name(name)]
        for index, slot in enumerate(agent.worker.copies.table.slots[int(shard)]):
            if slot.state is State.WHOLE:  # before, nobody knows what it was
                chunks = agent.memory.slots[int(shard), index]
                self.world.check.spoil(agent.name, int(shard), slot.step)
                chunks[0] = memory.flipped(chunks[0])
        return [f"shard {shard} is damaged on {agent.name}"]

    # What is to be seen.

    def _name(self, word: str) -> str:
        root = next((n for n, a in self.world.agents.items() if a.rooting.root), "")
        return root if word == "root" else word

    def _ranks(self) -> list[SimRank]:
        agents = [agent for _, agent in sorted(self.world.agents.items())]
        return [rank for agent in agents for rank in agent.ranks.values() if rank.alive]

    def _agent_of(self, rank: int) -> SimAgent:
        return next(a for a in self.world.agents.values() if rank in a.ranks)

    def _answered(self) -> int:
        return self.world.root.ballot.answered if self.world.root else 0

    def _safe(self) -> int:
        return self.world.root.ballot.keep if self.world.root else 0

    def _note(self) -> None:
        """What is seen from now on is news."""
        self.kept = self.world.check.kept.step if self.world.check.kept else 0
        self.rounds = len(self.world.check.began)
        self.world.lines.clear()

    def _who(self) -> str:
        root = self.world.root
        names = root.roster.members if root is not None else []
        spares = [n for n, a in self.world.agents.items() if a.worker.machine_rank < 0]
        text = f"training on {', '.join(names)}"
        return f"{text}; standing by: {', '.join(sorted(spares)) or 'nobody'}"

    def _since(self) -> list[str]:
        """What happened since the last note, without times and numbers."""
        seen: list[str] = []
        for line in self.world.lines:
            what = line[20:].strip()
            for known in (
                "lost: ",
                "takes machine rank",
                "goes on with",
                "no longer root",
                "is bad",
            ):
                if known in what and "new root" not in what and what not in seen:
                    seen.append(
                        what.partition(" at step")[0] + " is bad"
                        if known == "is bad"
                        else what.partition(" within ")[0].partition("; state")[0]
                    )
        began = self.world.check.began[self.rounds :]
        if not began:
            return [*seen, "no round began"]
        back = began[-1]
        how = "from the beginning" if back == 0 else "from a step that was kept"
        if back and self.kept and back < self.kept:
            how = "from an EARLIER step than was kept"
        return [*seen, f"training went back, and on {how}"]
