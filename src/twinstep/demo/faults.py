"""The ways in which the demo and the soak injure a job: one entry of a table each.

A fault picks its victim from what the job's status says, with the randomness it is
given, and strikes with real signals (inject.py). What strikes at links, at etcd and at
clocks is in outages.py. To add a kind, write a function and put it into FAULTS; the
demo's list and the soak's weights name kinds by these keys.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from twinstep import inject
from twinstep.agent.status import MachineStatus, Status
from twinstep.clock import now_s
from twinstep.demo import victims
from twinstep.demo.ground import Ground
from twinstep.errors import TwinstepError, UsageError

SETTLE_S = 0.3
"""In this time what was captured before is sent and hashed."""


STEPS_LOST_MAX = 1
"""The step whose copies were on their way when the blow fell."""


class Missed(TwinstepError):
    """A moment that was aimed at was over too soon, or did not come; aim again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """What was done to whom, and which copies must be found to be bad after it."""

    who: str
    what: str
    """In a few words, for a table."""
    detail: str
    struck_s: float
    """On the clock of the caller."""
    damaged: tuple[str, int] | None = None
    """The machine and the shard of a copy that was damaged."""
    lasts_s: float = 0.0
    mend: Callable[[], None] | None = field(default=None, compare=False, repr=False)
    """To be called when it has lasted."""
    aims: int = 1
    """How often it was aimed until the moment was met."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a fault sees: a job, and what it runs on."""

    status: Status
    """With numbers of processes as they are here."""
    ground: Ground
    now_s: Callable[[], float] = now_s


Strike = Callable[[Scene, Random], Blow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A kind of failure. `takes_machine`: its memory is lost, or may be, so that the
    next of these must wait until every copy exists again."""

    strike: Strike
    takes_machine: bool
    recovers: bool = True
    """A recovery must follow; else training may go on as if nothing were."""
    cost_max: int = STEPS_LOST_MAX
    """So many steps may be lost, where copies keep up."""
    loses_memory: bool = False
    """All copies of a shard are lost: the job goes back to a step in storage."""
    needs: frozenset[str] = frozenset()
    """Some of "hosts", "etcd", "clocks", "memory", "disk"; "loopback" where it cannot
    be on hosts, "ballast" where the state must be large, and "storage"."""


def training(status: Status) -> list[MachineStatus]:
    """The machines that train, in the order of their machine ranks."""
    found = [machine for machine in status.machines if machine.machine_rank >= 0]
    return sorted(found, key=lambda machine: machine.machine_rank)


def _ranks(status: Status) -> list[int]:
    return sorted(rank for machine in status.machines for rank in machine.ranks)


def not_root(status: Status) -> list[str]:
    names = [machine.machine for machine in training(status)]
    return [name for name in names if name != status.root]


def kill_rank(scene: Scene, random: Random) -> Blow:
    status = scene.status
    rank = random.choice(_ranks(status))
    struck_s = scene.now_s()
    injury = inject.kill_rank(status, rank)
    return Blow(
        who=injury.who,
        what=f"{injury.who} killed",
        detail=injury.detail,
        struck_s=struck_s,
    )


def stop_rank(scene: Scene, random: Random) -> Blow:
    status = scene.status
    rank = random.choice(_ranks(status))
    struck_s = scene.now_s()
    injury = inject.stop_rank(status, rank)
    return Blow(
        who=injury.who,
        what=f"{injury.who} stopped",
        detail=injury.detail,
        struck_s=struck_s,
    )


def kill_agent(scene: Scene, random: Random) -> Blow:
    """Only the agent is hit; its ranks' lives are tied to it (lifeline.py)."""
    machine = random.choice([each.machine for each in training(scene.status)])
    victim = victims.agent_of(scene.status, machine)
    struck_s = scene.now_s()
    victim.kill()
    return Blow(
        who=victim.who,
        what=f"{victim.who} killed",
        detail=f"SIGKILL to process {victim.process}",
        struck_s=struck_s,
    )


def kill_machine(scene: Scene, random: Random) -> Blow:
    status = scene.status
    name = random.choice(not_root(status))
    struck_s = scene.now_s()
    injury = inject.kill_machine(status, name)
    return Blow(who=name, what=f"{name} lost", detail=injury.detail, struck_s=struck_s)


def kill_root(scene: Scene, random: Random) -> Blow:
    status = scene.status
    struck_s = scene.now_s()
    injury = inject.kill_machine(status, "root")
    return Blow(
        who=status.root,
        what=f"{status.root} (root) lost",
        detail=injury.detail,
        struck_s=struck_s,
    )


def corrupt_copy(scene: Scene, random: Random) -> Blow:
    """Damages a machine's own copy, then kills another machine that is not needed to
    mend it: all ranks reload, and the bad copy must be found.

    The ranks are paused meanwhile. In a running job the next step overwrites a
    damaged slot within a tenth of a second, and there would be nothing to find. One
    that was stopped between the root's answer and its copy still does, once; then
    there is nothing to find either. Aiming anew was decided against: the other machine
    is lost by then, and a second one would be lost before that is noticed.

    Raises: UsageError when no machine can be lost."""
    status = scene.status
    pairs = corruptible(status)
    if not pairs:
        raise UsageError("no machine can be lost such that a damaged copy has a twin")
    machine, shard, lost = random.choice(pairs)
    pids = [pid for each in status.machines for pid in each.ranks.values()]
    try:
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        time.sleep(SETTLE_S)
        injury = inject.corrupt_copy(status, machine, shard=shard)
        struck_s = scene.now_s()
        inject.kill_machine(status, lost)
    finally:
        for pid in pids:
            _signal(pid, signal.SIGCONT)
    time.sleep(SETTLE_S)
    lasts = injury.lasts()
    detail = f"a bit of shard {shard} flipped in {machine}, then {lost} killed"
    detail += "" if lasts else "; a step was written over it"
    return Blow(
        who=f"{machine}, {lost}",
        what=f"{machine} bad, {lost} lost",
        detail=detail,
        struck_s=struck_s,
        damaged=(machine, shard) if lasts else None,
    )


def corruptible(status: Status) -> list[tuple[str, int, str]]:
    """Returns (machine, shard, other machine): the shard can be damaged in the
    machine and the other be lost, and a good copy is still left.

    Replicated state is on every machine; an own shard on its holders. The root is
    not killed, since that is a failure of its own."""
    machines = training(status)
    shared = max(status.sizes) if status.shared and status.sizes else -1
    pairs: list[tuple[str, int, str]] = []
    for machine in machines:
        replicated = shared >= 0 and status.sizes[shared] > 0
        shard = shared if replicated else min(machine.ranks, default=-1)
        twins = machines if shard == shared else _holders(machines, shard)
        for lost in machines:
            left = {each.machine for each in twins} - {lost.machine, machine.machine}
            if lost.machine not in (machine.machine, status.root) and left:
                pairs.append((machine.machine, shard, lost.machine))
    return pairs


def _holders(machines: list[MachineStatus], shard: int) -> list[MachineStatus]:
    return [each for each in machines if shard in each.ranks or shard in each.holds]


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
