"""Prices every policy for a request, and gathers what is to be shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from twinstep.errors import ConfigError
from twinstep.planner.advice import Setting, advise
from twinstep.planner.catching_up import storage_that_does
from twinstep.planner.losses import Loss, State, losses
from twinstep.planner.model import Forecast, forecast, parts_s
from twinstep.planner.policies import every as every_steps, policies
from twinstep.planner.policy import Policy
from twinstep.planner.room import Room, check, room_of
from twinstep.planner.sampling import Outcome, sample
from twinstep.planner.spread import spread
from twinstep.planner.upkeep import Upkeep, service, standbys_needed
from twinstep.planning.request import Request

SERVICE_S = 3600.0
"""Of a cube, out of use: an assumption."""
REPAIR_S = 24 * 3600.0
"""Of a cube that failed: an assumption."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """A policy, and what it comes to."""

    policy: Policy
    forecast: Forecast
    outcome: Outcome | None
    """Where samples were drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that is shown of a request."""

    request: Request
    room: Room
    priced: list[Priced]
    settings: list[Setting]
    storage_bytes_per_s: float
    """From which on plain storage does; infinity: none does."""
    days: float
    samples: int
    losses: tuple[Loss, ...] = ()
    """Of a chip, a host, a cube and a pod, where there are pods."""
    upkeep: Upkeep | None = None
    standby_cubes: int = 0
    """That a pod should keep, so that a lost cube finds one; 0: no number does."""

    def record(self) -> dict[str, Any]:
        """The plan as plain data, for `--json`."""
        return {
            "job": asdict(self.request.job),
            "failures": asdict(self.request.failures),
            "costs": asdict(self.request.costs),
            "assumed": self.request.assumed,
            "room": asdict(self.room),
            "policies": [_record(one, self.request) for one in self.priced],
            "settings": [asdict(one) for one in self.settings],
            "storage_that_does_bytes_per_s": self.storage_bytes_per_s,
            "days": self.days,
            "samples": self.samples,
            "losses": [asdict(one) for one in self.losses],
            "standby_cubes": self.standby_cubes,
            "upkeep": asdict(self.upkeep) if self.upkeep else None,
        }


def make(request: Request, *, days: float, samples: int, seed: int) -> Plan:
    """Returns the plan; without samples, of closed forms only.

    Raises: DoesNotFit where the copies do not fit into a machine's memory."""
    job, failures, costs = request.job, request.failures, request.costs
    room = room_of(job)
    check(room, job)
    every = policies(job, failures, costs)
    outcomes = (
        sample(
            every,
            job,
            failures,
            days=days,
            samples=samples,
            seed=seed,
            trace=request.trace,
        )
        if samples
        else {}
    )
    return Plan(
        request=request,
        room=room,
        priced=[
            Priced(
                policy=policy,
                forecast=forecast(policy, job, failures),
                outcome=outcomes.get(policy.name),
            )
            for policy in every
        ],
        settings=advise(job, failures, costs),
        storage_bytes_per_s=storage_that_does(job, failures, costs),
        days=days,
        samples=samples,
        losses=_losses(request),
        upkeep=_upkeep(request),
        standby_cubes=_standby_cubes(request),
    )


def _losses(request: Request) -> tuple[Loss, ...]:
    job, pods = request.job, request.pods
    if pods is None:
        return ()
    state = State(
        bytes_=job.state_bytes,
        step_s=job.step_s,
        every=every_steps(job),
        storage_bytes_per_s=job.storage_bytes_per_s,
        replace_s=request.costs.replace_s,
    )
    return losses(spread(pods, copies=job.copies), state)


def _standby_cubes(request: Request) -> int:
    """For the failures that take a cube out: of any of its hosts, and of itself."""
    pods, failures = request.pods, request.failures
    if pods is None:
        return 0
    cubes = sum(one.per_day for one in failures.domains if one.name == "cube")
    per_day = cubes + pods.cube_hosts * failures.machine_per_machine_day
    try:
        return standbys_needed(pods, cube_per_day=per_day, repair_s=REPAIR_S)
    except ConfigError:
        return 0


def _upkeep(request: Request) -> Upkeep | None:
    pods, costs = request.pods, request.costs
    if pods is None or not pods.standby_cubes:
        return None
    return service(
        pods,
        service_s=SERVICE_S,
        restart_s=costs.start_s + costs.connect_s,
        state_bytes=request.job.state_bytes,
    )


def _record(one: Priced, request: Request) -> dict[str, Any]:
    policy = one.policy
    return {
        "name": policy.name,
        "says": policy.says,
        "slowdown": policy.slowdown,
        "tiers": [asdict(tier) for tier in policy.tiers],
        "recovery": asdict(policy.recovery),
        "lost_machine_parts_s": parts_s(policy, request.job, request.failures),
        "notes": list(policy.notes),
        "forecast": asdict(one.forecast),
        "sampled": asdict(one.outcome) if one.outcome else None,
    }
