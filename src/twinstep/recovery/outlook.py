"""Says what would still be there if machines were lost, from what is held now.

The same choice that a root makes after a failure (choice.py), made on the inventories
without the machines in question. Memory loses a step only when all machines with a good
copy of one shard are lost (paper section 4); how many may be lost for certain is
therefore one less than the copies of the worst shard.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from twinstep.recovery.choice import Choice, CopyName, HeldCopy, choose
from twinstep.values import Grid

FATAL_MAX = 16
"""So many of the smallest fatal losses are named; a cluster may have thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """How much more may go wrong while every shard keeps a copy in memory."""

    may_lose: int
    """Whichever so many machines are lost, nothing is. -1: nothing is held."""
    fatal: list[tuple[str, ...]]
    """The smallest losses that end a step in memory: all holders of one shard. At
    most FATAL_MAX of them, in order."""
    only_here: dict[str, list[int]]
    """Machines with the only good copy of shards, and of which."""


def outlook(sources: Mapping[int, Sequence[str]]) -> Outlook:
    """Returns what a step can still lose.

    Args:
      sources: per shard the machines with a good copy of the step."""
    if not sources:
        return Outlook(may_lose=-1, fatal=[], only_here={})
    holders = {tuple(sorted(set(machines))) for machines in sources.values()}
    fewest = min(len(names) for names in holders)
    fatal = sorted(names for names in holders if len(names) == fewest)
    only_here: dict[str, list[int]] = {}
    for shard, machines in sorted(sources.items()):
        if len(set(machines)) == 1:
            only_here.setdefault(machines[0], []).append(shard)
    return Outlook(may_lose=fewest - 1, fatal=fatal[:FATAL_MAX], only_here=only_here)


def if_lost(
    lost: Collection[str],
    inventories: Mapping[str, Sequence[HeldCopy]],
    *,
    grid: Grid,
    shared: bool,
    bad: Collection[CopyName] = (),
) -> Choice:
    """Returns where training would go on if `lost` machines were lost at once.

    Args:
      inventories: what each machine holds, in machine rank order, the lost among."""
    left = {name: held for name, held in inventories.items() if name not in lost}
    return choose(left, grid=grid, shared=shared, bad=bad)
