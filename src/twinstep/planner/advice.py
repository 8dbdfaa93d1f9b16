"""Recommends settings for a job, each with its reason.

The order is that of a person who would do it by hand: copies that make the loss of all
holders rare, standbys that make a wait for machines rare, storage as often as it costs
nothing, and what would have to be cheaper for more.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from twinstep.planner.failures import Failures
from twinstep.planner.job import SLOTS, Job
from twinstep.planner.model import forecast, wait_s
from twinstep.planner.policies import Costs, every, twinstep
from twinstep.planner.quantities import in_words_bytes, in_words_s

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
            f"{in_words_s(storage.delay_s)} to storage; agents write it from memory, "
            "so more often costs training nothing",
        ),
    ]


def _copies(job: Job, failures: Failures, costs: Costs) -> Setting:
    """One more as long as that gains something and fits."""
    most = min(COPIES_MAX, job.machines)
    if job.memory_bytes:
        most = min(most, int(job.memory_bytes // (SLOTS * job.machine_bytes)) or 1)
    least = min(job.replicas, most)
    goodputs = {
        copies: forecast(twinstep(one, failures, costs), one, failures).goodput
        for copies in range(least, most + 1)
        for one in [dataclasses.replace(job, copies=copies)]
    }
    best = least
    for copies in range(least + 1, most + 1):
        if goodputs[copies] > goodputs[best] + GAIN_MIN:
            best = copies
    said = ", ".join(f"{n}: {share:.2%}" for n, share in goodputs.items())
    limit = f"; memory holds {most}" if most < min(COPIES_MAX, job.machines) else ""
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
    said = ", ".join(f"{n}: {in_words_s(waits_s(n))}" for n in {0, 1, enough})
    return Setting(
        name="standbys",
        value=str(enough),
        reason=f"mean wait for a machine that takes {in_words_s(costs.replace_s)} to "
        f"come, by standbys: {said}",
    )
