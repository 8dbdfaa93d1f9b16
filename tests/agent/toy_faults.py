"""What is done to a toy cluster: a list of damages, drawn from its seed.

Everything may strike in any phase and at any time after another: right behind it, or
when the cluster has long come back.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.agent.toy import Toy
from tests.agent.toy_ranks import ToyRank
from twinstep.agent.lookout import Lookout
from twinstep.store.slots import State

KINDS = (
    *("kill_rank",) * 4,
    *("kill_machine",) * 2,
    *("kill_sender",) * 3,
    *("kill_root",) * 2,
    *("cut_off",) * 2,
    *("depose_root",) * 3,
    *("corrupt_copy",) * 3,
    *("slow_links",) * 3,
    *("break_link",) * 2,
    "freeze_rank",
)


@dataclass
class Faults:
    """Strikes `left` times more, next at `next_event`."""

    left: int
    next_event: int
    struck: int = 0

    @property
    def over(self) -> bool:
        return self.left == 0

    def strike(self, toy: Toy, event: int) -> None:
        if self.left == 0:
            self.next_event = 10**9
            return
        self.left -= 1
        kind = toy.random.choice(KINDS)
        toy.logs.append(f"{toy.now_s:7.3f} ---- {kind}")
        getattr(self, kind)(toy)
        pause = toy.random.choice((3, 30, 100, 200, 400))
        self.next_event = event + int(toy.random.random() * pause)

    # The damages.

    def kill_rank(self, toy: Toy) -> None:
        rank = a_rank(toy)
        if rank is not None:
            toy.kill_rank(rank)

    def freeze_rank(self, toy: Toy) -> None:
        rank = a_rank(toy)
        if rank is not None:
            rank.frozen = True

    def kill_machine(self, toy: Toy) -> None:
        self._kill(toy, a_machine(toy))

    def kill_sender(self, toy: Toy) -> None:
        """A machine that copies are on their way from: the others have not all got
        the newest step, and the one before is all there is."""
        busy = [
            name for name, machine in sorted(toy.machines.items()) if machine.active
        ]
        self._kill(toy, toy.random.choice(busy) if busy else a_machine(toy))

    def kill_root(self, toy: Toy) -> None:
        at = toy.roots.get(toy.term)
        if at is not None:
            self._kill(toy, at.machine)

    def _kill(self, toy: Toy, name: str) -> None:
        """Somebody is left to be root, and knows whom to replace."""
        if toy.plan and any(toy.fit(other) for other in toy.machines if other != name):
            toy.kill_machine(name)

    def depose_root(self, toy: Toy) -> None:
        """Its lease lapses while it lives on: it acts until it sees that."""
        if toy.root is not None:
            former = toy.term
            paused_until_s = toy.now_s + 0.5 * toy.random.random()
            for link in toy.roots[former].links.values():
                link.slow_until_s = paused_until_s
            toy.elect()
            toy.later(toy.random.randint(1, 60), toy.roots.pop, former, None)

    def cut_off(self, toy: Toy) -> None:
        """A machine loses the store and the root, but not the other machines."""
        name = a_machine(toy)
        others = [other for other in toy.machines if other != name and toy.fit(other)]
        if not toy.fit(name) or not others or not toy.plan:
            return
        toy.machines[name].cut = True
        toy.disconnect(name, True)
        toy.check.lose(name)
        if toy.roots.get(toy.term) and toy.roots[toy.term].machine == name:
            self.depose_root(toy)
        toy.push(toy.lapsed, name)
        if toy.random.random() < 0.7:
            toy.push(self.notice, toy, name)
        toy.later(toy.random.randint(1, 20), self.come_back, toy, name)

    def notice(self, toy: Toy, name: str) -> None:
        """The machine that is cut off notices, and ends its ranks."""
        machine = toy.machines.get(name)
        if machine is not None and machine.cut:
            toy.carry(name, machine.worker.cut_off())

    def come_back(self, toy: Toy, name: str) -> None:
        """It ends itself, as its lease is gone; or it was only slow."""
        if name in toy.machines:
            if name in toy.leases or toy.random.random() < 0.5:
                toy.kill_machine(name)
                return
            toy.machines[name].cut = False
            toy.leases.add(name)
            toy.follow(name, toy.term)

    def break_link(self, toy: Toy) -> None:
        """A connection to the root ends, with what was under way, and comes anew."""
        name = a_machine(toy)
        toy.disconnect(name, True)
        toy.later(2, toy.follow, name, toy.term)

    def slow_links(self, toy: Toy) -> None:
        until_s = toy.now_s + 0.4 * toy.random.random()
        machine = toy.machines[a_machine(toy)]
        links = [at.links.get(machine.worker.machine) for at in toy.roots.values()]
        links += [machine.to_root]
        links += [link for r in machine.ranks.values() for link in (r.inbox, r.outbox)]
        for link in links:
            if link is not None and toy.random.random() < 0.6:
                link.slow_until_s = until_s

    def fall_ill(self, toy: Toy) -> None:
        """A machine's probes find it failing: it may be replaced, and nothing lost."""
        name = a_machine(toy)
        lookout = Lookout(worker=toy.machines[name].worker)
        toy.carry(name, lookout.condition("its disk is full", []))

    def corrupt_copy(self, toy: Toy) -> None:
        name = a_machine(toy)
        machine = toy.machines[name]
        whole = [
            (shard, index, slot.step)
            for shard, slots in sorted(machine.worker.copies.table.slots.items())
            for index, slot in enumerate(slots)
            if slot.state is State.WHOLE  # before, nobody knows what it was
        ]
        if whole:
            shard, index, step = toy.random.choice(whole)
            machine.memory[shard, index] = f"flipped bytes of shard {shard} at {step}"
            toy.check.spoil(name, shard, step)


def a_machine(toy: Toy) -> str:
    return toy.random.choice(sorted(toy.machines))


def a_rank(toy: Toy) -> ToyRank | None:
    ranks = [
        rank
        for _, machine in sorted(toy.machines.items())
        for rank in machine.ranks.values()
        if rank.alive and not rank.frozen
    ]
    return toy.random.choice(ranks) if ranks else None


def cluster(seed: int) -> tuple[Toy, Faults]:
    """Returns the cluster of a seed, and what will be done to it."""
    draw = Random(f"cluster {seed}")
    machines = draw.choice((2, 3, 3, 4, 5))
    toy = Toy(
        seed=seed,
        machines=machines,
        ranks=draw.choice((1, 1, 2)),
        copies=min(machines, draw.choice((1, 2, 2, 2, 3))),
        standbys=draw.choice((0, 1)),
        shared=draw.random() < 0.4,
    )
    if draw.random() < 0.5:
        toy.drags[draw.choice(sorted(toy.machines))] = 0.9
    left = draw.randint(1, 4)
    return toy, Faults(left=left, next_event=int(draw.random() * 700))


def explore(seed: int, *, steps: int = 12, ill: bool = False) -> Toy:
    """Runs the cluster of a seed. Raises: AssertionError that names the seed.

    Args:
      ill: machines fall ill, too."""
    toy, faults = cluster(seed)
    if ill:
        for _ in range(toy.random.randint(1, 3)):
            toy.later(toy.random.randint(100, 1500), faults.fall_ill, toy)
    try:
        toy.run(steps=steps, faults=faults)
    except (AssertionError, LookupError, ValueError) as error:
        last = "\n".join(list(toy.logs)[-25:])
        raise AssertionError(f"seed={seed}: {error!r}\n{last}") from error
    return toy
