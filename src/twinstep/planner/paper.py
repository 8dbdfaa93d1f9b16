"""Computes what GEMINI (SOSP 2023, doi 10.1145/3600006.3613145) prints.

Each row has a number that the paper prints and the same number from twinstep's own
formulas and the paper's constants. Where they are more than 2 % apart the row names an
erratum: what is wrong or unsaid in the printed form. Numbers read off a figure are true
to about 1 %.

Left out: what only a measurement shows (iteration times of Figures 7, 8 and 13), but
for what follows from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import msgspec

from twinstep.planner.failures import Failures
from twinstep.planner.job import Job
from twinstep.planner.model import forecast
from twinstep.planner.policies import MAKERS, Costs

CLOSE = 0.02
"""Relative difference that needs no erratum."""
GBPS = 1e9 / 8
DAY_MIN = 1440.0
STORAGE = 20 * GBPS
STEP_S = 62.0
"""GPT-2 100B on 16 p4d: section 7.2. Figure 7 shows 64.9 s."""
FIGURE_7_STEP_S = 64.9
SAVE_S = 81.0
"""torch.save of a rank's 9.4 GB: half of Figure 14's 162 s."""

ERRATA: Mapping[str, str] = {
    "rounded": "The paper rounds: to a whole minute, or to one digit.",
    "range": "The paper gives a range for one part (4 to 7 min for a machine).",
    "ring": "The paper's formula for a ring counts a choice of machines twice when it "
    "contains two neighbouring pairs; of 560 choices of 3 in 16, 352 lose nothing.",
    "theorem 1": "The gap is printed as less than (2m-3)/C(N,m); with N mod m = m-1 it "
    "is equal.",
    "figure 10": "The bars are not equation 1 with the constants of section 7.3: they "
    "are 90 + 8 min (strawman, one of t_ckpt and t_rtvl left out), 2.5 x 9 iterations "
    "(highfreq), and, for GEMINI with machines replaced, 1.5 iterations of Figure 7's "
    "64.9 s.",
    "figure 11": "Not measured: the artifact computes N B 0.85 / 20 Gbps, which is 68.",
    "figure 12": "6.8 an hour is one in 8.5 iterations; section 7.3 says nine.",
    "figure 15": "Ratios are 1 - cost x failures a day: costs of failures that overlap "
    "are counted twice, and the strawman falls to 0 where a job would still advance.",
    "table 1": "The paper's number is not the vendor's of today.",
    "table 2": "The row of 10B has 46 layers of width 2560: 3.6B parameters. 127 "
    "layers would be 10B; the artifact trains other shapes.",
}
"""By name: what is wrong or unsaid in the printed form."""

FIGURE_15 = {
    "gemini": (1.0, 9.0),
    "highfreq": (480 / 560, 26.0),
    "strawman": (1.0, 112.0),
}
"""Per policy of the artifact's notebook: the ratio without failures, and the minutes
that each failure costs, restart and all."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One number of the paper, beside ours."""

    id: str
    what: str
    unit: str
    published: float
    computed: float
    bound: Literal["", ">", "<"] = ""
    """`>`: the paper says more than; there is no difference while that is so."""
    note: str = ""
    erratum: str = ""
    """A key of ERRATA."""

    @property
    def relative_difference(self) -> float:
        holds = {
            "": False,
            ">": self.computed > self.published,
            "<": self.computed < self.published,
        }
        if holds[self.bound] or self.computed == self.published:
            return 0.0
        return self.computed / self.published - 1

    @property
    def explained(self) -> bool:
        """Whether the row is close, or names its erratum."""
        return abs(self.relative_difference) <= CLOSE or self.erratum in ERRATA


def gpt_100b(network_gbps: float = 400.0) -> Job:
    """GPT-2 100B on 16 p4d.24xlarge: section 7.1."""
    return Job(
        machines=16,
        parameters=100e9,
        step_s=STEP_S,
        network_bytes_per_s=network_gbps * GBPS,
        storage_bytes_per_s=STORAGE,
        idle_share=10.0 / FIGURE_7_STEP_S,
        memory_bytes=1152e9,
    )


def ratio(policy: str, *, per_day: float) -> float:
    """The effective training time ratio of Figure 15, at so many failures a day."""
    at_best, minutes = FIGURE_15[policy]
    return max(0.0, at_best - minutes * per_day / DAY_MIN)


def with_costs(costs: Costs) -> list[dict[str, float]]:
    """Figure 15 with what twinstep's recoveries cost, where the paper's were assumed:
    software failures at 1.5 % of machines a day, exactly (model.py)."""
    found: list[dict[str, float]] = []
    for machines in (16, 200, 600, 1000):
        job = dataclasses.replace(
            gpt_100b(), machines=machines, parameters=100e9 * machines / 16
        )
        failures = Failures(process_per_machine_day=0.015)
        policy = MAKERS["twinstep"](job, failures, costs)
        one = forecast(policy, job, failures)
        per_day = one.failures_per_day
        found.append(
            {
                "machines": machines,
                "failures_per_day": per_day,
                "gemini_published": ratio("gemini", per_day=per_day),
                "twinstep": one.goodput,
                "cost_s": one.cost_s,
            }
        )
    return found
