"""What is done to a simulated cluster: one entry of a table for each kind of damage.

A fault is a kind, a moment and chance of its own: leaving one out changes what happens,
but not what the others are, which is what makes a failing run shrinkable. Those that
last end by themselves. To add a kind, write a function and put it into FAULTS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from twinstep.sim import memory
from twinstep.sim.agent import SimAgent
from twinstep.sim.ranks import SimRank
from twinstep.sim.storage_faults import (
    FEWER_FAULTS,
    LASTS_S,
    STORAGE_FAULTS,
    Strike,
)
from twinstep.sim.store import PLACE
from twinstep.sim.world import World
from twinstep.store.slots import State

SOON = 0.4
"""This share of faults falls right behind another."""
FEW = 0.5
"""In this share of seeds there are only so few kinds of damage that they meet: one that
needs two others to matter would else be seen in one seed of thousands."""
KINDS_FEW = 3
STEPPED = 0.4
"""This share of faults falls when a few steps were made since the last round began:
after a recovery, before all of it is safe again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A damage to come."""

    kind: str
    after_s: float
    """So long after the one before."""
    steps: int
    """Then, once so many steps were made in the present round; 0: at once."""
    seed: str

    def strike(self, world: World) -> None:
        world.log("----", self.kind)
        world.events.probe(f"fault: {self.kind}")
        if world.agents:
            FAULTS[self.kind](world, Random(self.seed))


def plan(random: Random, seed: int, kinds: Sequence[str] | None = None) -> list[Fault]:
    """Returns the faults of a seed, in order."""
    chosen = list(kinds or _usual())
    if random.random() < FEW and len(chosen) > KINDS_FEW:
        chosen = random.sample(chosen, KINDS_FEW)
    faults: list[Fault] = []
    for number in range(random.randint(1, 7)):
        kind, lot = random.choice(chosen), random.random()
        after_s = random.random() * (0.4 if lot < SOON + STEPPED and number else 4.0)
        faults.append(
            Fault(
                kind=kind,
                after_s=after_s,
                steps=random.randint(1, 4) if lot < STEPPED else 0,
                seed=f"{seed} {number} {kind}",
            )
        )
    return faults


def _usual() -> list[str]:
    """The kinds that any cluster meets."""
    return [k for k in FAULTS if k not in STORAGE_FAULTS and k not in FEWER_FAULTS]


# Whom it strikes.


def _machine(world: World, random: Random) -> SimAgent:
    return world.agents[random.choice(sorted(world.agents))]


def _others(world: World, random: Random, name: str) -> list[str]:
    """Some or all places that a machine speaks with."""
    places = [other for other in sorted(world.agents) if other != name] + [PLACE]
    count = random.choice((1, len(places)))
    return random.sample(places, count)


def _rank(world: World, random: Random) -> SimRank | None:
    ranks = [
        rank
        for _, agent in sorted(world.agents.items())
        for rank in agent.ranks.values()
        if rank.alive and not rank.frozen
    ]
    return random.choice(ranks) if ranks else None


def _busy(world: World, random: Random) -> SimAgent:
    """Rather a machine from which copies are on their way."""
    names = [
        name for name, agent in sorted(world.agents.items()) if agent.mover.sending
    ]
    return world.agents[random.choice(names)] if names else _machine(world, random)


def _root(world: World, random: Random) -> SimAgent:
    for _, agent in sorted(world.agents.items()):
        if agent.rooting.root is not None:
            return agent
    return _machine(world, random)


def _spare(world: World) -> bool:
    """Whether somebody is left when one machine is gone."""
    return len(world.agents) > 1


# What it does.


def kill_rank(world: World, random: Random) -> None:
    if (rank := _rank(world, random)) is not None:
        rank.agent.rank_died(rank)


def freeze_rank(world: World, random: Random) -> None:
    """It is stopped by a signal: it lives, and does nothing."""
    if (rank := _rank(world, random)) is not None:
        rank.frozen = True


def kill_machine(world: World, random: Random) -> None:
    if _spare(world):
        world.kill_machine(_machine(world, random).name)


def kill_sender(world: World, random: Random) -> None:
    if _spare(world):
        world.kill_machine(_busy(world, random).name)


def kill_root(world: World, random: Random) -> None:
    if _spare(world):
        world.kill_machine(_root(world, random).name)


def kill_domain(world: World, random: Random) -> None:
    """Two machines at once, as a rack would take them."""
    names = sorted(world.agents)
    for name in random.sample(names, min(2, max(0, len(names) - 1))):
        world.kill_machine(name)


def restart_agent(world: World, random: Random) -> None:
    """A machine dies and is back at once under another name, memory empty."""
    if _spare(world):
        world.kill_machine(_machine(world, random).name)
        world.add_machine()


def pause(world: World, random: Random) -> None:
    """A whole machine stands still, and goes on as if nothing had been."""
    _pause(_machine(world, random), random)


def pause_root(world: World, random: Random) -> None:
    _pause(_root(world, random), random)


def _pause(agent: SimAgent, random: Random) -> None:
    agent.paused_until_s = agent.events.now_s + random.choice(LASTS_S)


def clog(world: World, random: Random) -> None:
    """Some paths of a machine are slow for a while."""
    name = _machine(world, random).name
    until_s = world.events.now_s + random.choice(LASTS_S)
    for other in _others(world, random, name):
        for path in (world.network.path(name, other), world.network.path(other, name)):
            path.clogged_until_s = until_s


def partition(world: World, random: Random) -> None:
    """A machine is cut off from some places or all, one way or both."""
    name = _machine(world, random).name
    both, last_s = random.random() < 0.6, random.choice(LASTS_S)
    pairs = [(name, other) for other in _others(world, random, name)]
    if not both and random.random() < 0.5:
        pairs = [(other, this) for this, other in pairs]
    for source, target in pairs:
        world.network.cut(source, target, both=both)
    world.events.after(last_s, _join, world, pairs)


def partition_root(world: World, random: Random) -> None:
    """The root loses the store: it must not decide, and others must."""
    name = _root(world, random).name
    world.network.cut(name, PLACE)
    world.events.after(random.choice(LASTS_S), _join, world, [(name, PLACE)])


def _join(world: World, pairs: list[tuple[str, str]]) -> None:
    for source, target in pairs:
        for path in (
            world.network.path(source, target),
            world.network.path(target, source),
        ):
            path.cut = False


def drop(world: World, random: Random) -> None:
    """Packets of a machine are lost for a while."""
    name = _machine(world, random).name
    loss = random.choice((0.2, 0.5))
    paths = [
        path
        for other in _others(world, random, name)
        for path in (world.network.path(name, other), world.network.path(other, name))
    ]
    for path in paths:
        path.loss = loss
    world.events.after(random.choice(LASTS_S), _no_loss, world, paths)


def _no_loss(_world: World, paths: list[object]) -> None:
    for path in paths:
        path.loss = 0.0  # pyright: ignore[reportAttributeAccessIssue]


def duplicate(world: World, random: Random) -> None:
    """A connection to the root ends and comes anew: what may have been missed is
    said again, and what was under way may arrive after it."""
    agent = _machine(world, random)
    if agent.to_root is not None:
        agent.to_root.end()


def reorder(world: World, random: Random) -> None:
    """Every connection to the root ends; the machines come back in any order."""
    for _, agent in sorted(world.agents.items()):
        if agent.to_root is not None and random.random() < 0.7:
            agent.to_root.end()


def late_words(world: World, random: Random) -> None:
    """A machine's connection to the root is slow, ends, and what was under way comes
    after the words of the next one; a rank or a machine dies meanwhile, so that rounds
    change, and what was kept may be gone."""
    root = _root(world, random)
    training = [
        (name, link)
        for name, link in sorted(root.rooting.links.items())
        if name in world.agents and world.agents[name].worker.begin is not None
    ]
    if not training:
        return
    name, link = random.choice(training)
    path = world.network.path(root.name, name)
    path.clogged_until_s = world.events.now_s + 0.3
    world.events.after(0.25, link.end, random.choice((0.5, 1.0, 2.0, 4.0, 8.0)))
    kills = random.choice((kill_rank, kill_machine, kill_domain))
    world.events.after(0.26, kills, world, random)


def corrupt_slot(world: World, random: Random) -> None:
    """Bits of whole copies flip at rest, and perhaps a rank must load them at once."""
    agent = _machine(world, random)
    whole = [
        (shard, index, slot.step)
        for shard, slots in sorted(agent.worker.copies.table.slots.items())
        for index, slot in enumerate(slots)
        if slot.state is State.WHOLE  # before, nobody knows what it was
    ]
    chosen = random.choice(whole)[0] if whole else -1
    for shard, index, step in whole:
        if shard == chosen:
            chunks = agent.memory.slots[shard, index]
            number = random.randrange(len(chunks))
            agent.world.check.spoil(agent.name, shard, step)
            chunks[number] = memory.flipped(chunks[number])
    if random.random() < 0.5:
        kill_rank(world, random)


def corrupt_chunk(world: World, random: Random) -> None:
    """The next chunk that leaves a machine is damaged on the way."""
    _busy(world, random).mover.corrupt_next = True


def half_open(world: World, random: Random) -> None:
    """A connection that carries a copy ends for its sender, who tries anew; the holder
    may not see that for long."""
    _busy(world, random).mover.break_next = True


def expire_lease(world: World, random: Random) -> None:
    """The store ends a lease that was renewed in time."""
    leases = sorted(world.store.ledger.leases)
    if leases:
        lease = random.choice(leases)
        world.store.ended_early.add(lease)
        world.store.ledger.leases[lease].ends_s = 0.0


def store_away(world: World, random: Random) -> None:
    world.store.away = True
    world.events.after(random.choice(LASTS_S), _store_back, world)


def _store_back(world: World) -> None:
    world.store.away = False


def skew_clock(world: World, random: Random) -> None:
    """A machine's clock jumps forward: what it measured before looks old."""
    _machine(world, random).skew_s += random.choice((0.5, 5.0))


def operator_refuses(world: World, random: Random) -> None:
    world.operator.refuses = True
    world.events.after(random.choice(LASTS_S), _operator_gives, world)


def _operator_gives(world: World) -> None:
    world.operator.refuses = False


def operator_late(world: World, random: Random) -> None:
    world.operator.takes_s = random.choice((5.0, 10.0))


def standby_dead(world: World, random: Random) -> None:
    """A machine waits to replace another, and is dead when it is needed."""
    spares = [n for n, a in sorted(world.agents.items()) if a.worker.machine_rank < 0]
    world.operator.stillborn += 1
    if spares and _spare(world):
        world.kill_machine(random.choice(spares))


FAULTS: dict[str, Strike] = {
    "kill_rank": kill_rank,
    "freeze_rank": freeze_rank,
    "kill_machine": kill_machine,
    "kill_sender": kill_sender,
    "kill_root": kill_root,
    "kill_domain": kill_domain,
    "restart_agent": restart_agent,
    "pause": pause,
    "pause_root": pause_root,
    "clog": clog,
    "partition": partition,
    "partition_root": partition_root,
    "drop": drop,
    "duplicate": duplicate,
    "reorder": reorder,
    "late_words": late_words,
    "corrupt_slot": corrupt_slot,
    "corrupt_chunk": corrupt_chunk,
    "half_open": half_open,
    "expire_lease": expire_lease,
    "store_away": store_away,
    "skew_clock": skew_clock,
    "operator_refuses": operator_refuses,
    "operator_late": operator_late,
    "standby_dead": standby_dead,
    **STORAGE_FAULTS,
    **FEWER_FAULTS,
}
