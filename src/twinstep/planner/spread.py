"""Spreads the copies of a job over hosts, cubes and pods.

A host is a machine. Holders of a shard are kept in separate cubes, which fail as a
whole, or in separate pods. Where each pod has the whole state, host h of one pod has
what host h of every other has, so each pod is a copy that training keeps and nothing
is sent for; what is asked for beyond is placed inside each pod.

    pods that share a state          pods that do not
    pod 0  A B C D                   pod 0  A B C D     A's copy is sent to E:
    pod 1  A B C D   2 copies,       pod 1  E F G H     another pod first, then
                     none sent                          another cube

Where nothing is shared, machines are given to place() in an order that goes round the
pods, then the cubes, then the hosts: m machines in a row are then in min(m, pods) pods
and in m cubes, and place() keeps an order that has holders apart. That nests the two
kinds of domain where place() itself takes one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, get_args

from twinstep.errors import ConfigError
from twinstep.placement.strategy import Placement, place
from twinstep.planner.topology import Pods

Apart = Literal["host", "cube", "pod"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Which hosts hold the state of which, by machine rank over all pods."""

    pods: Pods
    apart: Apart
    placement: Placement
    """Of one pod's hosts, alike in each, where pods share a state; else of all."""

    @property
    def shared(self) -> int:
        """Pods that have the same state because they train alike."""
        return self.pods.pods if self.pods.replicated else 1

    @property
    def copies(self) -> int:
        """Hosts that hold each shard, over all pods."""
        return self.shared * self.placement.copies

    @property
    def sent(self) -> int:
        """Copies that each host sends; the others training itself keeps."""
        return self.placement.copies - 1

    def holders_of(self, machine: int) -> tuple[int, ...]:
        """The hosts that hold what `machine` trains, itself first."""
        if self.shared == 1:
            return self.placement.holders_of(machine)
        own, place_in_pod = divmod(machine, self.pods.pod_hosts)
        held_on = self.placement.holders_of(place_in_pod)
        return tuple(
            (own + turn) % self.shared * self.pods.pod_hosts + holder
            for turn in range(self.shared)
            for holder in held_on
        )

    def survives(self, lost: Collection[int]) -> bool:
        """Whether every shard is still in some memory when these hosts' are gone."""
        return all(any(h not in lost for h in self.holders_of(m)) for m in lost)

    def says(self) -> str:
        kept = f"{self.copies} copies of each shard"
        if self.copies == 1:
            return f"{kept}: the loss of any host goes back to storage"
        kept += f", in separate {self.apart}s"
        if self.sent == 0:
            return f"{kept}: the {self.shared} pods train alike, nothing is sent"
        return f"{kept}: each host sends {self.sent}"


def spread(
    pods: Pods, *, copies: int = 2, apart: Apart = "cube", strategy: str = "mixed"
) -> Spread:
    """Returns holders in separate hosts, cubes or pods.

    Raises: ConfigError when there are fewer of those than copies, or place()'s."""
    if apart not in get_args(Apart):
        raise ConfigError(
            f"apart is {apart!r}; use one of {', '.join(get_args(Apart))}"
        )
    places = {
        "host": pods.hosts,
        "cube": pods.pods * pods.training_cubes,
        "pod": pods.pods,
    }[apart]
    if not 1 <= copies <= places:
        wider = {"pod": "apart='cube'", "cube": "apart='host'", "host": "more hosts"}
        raise ConfigError(
            f"copies ({copies}) must be between 1 and the {places} {apart}s that "
            f"train: with apart={apart!r} each is in its own; use fewer copies, or "
            f"{wider[apart]}"
        )
    if pods.replicated and pods.pods > 1:
        inside = -(-copies // pods.pods)
        one = replace(pods, pods=1)
        placement = _placement(one, copies=inside, apart=apart, strategy=strategy)
    else:
        placement = _placement(pods, copies=copies, apart=apart, strategy=strategy)
    return Spread(pods=pods, apart=apart, placement=placement)


def domains(pods: Pods, *, apart: Apart = "cube") -> tuple[str, ...]:
    """The domain of each machine rank, for place(): its pod, its cube, or none."""
    if apart == "host":
        return ()
    return tuple(
        f"pod{pod}" if apart == "pod" else f"pod{pod}/cube{cube}"
        for pod in range(pods.pods)
        for cube in range(pods.training_cubes)
        for _ in range(pods.cube_hosts)
    )


def _placement(pods: Pods, *, copies: int, apart: Apart, strategy: str) -> Placement:
    order = [
        (pod * pods.training_cubes + cube) * pods.cube_hosts + host
        for host in range(pods.cube_hosts)
        for cube in range(pods.training_cubes)
        for pod in range(pods.pods)
    ]
    names = domains(pods, apart=apart)
    # A copy alone has nobody to be apart from.
    ordered = [names[machine] for machine in order] if names and copies > 1 else []
    placed = place(len(order), copies=copies, strategy=strategy, domains=ordered)
    holders = {
        order[at]: tuple(order[holder] for holder in held_on)
        for at, held_on in enumerate(placed.holders)
    }
    return Placement(
        strategy=strategy,
        copies=copies,
        holders=tuple(holders[machine] for machine in range(len(order))),
        domains=names,
    )
