"""What is done to the storage of a simulated cluster, and to all who hold a shard.

These come on top of the other damage, where steps are written to storage.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from twinstep.sim.world import World

Strike = Callable[[World, Random], None]
LASTS_S = (0.05, 0.5, 2.0, 6.0)


def storage_away(world: World, random: Random) -> None:
    """It says that it is away, or says nothing at all."""
    world.storage.away, world.storage.hangs = True, random.random() < 0.5
    world.events.after(random.choice(LASTS_S), _storage_back, world)


def storage_full(world: World, random: Random) -> None:
    world.storage.full = True
    world.events.after(random.choice(LASTS_S), _storage_back, world)


def storage_slow(world: World, random: Random) -> None:
    world.storage.slow = True
    world.events.after(random.choice(LASTS_S), _storage_back, world)


def _storage_back(world: World) -> None:
    world.storage.away = world.storage.full = world.storage.slow = False


def spoil_storage(world: World, random: Random) -> None:
    """The newest stored step is damaged; and perhaps it is needed at once."""
    world.storage.spoiled.add(world.storage.newest())
    if random.random() < 0.5:
        kill_holders(world, random)


def kill_holders(world: World, random: Random) -> None:
    """All holders of one shard at once: memory has no whole step any more."""
    root = world.root
    members = root.roster.members if root is not None else []
    holders = root.holders if root is not None else world.holders
    chosen = [members[place] for place in random.choice(holders) if members]
    names = [name for name in chosen if name in world.agents]
    left = len(world.agents) > len(names)
    for name in names if left else names[1:]:
        world.kill_machine(name)


def no_machines(world: World, random: Random) -> None:
    """There is no machine to be had for long, and one or two are lost at once."""
    world.operator.refuses = True
    world.events.after(random.choice((4.0, 12.0, 30.0)), _operator_gives, world)
    for _ in range(random.choice((1, 1, 2))):
        if len(world.agents) > 1:
            world.kill_machine(random.choice(sorted(world.agents)))


def _operator_gives(world: World) -> None:
    world.operator.refuses = False


STORAGE_FAULTS: dict[str, Strike] = {
    "storage_away": storage_away,
    "storage_full": storage_full,
    "storage_slow": storage_slow,
    "spoil_storage": spoil_storage,
    "kill_holders": kill_holders,
}
FEWER_FAULTS: dict[str, Strike] = {"no_machines": no_machines}
"""Of these there are some where a job goes on with fewer machines."""
