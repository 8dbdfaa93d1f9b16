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
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from twinstep.placement.strategy import place
from twinstep.placement.survival import corollary_1, survival, theorem_1_bound
from twinstep.planner.failures import Failures
from twinstep.planner.job import SLOTS, Job
from twinstep.planner.model import forecast
from twinstep.planner.policies import MAKERS, Costs
from twinstep.planner.policy import interval_min_s, wasted_s
from twinstep.planner.presets import PRESETS

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


def rows() -> list[Row]:
    """Returns every number that can be computed, in the paper's order."""
    return [
        *_definitions(),
        *_tables(),
        *_placement(),
        *_wasted_time(),
        *_checkpoints(),
        *_recovery(),
        *_scale(),
        *_ablation(),
    ]


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


def _definitions() -> Iterator[Row]:
    write_min = 530e9 * 12 / STORAGE / 60
    yield Row(
        id="eq1-checkpoint",
        what="MT-NLG 530B: checkpoint over 20 Gbps (2.2)",
        unit="min",
        published=42,
        computed=write_min,
        note="12 bytes a parameter",
    )
    yield Row(
        id="eq1-wasted",
        what="MT-NLG 530B: wasted time, equation 1 (2.2)",
        unit="min",
        published=105,
        computed=wasted_s(
            checkpoint_s=write_min, interval_s=write_min, read_s=write_min
        ),
    )
    yield Row(
        id="rank-bytes",
        what="GPT-2 100B: checkpoint of a GPU (5.2)",
        unit="GB",
        published=9.4,
        computed=gpt_100b().rank_bytes / 1e9,
    )
    yield Row(
        id="opt-failures",
        what="OPT-175B: 1.5 % of 124 machines a day against 110 failures in 60 days",
        unit="a day",
        published=110 / 60,
        computed=0.015 * 992 / 8,
    )
    yield Row(
        id="memory",
        what="GPT-2 100B, 2 copies, 2 buffers, of Table 1's 1152 GB (3.1)",
        unit="GB",
        published=1152,
        computed=SLOTS * 2 * gpt_100b().machine_bytes / 1e9,
        bound="<",
    )


def _tables() -> Iterator[Row]:
    for name, cpu_gb in (
        ("p3dn", 768),
        ("p4d", 1152),
        ("nd40rs_v2", 672),
        ("nd96asr_v4", 900),
        ("n1-8-v100", 624),
        ("a2-highgpu-8g", 640),
        ("dgx-a100", 2000),
    ):
        computed = PRESETS[name].memory_bytes
        gb = min((computed / 1e9, computed / 2**30), key=lambda x: abs(x - cpu_gb))
        yield Row(
            id=f"table1-{name}",
            what=f"Table 1: memory of {name}, by its vendor's page",
            unit="GB",
            published=cpu_gb,
            computed=gb,
            erratum="" if abs(gb / cpu_gb - 1) <= CLOSE else "table 1",
        )
    for billions, layers, width in (
        (10, 46, 2560),
        (20, 64, 5120),
        (40, 128, 5120),
        (100, 124, 8192),
    ):
        yield Row(
            id=f"table2-{billions}b",
            what=f"Table 2: {layers} layers of width {width}, 12 L h^2 parameters",
            unit="B",
            published=billions,
            computed=12 * layers * width**2 / 1e9,
            erratum="table 2" if billions == 10 else "",
        )


def _placement() -> Iterator[Row]:
    group = place(16, copies=2, strategy="group")
    ring = place(16, copies=2, strategy="ring")
    for lost, published in ((2, 93.3), (3, 80.0)):
        yield Row(
            id=f"fig9-group-{lost}",
            what=f"Figure 9: 16 machines, 2 copies, {lost} lost, group",
            unit="%",
            published=published,
            computed=100 * survival(group, lost=lost),
            note=f"Corollary 1: {100 * corollary_1(16, copies=2, lost=lost):.1f}",
        )
    yield Row(
        id="fig9-ring-2",
        what="Figure 9: the same, 2 lost, ring",
        unit="%",
        published=86.7,
        computed=100 * survival(ring, lost=2),
    )
    yield Row(
        id="fig9-ring-3",
        what="Figure 9: the same, 3 lost, ring",
        unit="%",
        published=60.0,
        computed=100 * survival(ring, lost=3),
        erratum="ring",
    )
    yield Row(
        id="fig9-ring-lower",
        what="7.2: ring lower than group, 3 lost",
        unit="%",
        published=25.0,
        computed=100 * (1 - survival(ring, lost=3) / survival(group, lost=3)),
        erratum="ring",
    )
    mixed = place(17, copies=2, strategy="mixed")
    gap = theorem_1_bound(17, copies=2) - survival(mixed, lost=2)
    yield Row(
        id="theorem1-gap",
        what="Theorem 1: gap of mixed for N = 17, m = 2, less than",
        unit="%",
        published=100 / 136,
        computed=100 * gap,
        erratum="theorem 1",
        note="`tail` has no gap: placement.md",
    )


def _wasted_time() -> Iterator[Row]:
    write_s = gpt_100b().state_bytes / STORAGE
    yield Row(
        id="fig10-iterations",
        what="7.2: GEMINI wastes, no machine lost",
        unit="iterations",
        published=1.5,
        computed=wasted_s(checkpoint_s=STEP_S, interval_s=STEP_S, read_s=0) / STEP_S,
    )
    yield Row(
        id="fig10-gemini-0",
        what="Figure 10: GEMINI, no machine replaced",
        unit="min",
        published=1.55,
        computed=wasted_s(checkpoint_s=STEP_S, interval_s=STEP_S, read_s=0) / 60,
    )
    step_s = FIGURE_7_STEP_S
    yield Row(
        id="fig10-gemini-1",
        what="Figure 10: GEMINI, one or two machines replaced",
        unit="min",
        published=1.67,
        computed=wasted_s(checkpoint_s=step_s, interval_s=step_s, read_s=2.5) / 60,
        note="1.60 with the text's iteration of 62 s and 3 s to retrieve",
        erratum="figure 10",
    )
    high_s = wasted_s(checkpoint_s=write_s, interval_s=9 * STEP_S, read_s=write_s)
    yield Row(
        id="fig10-highfreq",
        what="Figure 10: HighFreq",
        unit="min",
        published=23.1,
        computed=high_s / 60,
        erratum="figure 10",
    )
    straw_s = wasted_s(checkpoint_s=write_s, interval_s=3 * 3600, read_s=write_s)
    yield Row(
        id="fig10-strawman",
        what="Figure 10: Strawman",
        unit="min",
        published=98,
        computed=straw_s / 60,
        erratum="figure 10",
    )
    gemini_s = wasted_s(checkpoint_s=STEP_S, interval_s=STEP_S, read_s=3.0)
    yield Row(
        id="fig10-times",
        what="7.2: GEMINI wastes less than HighFreq, times (of the bars)",
        unit="x",
        published=13,
        computed=23.1 / 1.67,
        bound=">",
        note=f"{high_s / gemini_s:.1f} by equation 1",
    )
    yield Row(
        id="fig10-less",
        what="The same in percent (of the bars)",
        unit="%",
        published=92,
        computed=100 * (1 - 1.67 / 23.1),
        bound=">",
        note=f"{100 * (1 - gemini_s / high_s):.1f} by equation 1",
    )


def _checkpoints() -> Iterator[Row]:
    def times(gbps: float) -> float:
        """Storage's time over that of copies: N B 0.85 / 20 Gbps / (m - 1)."""
        job = gpt_100b(gbps)
        sent_s = job.machine_bytes / (0.85 * job.network_bytes_per_s)
        return job.state_bytes / STORAGE / sent_s

    yield Row(
        id="fig11-100",
        what="Figure 11: checkpoint time shorter, 16 machines at 100 Gbps",
        unit="x",
        published=65,
        computed=times(100),
        erratum="figure 11",
    )
    yield Row(
        id="fig11-400",
        what="Figure 11: the same at 400 Gbps",
        unit="x",
        published=250,
        computed=times(400),
        bound=">",
    )
    yield Row(
        id="fig11-storage",
        what="7.2: storage that would match copies",
        unit="Tbps",
        published=6.4,
        computed=16 * gpt_100b().network_bytes_per_s * 8 / 1e12,
    )
    yield Row(
        id="fig12-gemini",
        what="Figure 12: GEMINI's checkpoints",
        unit="an hour",
        published=58,
        computed=3600 / STEP_S,
    )
    write_s = gpt_100b().state_bytes / STORAGE
    least_s = interval_min_s(write_s + SAVE_S, step_s=FIGURE_7_STEP_S)
    yield Row(
        id="highfreq-interval",
        what="7.3: HighFreq's interval, whole iterations that a checkpoint takes",
        unit="iterations",
        published=9,
        computed=least_s / FIGURE_7_STEP_S,
        note="480 s to write, 81 s to serialise, iterations of 64.9 s",
    )
    yield Row(
        id="fig12-highfreq",
        what="Figure 12: HighFreq's checkpoints, one in nine iterations",
        unit="an hour",
        published=6.8,
        computed=3600 / (9 * STEP_S),
        erratum="figure 12",
    )
    yield Row(
        id="fig12-strawman",
        what="Figure 12: Strawman's checkpoints",
        unit="an hour",
        published=0.33,
        computed=1 / 3,
    )
    yield Row(
        id="fig12-times-highfreq",
        what="7.2: GEMINI checkpoints more often than HighFreq",
        unit="x",
        published=8,
        computed=58 / 6.8,
        erratum="figure 12",
        note="8.5 of the bars, 9 of the text",
    )
    yield Row(
        id="fig12-times-strawman",
        what="7.2: and than Strawman",
        unit="x",
        published=170,
        computed=3600 / STEP_S * 3,
        bound=">",
    )


def _recovery() -> Iterator[Row]:
    yield Row(
        id="retrieval",
        what="7.3: retrieval from a peer, at least its bytes at 400 Gbps",
        unit="s",
        published=3,
        computed=gpt_100b().machine_bytes / gpt_100b().network_bytes_per_s,
        bound="<",
    )
    software_s = 15 + 2 * SAVE_S + 253
    yield Row(
        id="fig14-software",
        what="Figure 14: recovery from a software failure",
        unit="min",
        published=7,
        computed=software_s / 60,
        erratum="rounded",
        note="15 s detection, 162 s serialisation, 253 s warm-up",
    )
    yield Row(
        id="fig14-hardware",
        what="Figure 14: recovery from a hardware failure",
        unit="min",
        published=12,
        computed=software_s / 60 + 5.5,
        erratum="range",
        note="with 5.5 min for a machine; 11.2 to 14.2",
    )
    yield Row(
        id="fig15-gemini-cost",
        what="Figure 15: minutes that a failure costs GEMINI (artifact: 9)",
        unit="min",
        published=9,
        computed=(software_s + wasted_s(checkpoint_s=62, interval_s=62, read_s=3)) / 60,
        erratum="rounded",
    )


def _scale() -> Iterator[Row]:
    yield Row(
        id="fig15-1000",
        what="Figure 15: 1000 machines, 1.5 % a day, GEMINI ('around 91 %')",
        unit="ratio",
        published=0.91,
        computed=ratio("gemini", per_day=15),
    )
    yield Row(
        id="fig15-1000-higher",
        what="7.4: the same, higher than HighFreq",
        unit="%",
        published=54,
        computed=100
        * (ratio("gemini", per_day=15) / ratio("highfreq", per_day=15) - 1),
    )
    yield Row(
        id="fig15-highfreq-idle",
        what="7.4: what HighFreq loses without failures",
        unit="%",
        published=14.5,
        computed=100 * (1 - ratio("highfreq", per_day=0)),
    )
    for machines, per_day, values in (
        (16, 1, (0.994, 0.839, 0.922)),
        (16, 4, (0.975, 0.785, 0.689)),
        (16, 8, (0.950, 0.713, 0.378)),
        (200, 3, (0.981, 0.803, 0.767)),
        (600, 9, (0.944, 0.695, 0.300)),
        (1000, 15, (0.906, 0.586, 0.0)),
    ):
        for policy, published in zip(FIGURE_15, values, strict=True):
            yield Row(
                id=f"fig15-{machines}-{per_day}-{policy}",
                what=f"Figure 15: {machines} machines, {per_day} failure(s) a day, "
                f"{policy}",
                unit="ratio",
                published=published,
                computed=ratio(policy, per_day=per_day),
                erratum="" if published else "figure 15",
            )


def _ablation() -> Iterator[Row]:
    yield Row(
        id="fig16-blocking",
        what="Figure 16: blocking, 4.4 s of copies in a step of 43.5 s",
        unit="%",
        published=10.1,
        computed=100 * 4.4 / 43.5,
    )
    yield Row(
        id="fig16-unpipelined",
        what="Figure 16: without pipeline, 45.0 against 43.5 s",
        unit="%",
        published=3.5,
        computed=100 * (45.0 / 43.5 - 1),
    )
    # Figures 7, 8 and 13: what training leaves idle, and what copies take, in seconds.
    spans = ((10.0, 2.5), (11.7, 2.6), (11.2, 2.5), (2.0, 1.4), (3.2, 2.3), (5.7, 4.4))
    spans += ((6.4, 4.5), (6.0, 4.5))
    yield Row(
        id="fig8-fits",
        what="Figures 8 and 13: models whose copies fit into what a step leaves idle",
        unit="of 8",
        published=8,
        computed=sum(needed < idle for idle, needed in spans),
    )
