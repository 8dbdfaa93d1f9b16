"""Reads the machines' inventories as copies to choose from (recovery/choice.py)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from twinstep.agent.messages import Inventory
from twinstep.recovery.choice import Choice, CopyName, HeldCopy, choose
from twinstep.values import Grid


def choose_from(
    inventories: Sequence[Inventory],
    *,
    grid: Grid,
    shared: bool,
    bad: Collection[CopyName],
) -> Choice:
    """Returns where a round starts, from the members' inventories by machine rank.

    Args:
      bad: copies that did not verify."""
    held = {
        inventory.machine: [
            HeldCopy(
                shard=copy.shard,
                step=copy.step,
                captured_in=copy.captured_in,
                digest=copy.digest,
            )
            for copy in inventory.copies
        ]
        for inventory in inventories
    }
    return choose(held, grid=grid, shared=shared, bad=bad)
