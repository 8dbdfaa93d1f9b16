"""Recommends settings for a job, each with its reason.

The order is that of a person who would do it by hand: copies that make the loss of all
holders rare, standbys that make a wait for machines rare, and storage as often as it
takes checkpoints.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from twinstep.planner.failures import Failures
from twinstep.planner.job import Job
from twinstep.planner.model import forecast, wait_s
from twinstep.planner.policies import Costs, every, twinstep
from twinstep.planner.quantities import in_words_bytes, in_words_s
from twinstep.planner.room import room_of

GAIN_MIN = 1e-4
"""Of goodput, for which a further copy is worth its memory: 52 min a year."""
COPIES_MAX = 4
STANDBYS_MAX = 4096
WAIT_S_MAX = 1.0
"""Mean wait for a machine that needs no further standby."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One line of the recommendation, as the configuration spells it."""

    name: str
    value: str
    reason: str


def advise(job: Job, failures: Failures, costs: Costs) -> list[Setting]:
    """Returns settings for this job, and why."""
    copies = _copies(job, failures, costs)
    job = dataclasses.replace(job, copies=int(copies.value))
    standbys = _standbys(job, failures, costs)
    policy = twinstep(job, failures, costs)
    storage = policy.tiers[-1]
    capture = every(job)
    why = "copies fit into what every step leaves of the network"
    if capture > 1:
        why = policy.notes[0]
    return [
        copies,
        standbys,
        Setting(name="capture", value=f"every {capture} step(s)", reason=why),
        Setting(
            name="storage",
            value=f"every {in_words_s(storage.interval_s)}",
            reason=f"a checkpoint of {in_words_bytes(job.state_bytes)} takes "
            f"{in_words_s(storage.delay_s)} to storage: no more often fits. The "
            "machines' agents write it; training does not wait",
        ),
    ]


def _copies(job: Job, failures: Failures, costs: Costs) -> Setting:
    """One more as long as that gains something and fits."""
    wanted = min(COPIES_MAX, job.machines)
    least = most = min(job.replicas, wanted)
    goodputs: dict[int, float] = {}
    for copies in range(least, wanted + 1):
        one = dataclasses.replace(job, copies=copies)
        if copies > least and not room_of(one).fits:
            break
        most = copies
        policy = twinstep(one, failures, costs)
        goodputs[copies] = forecast(policy, one, failures).goodput
    best = least
    for copies in range(least + 1, most + 1):
        if goodputs[copies] > goodputs[best] + GAIN_MIN:
            best = copies
    said = ", ".join(f"{n}: {share:.2%}" for n, share in goodputs.items())
    limit = f"; memory holds {most}" if most < wanted else ""
    return Setting(
        name="copies", value=str(best), reason=f"goodput by copies: {said}{limit}"
    )


def _standbys(job: Job, failures: Failures, costs: Costs) -> Setting:
    """As many as leave no wait for machines to speak of."""
    policy = twinstep(job, failures, costs)

    def waits_s(standbys: int) -> float:
        one = dataclasses.replace(job, standbys=standbys)
        return wait_s(one, policy, failures) - (costs.standby_s if standbys else 0.0)

    if not any(kind[1] for kind in failures.rates_per_s(job.machines)):
        return Setting(name="standbys", value="0", reason="no machine fails")
    enough = 0
    while enough < STANDBYS_MAX and waits_s(enough) > WAIT_S_MAX:
        enough += 1
    said = ", ".join(f"{n}: {in_words_s(waits_s(n))}" for n in sorted({0, 1, enough}))
    return Setting(
        name="standbys",
        value=str(enough),
        reason=f"mean wait for a machine that takes {in_words_s(costs.replace_s)} to "
        f"come, by standbys: {said}",
    )
