"""Finds where plain storage is as good as copies in memory.

GEMINI compares with storage of 20 Gbps whatever the size of the job. Storage that is
fast enough, or rare failures, make copies in memory needless; a plan says where.
"""

from __future__ import annotations

import dataclasses
import math

from twinstep.planner.failures import Failures
from twinstep.planner.job import Job
from twinstep.planner.model import forecast
from twinstep.planner.policies import Costs, best_interval, twinstep

NEAR = 0.01
"""Of goodput: as good as."""
SPEED_MIN, SPEED_MAX = 1e6, 1e15
"""Of storage, bytes a second."""
HALVINGS = 50


def storage_that_does(job: Job, failures: Failures, costs: Costs) -> float:
    """The speed of shared storage, bytes a second, from which on checkpoints on it at
    their best interval come within NEAR of the goodput of copies in memory; infinity
    where none does. Both restart in the same time."""
    ours = forecast(twinstep(job, failures, costs), job, failures).goodput

    def does(speed: float) -> bool:
        one = dataclasses.replace(job, storage_bytes_per_s=speed)
        policy = best_interval(one, failures, costs)
        return forecast(policy, one, failures).goodput >= ours - NEAR

    if not does(SPEED_MAX):
        return math.inf
    low, high = SPEED_MIN, SPEED_MAX
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if does(middle) else (middle, high)
    return high
