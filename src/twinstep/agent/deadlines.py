"""Decides what a round has waited for too long, and names whom it waited for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from twinstep.agent.phase import Phase
from twinstep.agent.roster import Roster
from twinstep.config import Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """A deadline has passed: `machine` is lost to the job or, when empty, the job has
    come to its end."""

    machine: str = ""
    reason: str


def overdue(
    phase: Phase,
    waited_s: float,
    *,
    roster: Roster,
    answered: Collection[str],
    timing: Timing,
) -> Overdue | None:
    """Returns the deadline of `phase` that has passed after `waited_s` seconds.

    `answered` are the machines that have said what they hold."""
    if phase is Phase.STOPPING and waited_s > timing.stop_s_max:
        late = [name for name in roster.present() if name not in answered]
        if late:
            reason = f"did not stop within {timing.stop_s_max:g} s"
            return Overdue(machine=late[0], reason=reason)
    if waited_s <= timing.machine_s_max:
        return None
    within = f"{timing.machine_s_max:g} s"
    if phase is Phase.PLACING:
        vacant = ", ".join(map(str, roster.vacant()))
        return Overdue(
            reason=f"no machine came for machine rank {vacant} within {within}"
        )
    if phase is Phase.GATHERING:
        here = ", ".join(sorted(roster.joined)) or "nobody"
        reason = f"{roster.machines} machines are needed; after {within} there are only"
        return Overdue(reason=f"{reason}: {here}")
    return None
