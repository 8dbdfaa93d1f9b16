"""Draws months of a job under each policy, failure by failure, many samples at once.

An event is a failure; what lies between two is arithmetic. All policies and samples go
from event to event together, as arrays of shape (policies, samples):

    span of time   ├── recovering ──┼────────── training ──────────┤ failure
    then           back to the newest checkpoint of the nearest tier that survived

A failure that comes during a recovery begins the recovery anew. Machines count as gone
until every copy exists again, and a failure then meets a job that can lose less. What
closed forms leave out is here: recoveries that wait for standbys which have not come
back, failures that fall together, traces, and how much one month differs from another.

Left out: failures of storage, and of the network alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinstep.errors import ConfigError
from twinstep.planner.draws import ByRate, Draws, Floats, OfTrace, Whole
from twinstep.planner.failures import (
    DOWN_MAX,
    Event,
    Failures,
    chance_lost,
    loss_free,
)
from twinstep.planner.job import Job
from twinstep.planner.policy import Policy
from twinstep.planner.quantities import DAY_S
from twinstep.planner.spares import Spares

SAMPLES_MAX = 100_000
DAYS_MAX = 3650.0
EVENTS_MAX = 2_000_000
"""Failures of one sample."""
LOW, HIGH = 5, 95
"""The percentiles that an outcome gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a policy. Shares of the time; they add up to 1."""

    goodput: float
    """Mean share that trained useful new steps."""
    low: float
    high: float
    """Nine of ten samples lie between."""
    error: float
    """Of the mean, its standard error."""
    slowed: float
    """Share by which steps were longer, of those that counted."""
    lost: float
    """Share that trained what was lost, steps' slowness included."""
    recovering: float
    failures_per_day: float
    fallbacks_per_day: float
    """Failures that lost all holders of a shard, to be read from storage."""


def sample(
    policies: Sequence[Policy],
    job: Job,
    failures: Failures,
    *,
    days: float,
    samples: int,
    seed: int = 0,
    trace: Sequence[Event] = (),
) -> dict[str, Outcome]:
    """Returns what came of each policy, by name, in so many days.

    Raises: ConfigError for numbers that would not end."""
    if not 1 <= samples <= SAMPLES_MAX or not 0 < days <= DAYS_MAX:
        raise ConfigError(
            f"samples ({samples}) must be 1 to {SAMPLES_MAX}, days ({days:g}) more "
            f"than 0 and at most {DAYS_MAX:g}"
        )
    per_day = failures.per_day(job.machines)
    if trace:
        if trace[-1].at_s == 0:
            raise ConfigError("the trace's failures are all at 0 s; give their times")
        per_day = len(trace) / trace[-1].at_s * DAY_S
    if per_day * days > EVENTS_MAX:
        raise ConfigError(
            f"{per_day:.3g} failures a day for {days:g} days are more than "
            f"{EVENTS_MAX} in each sample; use fewer days, or a lower rate"
        )
    if per_day == 0:
        return {one.name: _undisturbed(one) for one in policies}
    draws: Draws = (
        OfTrace(trace, samples=samples, seed=seed)
        if trace
        else ByRate(failures, machines=job.machines, samples=samples, seed=seed)
    )
    # Those that keep something inside the machines come last: only they can lose it.
    ordered = sorted(policies, key=lambda policy: policy.tiers[0].copies > 0)
    months = _Months(ordered, job, draws, days=days, samples=samples)
    months.run()
    return months.outcomes()


def _undisturbed(policy: Policy) -> Outcome:
    share = 1 / (1 + policy.slowdown)
    return Outcome(
        goodput=share,
        low=share,
        high=share,
        error=0.0,
        slowed=1 - share,
        lost=0.0,
        recovering=0.0,
        failures_per_day=0.0,
        fallbacks_per_day=0.0,
    )


class _Months:
    """All samples of all policies, between two failures."""

    def __init__(
        self,
        policies: Sequence[Policy],
        job: Job,
        draws: Draws,
        *,
        days: float,
        samples: int,
    ) -> None:
        self._policies = policies
        self._draws = draws
        self._horizon_s = days * DAY_S
        self._keeping = sum(policy.tiers[0].copies == 0 for policy in policies)
        """Policies from this one on keep something inside the machines."""
        self._set_tables(job)
        shape = (len(policies), samples)
        self._now_s = np.zeros(samples)
        self._left_s = np.zeros(shape)  # of the recovery
        self._exposed_s = np.zeros(shape)  # until every copy exists again
        self._down = np.zeros(shape, np.intp)
        self._work_s = np.zeros(shape)
        self._near_s = np.zeros(shape)  # work that the first tier has
        self._far_s = np.zeros(shape)
        self._most_s = np.zeros(shape)  # work reached since the last fall
        self._lost_s = np.zeros(shape)
        self._recovering_s = np.zeros(shape)
        self._falls = np.zeros(shape)
        self._failures = np.zeros(samples)
        self._over = np.zeros(samples, bool)
        self._final = np.zeros((4, *shape))
        self._spares = Spares(
            standbys=job.standbys,
            samples=samples,
            replace_s=policies[0].recovery.replace_s,
        )
        self._standby = job.standbys > 0

    def _set_tables(self, job: Job) -> None:
        """What is looked up by policy and kind of failure."""
        kinds = self._draws.kinds

        def column(values: Sequence[float]) -> Floats:
            return np.array(values, np.float64)[:, None]

        near = [policy.tiers[0] for policy in self._policies]
        far = [policy.tiers[-1] for policy in self._policies[self._keeping :]]
        self._pace = column([1 / (1 + one.slowdown) for one in self._policies])
        self._interval_s = column([tier.interval_s for tier in near])
        self._delay_s = column([tier.delay_s for tier in near])
        self._far_interval_s = column([tier.interval_s for tier in far])
        self._far_delay_s = column([tier.delay_s for tier in far])
        self._standby_s = column([one.recovery.standby_s for one in self._policies])
        self._recovery_s = np.array(
            [
                [
                    one.recovery.fixed_s(kind.cause) + tier.read_s[kind.cause]
                    for kind in kinds
                ]
                for one, tier in zip(self._policies, near, strict=True)
            ]
        )
        self._far_more_s = np.array(
            [
                [b.read_s[kind.cause] - a.read_s[kind.cause] for kind in kinds]
                for a, b in zip(near[self._keeping :], far, strict=True)
            ]
        )
        self._again_s = np.array(
            [
                [tier.read_s[kind.cause] * max(0, tier.copies - 1) for kind in kinds]
                for tier in near[self._keeping :]
            ]
        )
        self._more = np.array([kind.machines for kind in kinds], np.intp)
        keepers = near[self._keeping :]
        shares = {
            tier.copies: loss_free(job.machines, copies=tier.copies) for tier in keepers
        }
        self._chance = np.array(
            [
                [
                    [
                        chance_lost(
                            shares[tier.copies],
                            down=down,
                            more=kind.machines,
                            apart=kind.apart,
                        )
                        for down in range(DOWN_MAX + 1)
                    ]
                    for kind in kinds
                ]
                for tier in keepers
            ]
        )
        # Where the row of a policy, and in it that of a kind, begins: one look-up
        # instead of three.
        row = DOWN_MAX + 1
        self._chance_at = np.arange(len(keepers))[:, None] * len(kinds) * row
        self._kind_at = np.arange(len(kinds)) * row

    def run(self) -> None:
        """Until every sample's days are over."""
        while True:
            block = self._draws.block()
            for gap_s, kind, luck in zip(
                block.gap_s, block.kind, block.luck, strict=True
            ):
                self._advance(gap_s)
                if self._over.all():
                    return
                self._fail(kind, luck)

    def _advance(self, gap_s: Floats) -> None:
        """Recovers and trains until the next failure, or the end."""
        span_s = np.minimum(gap_s, self._horizon_s - self._now_s)
        recovering_s = np.minimum(self._left_s, span_s)
        self._left_s -= recovering_s
        self._recovering_s += recovering_s
        np.subtract(span_s, recovering_s, out=recovering_s)
        recovering_s *= self._pace
        self._work_s += recovering_s
        kept = slice(self._keeping, None)
        self._exposed_s[kept] -= span_s
        self._now_s += span_s
        ended = (self._now_s >= self._horizon_s) & ~self._over
        if ended.any():
            now = self._work_s, self._lost_s, self._recovering_s, self._falls
            for place, values in zip(self._final, now, strict=True):
                place[:, ended] = values[:, ended]
            self._over |= ended
        self._failures += ~self._over

    def _fail(self, kind: Whole, luck: Floats) -> None:
        """Goes back to what survives, and begins the recovery."""
        reached_s = self._reached(self._interval_s, self._delay_s, self._work_s)
        np.maximum(self._near_s, reached_s, out=self._near_s)
        recovery_s = self._recovery_s.take(kind, axis=1)
        recovery_s += self._machine_s(kind)
        if self._keeping < len(self._policies):
            self._lose_copies(kind, luck, recovery_s)
        np.subtract(self._work_s, self._near_s, out=reached_s)
        self._lost_s += reached_s
        np.copyto(self._work_s, self._near_s)
        self._left_s = recovery_s

    @staticmethod
    def _reached(interval_s: Floats, delay_s: Floats, work_s: Floats) -> Floats:
        """The work in the newest complete checkpoint; below 0 where there is none."""
        reached_s = work_s - delay_s
        reached_s /= interval_s
        np.floor(reached_s, out=reached_s)
        reached_s *= interval_s
        return reached_s

    def _lose_copies(self, kind: Whole, luck: Floats, recovery_s: Floats) -> None:
        """Those that keep copies inside the machines may have lost a shard of them."""
        kept = slice(self._keeping, None)
        down, exposed_s = self._down[kept], self._exposed_s[kept]
        # What storage has follows from the most that was ever reached, and is wanted
        # only when all holders are lost.
        most_s = self._most_s[kept]
        np.maximum(most_s, self._work_s[kept], out=most_s)
        down *= exposed_s > 0
        np.minimum(down, DOWN_MAX, out=down)
        lost = luck < self._chance.take(self._chance_at + self._kind_at[kind] + down)
        down += self._more[kind]
        if lost.any():
            self._fall(lost, kind, recovery_s[kept])
        np.add(recovery_s[kept], self._again_s.take(kind, axis=1), out=exposed_s)

    def _fall(self, lost: NDArray[np.bool_], kind: Whole, recovery_s: Floats) -> None:
        """Those that lost all holders of a shard go back to storage."""
        kept = slice(self._keeping, None)
        far_s, most_s = self._far_s[kept], self._most_s[kept]
        reached_s = self._reached(self._far_interval_s, self._far_delay_s, most_s)
        np.copyto(far_s, np.maximum(far_s, reached_s), where=lost)
        np.copyto(most_s, far_s, where=lost)
        np.copyto(self._near_s[kept], far_s, where=lost)
        recovery_s += lost * self._far_more_s.take(kind, axis=1)
        self._falls[kept] += lost

    def _machine_s(self, kind: Whole) -> Floats:
        """How long each policy waits for machines: (policies, samples)."""
        waits_s = np.zeros(len(self._now_s))
        for which, machines in enumerate(self._more):
            if machines:
                samples = np.flatnonzero(kind == which)
                waits_s[samples] = self._spares.take(
                    samples, int(machines), self._now_s[samples]
                )
        if not self._standby:
            return waits_s[None, :]
        return waits_s + self._standby_s * (self._more[kind] > 0)

    def outcomes(self) -> dict[str, Outcome]:
        days = self._horizon_s / DAY_S
        found: dict[str, Outcome] = {}
        for policy, work_s, lost_s, recovering_s, falls in zip(
            self._policies, *self._final, strict=True
        ):
            goodput = work_s / self._horizon_s
            slow = 1 + policy.slowdown
            low, high = np.percentile(goodput, (LOW, HIGH))
            found[policy.name] = Outcome(
                goodput=float(goodput.mean()),
                low=float(low),
                high=float(high),
                error=float(goodput.std() / np.sqrt(len(goodput))),
                slowed=float(goodput.mean()) * policy.slowdown,
                lost=float((lost_s * slow).mean() / self._horizon_s),
                recovering=float(recovering_s.mean() / self._horizon_s),
                failures_per_day=float(self._failures.mean() / days),
                fallbacks_per_day=float(falls.mean() / days),
            )
        return found
