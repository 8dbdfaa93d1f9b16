"""Makes the rows of paper.py: definitions, tables and placement, then the results."""

from __future__ import annotations

from collections.abc import Iterator

from twinstep.placement.strategy import place
from twinstep.placement.survival import corollary_1, survival, theorem_1_bound
from twinstep.planner import paper_results as results
from twinstep.planner.paper import (
    CLOSE,
    STORAGE,
    Row,
    gpt_100b,
)
from twinstep.planner.policy import wasted_s
from twinstep.planner.presets import PRESETS
from twinstep.store.slots import SLOTS


def rows() -> list[Row]:
    """Returns every number that can be computed, in the paper's order."""
    return [
        *_definitions(),
        *_tables(),
        *_placement(),
        *results.wasted_time(),
        *results.checkpoints(),
        *results.frequencies(),
        *results.recovery(),
        *results.scale(),
        *results.ablation(),
    ]


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
