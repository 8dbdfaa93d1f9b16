"""Computes what a policy leaves of the time, in closed form.

Failures come at the rate L, the state goes back to the last checkpoint that was
complete, and everything begins anew there, so that what lies between two failures does
not depend on what was before. Training goes on after R seconds, if nothing fails then
(probability e^-LR), and keeps the n-th checkpoint of this stretch if nothing fails for
n I + D more seconds of training. With l = L (1 + slowdown) the share of the time that
becomes kept training is

    L I e^-LR e^-lD / (e^lI - 1)

which is 1 - L (R + D + I/2) where failures are rare: one less what each of them costs,
equation 1 of GEMINI and the time of the recovery that its footnote 1 leaves out. Losing
all holders is such a failure of the tier behind: training advances at the share above,
and falls back to what storage has.

Goodput as the Gemini 1.0 report defines it (footnote 2) is this share: the time spent
computing useful new steps over the elapsed time.

Left out here, and drawn in sampling.py: a recovery that fails again while it waits for
a machine (its mean is taken), the ends of a job, a trace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from twinstep.planner.failures import Failures, chance_lost, loss_free
from twinstep.planner.job import Job
from twinstep.planner.policy import Cause, Policy, Tier
from twinstep.planner.quantities import DAY_S

EXPONENT_MAX = 700.0
"""e to this is nearly the largest float: a share of 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a policy comes to, for a job and its failures."""

    goodput: float
    """Share of the time that trains useful new steps."""
    failures_per_day: float
    wasted_s: float
    """Mean per failure: training lost, and reading (the paper's wasted time)."""
    recovery_s: float
    """Mean per failure: everything else until the first new step."""
    fallbacks_per_day: float
    """Failures that lose all holders of a shard, so that storage is gone back to."""

    @property
    def cost_s(self) -> float:
        """Mean time that a failure costs, lost training and all."""
        return self.wasted_s + self.recovery_s


def forecast(policy: Policy, job: Job, failures: Failures) -> Forecast:
    """Returns what the policy comes to in the long run."""
    kinds = failures.rates_per_s(job.machines)
    rate = sum(kind[3] for kind in kinds)
    if rate == 0:
        return Forecast(
            goodput=1 / (1 + policy.slowdown),
            failures_per_day=0.0,
            wasted_s=0.0,
            recovery_s=0.0,
            fallbacks_per_day=0.0,
        )
    near, far = policy.tiers[0], policy.tiers[-1]
    waits_s = wait_s(job, policy, failures)
    goes_on = falls = recovery_s = wasted = 0.0
    for cause, more, apart, kind_rate in kinds:
        share = kind_rate / rate
        lost = _chance_lost(policy, job, failures, more=more, apart=apart)
        fixed_s = policy.recovery.fixed_s(cause) + (waits_s if more else 0.0)
        recovery_s += share * fixed_s
        for tier, chance in ((near, 1 - lost), (far, lost)):
            goes_on += share * chance * math.exp(-rate * (fixed_s + tier.read_s[cause]))
            wasted += share * chance * cost_of(tier, cause)
        falls += share * lost
    pace = 1 / (1 + policy.slowdown)
    goodput = goes_on * _kept(near, rate, pace)
    if falls > 0 and goodput > 0 and far is not near:
        goodput = _kept(far, falls * rate, goodput)
    return Forecast(
        goodput=goodput,
        failures_per_day=rate * DAY_S,
        wasted_s=wasted,
        recovery_s=recovery_s,
        fallbacks_per_day=falls * rate * DAY_S,
    )


def parts_s(policy: Policy, job: Job, failures: Failures) -> dict[str, float]:
    """Mean seconds that the loss of one machine costs, part by part, as long as another
    has its state: they are what `forecast` adds up."""
    near = policy.tiers[0]
    found = policy.recovery.parts_s("machine")
    tier = near if near.copies != 1 else policy.tiers[-1]
    return {
        "lost": tier.delay_s + tier.interval_s / 2,
        **found,
        "machine": wait_s(job, policy, failures),
        "read": tier.read_s["machine"],
    }


def cost_of(tier: Tier, cause: Cause) -> float:
    """Seconds of training lost, and of reading, when a failure goes back to a tier:
    equation 1."""
    return tier.delay_s + tier.interval_s / 2 + tier.read_s[cause]


def wait_s(job: Job, policy: Policy, failures: Failures) -> float:
    """Mean seconds until a lost machine's place is taken.

    A failure takes the standby that was asked for `standbys` failures ago, so it waits
    for what is left of the replacement time since then. That is the mean number of
    failures beyond the standbys while a machine is being replaced, over their rate."""
    recovery = policy.recovery
    if job.standbys == 0:
        return recovery.machine_s("machine", standby=False)
    per_s = sum(more * rate for _, more, _, rate in failures.rates_per_s(job.machines))
    if per_s == 0:
        return recovery.standby_s
    mean = per_s * recovery.replace_s
    beyond = mean - job.standbys
    # E (N - s)+ of a Poisson number N: its mean less s, and what is below s put back.
    chance = math.exp(-mean)
    for number in range(job.standbys):
        beyond += (job.standbys - number) * chance
        chance *= mean / (number + 1)
    return recovery.standby_s + max(0.0, beyond) / per_s


def exposed_s(policy: Policy, job: Job, failures: Failures) -> float:
    """Seconds from the loss of a machine until every copy exists again."""
    near = policy.tiers[0]
    fixed_s = policy.recovery.fixed_s("machine") + wait_s(job, policy, failures)
    # The newcomer reads its own state, and then what it keeps for others.
    return fixed_s + near.read_s["machine"] * max(1, near.copies)


def _chance_lost(
    policy: Policy, job: Job, failures: Failures, *, more: int, apart: bool
) -> float:
    """The probability that a failure loses all holders of a shard of the first tier:
    over how many machines are gone already, each exposed for the same time."""
    copies = policy.tiers[0].copies
    if copies == 0 or more == 0:
        return 0.0
    shares = loss_free(job.machines, copies=copies)
    singles = [kind[3] for kind in failures.rates_per_s(job.machines) if kind[1]]
    again = -math.expm1(-sum(singles) * exposed_s(policy, job, failures))
    remaining, lost = 1.0, 0.0
    for down in range(len(shares)):
        here = remaining * (1 - again)
        lost += here * chance_lost(shares, down=down, more=more, apart=apart)
        remaining -= here
    last = chance_lost(shares, down=len(shares), more=more, apart=apart)
    return lost + remaining * last


def _kept(tier: Tier, rate: float, pace: float) -> float:
    """The share of the time that a tier keeps, of training that advances at `pace` and
    goes back to it at `rate`."""
    each = rate / pace
    if each * tier.interval_s > EXPONENT_MAX:
        return 0.0
    return (
        rate
        * tier.interval_s
        * math.exp(-each * tier.delay_s)
        / math.expm1(each * tier.interval_s)
    )
