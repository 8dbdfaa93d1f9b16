"""Chooses the node of a cluster that gets the next machine.

A machine has a node to itself. What the cluster's own software believes is not enough:
a lost machine is known by its lease within two seconds, while its node counts as alive
for half a minute more. So a node that lost a machine gets no other, until it has
started anew (which gives it another id).

Left out: how large a node is, beyond being large enough: machines of a job are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twinstep.cloud.serving import NoMachine

NAMED_MAX = 8
"""So many nodes are told of one by one when there is none to be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A computer of the cluster, as the cluster's software describes it."""

    id: str
    address: str
    alive: bool
    resources: Mapping[str, float]


def choose(
    nodes: Sequence[Node],
    *,
    needs: Mapping[str, float],
    taken: Mapping[str, str],
    lost: Mapping[str, str],
    failed: Mapping[str, int],
) -> Node:
    """Returns the node that gets the next machine: of those that are free, one on
    which the fewest starts have failed.

    Args:
      needs: what a machine asks for, by the names that nodes use.
      taken: by a node's id, the machine that lives there.
      lost: by a node's id, the machine that was lost there.
      failed: by a node's id, how often a machine could not be started there.

    Raises: NoMachine that says of each node why not."""
    no: list[str] = []
    free: list[Node] = []
    for node in sorted(nodes, key=lambda node: node.address):
        if not node.alive:
            continue
        lacks = lacking(node, needs)
        if lacks:
            no.append(f"{node.address} has too little ({lacks})")
        elif node.id in taken:
            no.append(f"{node.address} has {taken[node.id]}")
        elif node.id in lost:
            no.append(f"{node.address} lost {lost[node.id]}")
        else:
            free.append(node)
    if free:
        return min(free, key=lambda node: failed.get(node.id, 0))
    more = f" and {len(no) - NAMED_MAX} more" if len(no) > NAMED_MAX else ""
    raise NoMachine(
        f"no node is free: {'; '.join(no[:NAMED_MAX]) or 'none is alive'}{more}; "
        "each machine has a node to itself: add a node"
    )


def lacking(node: Node, needs: Mapping[str, float]) -> str:
    """Returns in words what a node has too little of; "" if it has enough."""
    return ", ".join(
        f"{name} {node.resources.get(name, 0):g} of {need:g}"
        for name, need in needs.items()
        if node.resources.get(name, 0) < need
    )
