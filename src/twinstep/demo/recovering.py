"""Blows that fall while the job recovers from another one.

A first blow makes it recover. How far that has come is read off the store, as anybody
may who can read it; the second victim is stopped in the phase that was aimed at, and
the store read again: where the recovery has gone on meanwhile, the aim was missed.

    phase        begins with                          is over with
    electing     the root's death                     a new root's first round
    stopping     the plan of the next round           the decision to go back to a step
    placing      a place that no machine can take     the same
    restoring    that decision                        all ranks loaded

A rank restores for as long as it has slots of its agent open: that is seen in /proc.
First and second victim are chosen such that no shard is lost with both.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Protocol, final

from twinstep.agent.record import Plan, Recovery
from twinstep.agent.status import MachineStatus, Status
from twinstep.clock import monotonic_s
from twinstep.demo import victims
from twinstep.demo.faults import Blow, Missed, Scene, Strike, not_root, training
from twinstep.demo.moments import blow_of
from twinstep.demo.together import companions
from twinstep.demo.victims import Victim
from twinstep.errors import UsageError
from twinstep.inject import all_slots
from twinstep.jobs import JobView

REACH_S_MAX = 30.0
"""The phase comes within this time of the first blow, if it comes."""
LOOK_S = 0.001
SETTLE_S = 0.05
"""What had been said before the victim stood still is in the store by then."""
ELECTING_S = 1.5
"""The second blow falls this late at most, before the dead root's lease is over and
somebody else is elected."""

WHO = {
    "electing": ("rank", "agent", "machine"),
    "stopping": ("agent", "root"),
    "placing": ("agent", "root"),
    "restoring": ("rank", "agent", "root", "newcomer"),
}
"""Who is injured in each phase. A newcomer takes the place of the first victim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What the store said before the first blow."""

    round: int
    recoveries: int


def phase_of(
    plan: Plan, recoveries: Sequence[Recovery], *, before: Before, placing: bool
) -> str:
    """Returns the phase that a recovery is in; empty when it is over. Pure.

    Until the first round after the blow, a job that has lost its root is `electing`,
    and any other one has not noticed yet."""
    if plan.round <= before.round:
        return "electing"
    new = recoveries[before.recoveries :]
    if not new or not new[-1].decided_s:
        return "placing" if placing else "stopping"
    return "" if new[-1].loaded_s else "restoring"


def strike(who: str, phase: str, *, kill: bool) -> Strike:
    """Returns the strike at a rank, an agent, a machine, the root or a newcomer in a
    phase of the recovery from another blow."""
    assert who in WHO[phase], (who, phase)
    return partial(_strike, who, phase, kill)


def _strike(who: str, phase: str, kill: bool, scene: Scene, random: Random) -> Blow:
    view = scene.ground.view()
    if view is None:
        raise UsageError("the job is not known yet")
    with closing(view):
        plan = view.plan()
        if plan is None:
            raise UsageError("the job has no plan yet")
        before = Before(round=plan.round, recoveries=len(view.recoveries()))
        course = StoredCourse(view, before)
        first, second = _victims(scene.status, who, phase, random)
        struck_s = scene.now_s()
        for each in first:
            each.kill()
        if phase == "electing":
            time.sleep(random.uniform(0, ELECTING_S))
        victim = reached(course, scene.status, who, phase, second, random)
        victim.stop()
        time.sleep(SETTLE_S)
        gone = who == "rank" and phase == "restoring" and not all_slots(victim.process)
        if gone or course.phase() != phase:
            victim.let_go()
            raise Missed(f"{victim.who}: {phase} was over when it stood still")
        names = " and ".join(each.who for each in first)
        blow = blow_of(
            scene,
            victim,
            random,
            kill=kill,
            detail=f"{names} killed; {phase} {scene.now_s() - struck_s:.2f} s later",
            struck_s=struck_s,
        )
    return blow


class Course(Protocol):
    """How far a recovery has come."""

    def phase(self) -> str: ...

    def members(self) -> list[str]:
        """The machines of the plan, by machine rank; empty names for vacant ones."""
        ...

    def machine(self, name: str, status: Status) -> MachineStatus | None:
        """What is known of a machine now, or was when there was `status`."""
        ...


@final
class StoredCourse:
    """How far the recovery has come, by the store."""

    def __init__(self, view: JobView, before: Before) -> None:
        self._view, self._before = view, before

    def phase(self) -> str:
        plan = self._view.plan()
        assert plan is not None, "there was one before"
        recoveries = self._view.recoveries()
        status = self._view.status()
        placing = status is not None and status.phase == "placing"
        return phase_of(plan, recoveries, before=self._before, placing=placing)

    def members(self) -> list[str]:
        plan = self._view.plan()
        return [] if plan is None else plan.members

    def machine(self, name: str, status: Status) -> MachineStatus | None:
        """What is known of a machine now, or was when there was `status`."""
        for known in (self._view.status(), status):
            for each in known.machines if known is not None else ():
                if each.machine == name:
                    return each
        return None


def couple(status: Status, who: str, phase: str, random: Random) -> tuple[str, str]:
    """Returns the machines of the first and of the second victim; the second is empty
    where only the recovery tells. Pure.

    Raises: UsageError when there is nobody, or shards would be lost with both."""
    others = not_root(status)
    if phase == "electing":
        seconds = others if who == "rank" else companions(status, status.root)
        return status.root, random.choice(seconds)
    if who in ("rank", "newcomer"):
        return random.choice(others), ""
    pool = [status.root] if who == "root" else others
    pairs = [(o, p) for p in pool for o in companions(status, p) if o in others]
    if not pairs:
        raise UsageError(f"no machine can be lost together with {', '.join(pool)}")
    return random.choice(pairs)


def _victims(
    status: Status, who: str, phase: str, random: Random
) -> tuple[list[Victim], Victim | None]:
    """Returns whom to kill first, and whom then."""
    first, second = couple(status, who, phase, random)
    killed = [victims.all_of(status, first)]
    if phase == "placing":
        spares = [each.machine for each in status.machines if each.machine_rank < 0]
        killed = [victims.all_of(status, name) for name in spares] + killed
    if not second:
        return killed, None
    if who == "rank":
        (machine,) = (m for m in training(status) if m.machine == second)
        return killed, victims.rank_of(status, random.choice(sorted(machine.ranks)))
    if who == "agent":
        return killed, victims.agent_of(status, second)
    return killed, victims.all_of(status, second)


def reached(
    course: Course,
    status: Status,
    who: str,
    phase: str,
    victim: Victim | None,
    random: Random,
) -> Victim:
    """Returns the victim, once the phase has come.

    Raises: Missed when it does not, or was over too soon."""
    order = ("electing", "stopping", "placing", "restoring", "")
    old = {each.machine for each in training(status)}
    machine: MachineStatus | None = None
    until_s = monotonic_s() + REACH_S_MAX
    while monotonic_s() < until_s:
        now = course.phase()
        if order.index(now) > order.index(phase):
            raise Missed(f"{phase} was over before anybody saw it")
        if now == phase and victim is not None:
            return victim
        if now == phase:
            if machine is None:
                members = [m for m in course.members() if m]
                new = [name for name in members if name not in old]
                names = new if who == "newcomer" else members
                machine = course.machine(random.choice(names), status)
            if machine is not None and who == "newcomer":
                return victims.whole(machine)  # it may have joined after `status`
            if machine is not None and (found := victims.ranks_with_slots(machine)):
                return random.choice(found)
        time.sleep(LOOK_S)
    raise Missed(f"no {phase} came within {REACH_S_MAX:g} s")
