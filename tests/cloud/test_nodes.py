"""Which node gets the next machine, and what is said when none can."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from twinstep.cloud.nodes import NAMED_MAX, Node, choose
from twinstep.cloud.serving import NoMachine

NONE: Mapping[str, str] = {}


def node(number: int, *, alive: bool = True, cpus: float = 2) -> Node:
    return Node(
        id=f"id{number}",
        address=f"10.0.0.{number}",
        alive=alive,
        resources={"CPU": cpus},
    )


def chosen(
    *nodes: Node,
    taken: Mapping[str, str] = NONE,
    lost: Mapping[str, str] = NONE,
    failed: Mapping[str, int] | None = None,
) -> str:
    return choose(
        nodes, needs={"CPU": 2}, taken=taken, lost=lost, failed=failed or {}
    ).id


def test_a_machine_has_a_node_to_itself() -> None:
    assert chosen(node(1), node(2), taken={"id1": "m00"}) == "id2"


def test_a_node_that_lost_a_machine_is_not_used_though_it_counts_as_alive() -> None:
    assert chosen(node(1), node(2), lost={"id1": "m00"}) == "id2"
    # Started anew, the same computer is another node.
    assert chosen(node(1), lost={"id0": "m00"}) == "id1"


def test_a_node_on_which_a_start_failed_comes_last() -> None:
    assert chosen(node(1), node(2), failed={"id1": 1}) == "id2"
    assert chosen(node(1), node(2), failed={"id1": 1, "id2": 2}) == "id1"


def test_of_each_node_it_is_said_why_not() -> None:
    nodes = [node(1, cpus=1), node(2), node(3), node(4, alive=False)]
    with pytest.raises(NoMachine) as refused:
        chosen(*nodes, taken={"id2": "m00"}, lost={"id3": "m01"})
    assert str(refused.value) == (
        "no node is free: 10.0.0.1 has too little (CPU 1 of 2); 10.0.0.2 has m00; "
        "10.0.0.3 lost m01; each machine has a node to itself: add a node"
    )
    with pytest.raises(NoMachine, match="none is alive"):
        chosen(node(4, alive=False))


def test_a_large_cluster_is_said_shortly() -> None:
    nodes = [node(number) for number in range(100)]
    with pytest.raises(NoMachine, match=f"and {100 - NAMED_MAX} more"):
        chosen(*nodes, taken={each.id: "m" for each in nodes})
