"""Says what the loss of a chip, a host, a cube or a pod costs.

The switch moves whole cubes, so a lost chip takes its cube out of the torus, though the
memory of the cube's hosts is still there. Who takes the place reads the state from

    the cube that left   over the hosts' network, while its hosts live
    cubes of the pod     over the links between chips, where holders are in the pod
    another pod          over the hosts' network, where pods train alike or hold copies
    storage              where no memory has it: then the whole job goes back

whichever is fastest. All hosts of the place read at once, each its own part from
another host, at policies.SEND_SHARE of the network's speed; then it is copied into the
chips. Training goes back to the last step whose copies were complete: 1.5 captures on
average (GEMINI, section 7.2).

Left out: detecting, and starting processes, which do not depend on the topology (see
policy.Recovery); training on with fewer pods; copies that are made again afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from twinstep.errors import ConfigError
from twinstep.planner.policies import SEND_SHARE
from twinstep.planner.quantities import in_words_bytes, in_words_s
from twinstep.planner.spread import Spread
from twinstep.planner.topology import Pods

What = Literal["chip", "host", "cube", "pod"]
WHATS: tuple[What, ...] = ("chip", "host", "cube", "pod")
Network = Literal["hosts", "chips", "storage"]
"""What is read over: the network of the hosts, the links between chips, storage's."""
LOST_CAPTURES = 1.5
"""One that was not complete yet, and half of the one after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What one failure costs, for state that was captured every step or so."""

    what: What
    chips: int
    """Out of use: a cube's, or all of a pod with its standby cubes."""
    machines: int
    """Hosts that leave the job; a lost chip or host takes its cube's along."""
    memories: int
    """Hosts whose memory is gone."""
    takes_place: str
    wait_s: float
    """Until the operator gives one, where no standby cube waits."""
    rewire_s: float
    read_from: str
    network: Network
    read_bytes: float
    read_s: float
    lost_steps: float
    """Mean, that are trained again."""
    survives: bool
    """Whether memory has the state; else the job goes back to storage."""
    says: str

    @property
    def stopped_s(self) -> float:
        """Waiting, wiring and reading."""
        return self.wait_s + self.rewire_s + self.read_s


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a job saves, and the storage behind its memory."""

    bytes_: float
    """Of one whole state, however many pods have it."""
    step_s: float
    every: int = 1
    """Steps between captures."""
    storage_bytes_per_s: float
    storage_interval_s: float = 3 * 3600.0
    """As GEMINI's section 7.1, after BLOOM."""
    replace_s: float = 330.0
    """Until the operator gives a cube or a pod: 4 to 7 min for a machine of a cloud
    (GEMINI, Figure 14); an assumption for pods."""

    def __post_init__(self) -> None:
        for name in ("bytes_", "step_s", "storage_bytes_per_s", "storage_interval_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(
                    f"{name} is {getattr(self, name):.6g}; it must be more than 0"
                )
        if self.every < 1 or not 0 <= self.replace_s < math.inf:
            raise ConfigError(
                f"every ({self.every}) must be at least 1 and replace_s "
                f"({self.replace_s:.6g}) at least 0"
            )


def losses(spread: Spread, state: State) -> tuple[Loss, ...]:
    """What a lost chip, host, cube and pod cost, in this order."""
    return tuple(loss(spread, state, what=what) for what in WHATS)


def loss(spread: Spread, state: State, *, what: What) -> Loss:
    """What one lost `what` costs, at its worst place."""
    pods = spread.pods
    leaves = _worst(spread, what)
    gone = set({"chip": leaves[:0], "host": leaves[:1]}.get(what, leaves))
    survives = spread.survives(gone)
    host_bytes = state.bytes_ / pods.state_hosts
    if survives:
        read_from, network, read_s = _fastest(spread, leaves, gone, host_bytes)
        read_bytes = host_bytes * len(leaves)
        lost_steps = LOST_CAPTURES * state.every
    else:
        read_from, network = "storage", "storage"
        read_bytes = state.bytes_
        read_s = write_s = state.bytes_ / state.storage_bytes_per_s
        lost_steps = (write_s + state.storage_interval_s / 2) / state.step_s
    read_s += host_bytes / pods.chips_bytes_per_s
    standby = what != "pod" and pods.standby_cubes > 0
    unit = "pod" if what == "pod" else "cube"
    rewire_s = pods.rewire_s if pods.switched else 0.0
    wait_s = 0.0 if standby else state.replace_s
    takes_place = f"a standby {unit}" if standby else f"a {unit} of the operator"
    says = [
        f"a lost {what} takes {len(leaves)} hosts out, and the memory of {len(gone)}",
        f"{takes_place} has the place in {in_words_s(wait_s + rewire_s)}",
        f"{in_words_bytes(read_bytes)} come from {read_from} in {in_words_s(read_s)}",
        f"{lost_steps:.3g} steps are trained again",
    ]
    if not survives:
        says.insert(1, "no memory has all of the state: the whole job goes back")
    return Loss(
        what=what,
        chips=pods.cube_chips * (pods.cubes_per_pod if what == "pod" else 1),
        machines=len(leaves),
        memories=len(gone),
        takes_place=takes_place,
        wait_s=wait_s,
        rewire_s=rewire_s,
        read_from=read_from,
        network=network,
        read_bytes=read_bytes,
        read_s=read_s,
        lost_steps=lost_steps,
        survives=survives,
        says="; ".join(says),
    )


def _worst(spread: Spread, what: What) -> list[int]:
    """The hosts that leave: of the first cube or pod whose loss memory does not
    survive, else of the first."""
    pods = spread.pods
    size = pods.pod_hosts if what == "pod" else pods.cube_hosts
    units = [list(range(at, at + size)) for at in range(0, pods.hosts, size)]
    fatal = (unit for unit in units if not spread.survives(set(unit)))
    return next(fatal, units[0]) if what in ("cube", "pod") else units[0]


def _fastest(
    spread: Spread, leaves: list[int], gone: Collection[int], host_bytes: float
) -> tuple[str, Network, float]:
    """Where the hosts in the place of `leaves` read, over what, in what time."""
    pods = spread.pods
    over_hosts_s = host_bytes / (SEND_SHARE * pods.host_bytes_per_s)
    if near := _in_pod(spread, leaves):
        over_chips_s = host_bytes * len(leaves) / _chips_bytes_per_s(pods)
        if over_chips_s < over_hosts_s:
            return "cubes of its pod", "chips", over_chips_s
    if not gone:
        return "the cube that left", "hosts", over_hosts_s
    if len(gone) < len(leaves):
        return "the cube that left and another holder", "hosts", over_hosts_s
    return ("cubes of its pod" if near else "another pod"), "hosts", over_hosts_s


def _in_pod(spread: Spread, leaves: list[int]) -> bool:
    """Whether each has a holder in its own pod that does not leave with it."""
    size, left = spread.pods.pod_hosts, set(leaves)
    return all(
        any(h // size == m // size and h not in left for h in spread.holders_of(m))
        for m in leaves
    )


def _chips_bytes_per_s(pods: Pods) -> float:
    """Into a whole cube from others of its pod: what its six faces let through, and
    what as many hosts bring into their chips."""
    a, b, c = pods.cube
    faces = 2 * (a * b + b * c + a * c) * pods.link_bytes_per_s
    return min(faces, pods.cube_hosts * pods.chips_bytes_per_s)
