"""Says under which assumptions goodput goes from 85 % to 97 %.

The Gemini 1.0 report (section 3) says that redundant copies in memory raised the
goodput of its largest job from 85 % to 97 %, compared with periodic checkpoints on
storage, and says neither how often something failed nor what a checkpoint took. So
these are taken as unknown: how often must a job fail for 85 %, and what may a failure
then cost for 97 %?
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from twinstep.planner.failures import Failures
from twinstep.planner.job import Job
from twinstep.planner.model import Forecast, forecast
from twinstep.planner.policies import MAKERS, Costs
from twinstep.planner.quantities import DAY_S

BEFORE, AFTER = 0.85, 0.97
HALVINGS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """A policy on storage that comes to 85 %, and what follows."""

    policy: str
    """On storage."""
    per_day: float
    """Failures of the whole job, at which it comes to BEFORE."""
    cost_before_s: float
    """What each of them costs then."""
    cost_after_s: float
    """What each may cost for AFTER, at as many failures."""
    reached: float
    """What twinstep comes to at as many, with the costs given."""
    reached_cost_s: float


def largest_job() -> Job:
    """A job of that kind. The report gives no size: one TPUv4 superpod of 4,096 chips
    (1,024 hosts), 500e9 parameters and storage of 1 Tbit/s are assumed."""
    return Job(
        machines=1024,
        ranks_per_machine=4,
        parameters=500e9,
        step_s=10.0,
        network_bytes_per_s=100e9 / 8,
        storage_bytes_per_s=1e12 / 8,
        copies=2,
        standbys=64,
    )


def assumptions(job: Job, costs: Costs) -> list[Assumption]:
    """Returns, per policy on storage that can come to 85 %, what that takes."""
    found: list[Assumption] = []
    for name in ("strawman", "best interval", "sharded"):

        def at(per_day: float, name: str = name) -> Forecast:
            failures = _failures(job, per_day)
            return forecast(MAKERS[name](job, failures, costs), job, failures)

        if at(1e-6).goodput <= BEFORE:
            continue  # Stalls alone cost more.
        per_day = _solve(lambda x: at(x).goodput - BEFORE)
        failures = _failures(job, per_day)
        ours = forecast(MAKERS["twinstep"](job, failures, costs), job, failures)
        found.append(
            Assumption(
                policy=name,
                per_day=per_day,
                cost_before_s=at(per_day).cost_s,
                cost_after_s=(1 - AFTER) * DAY_S / per_day,
                reached=ours.goodput,
                reached_cost_s=ours.cost_s,
            )
        )
    return found


def _failures(job: Job, per_day: float) -> Failures:
    each = per_day / job.machines
    return Failures(process_per_machine_day=each / 2, machine_per_machine_day=each / 2)


def _solve(excess: Callable[[float], float]) -> float:
    """Where a falling function of a rate a day crosses 0, between 1e-6 and 1e6."""
    low, high = 1e-6, 1e6
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return math.sqrt(low * high)
