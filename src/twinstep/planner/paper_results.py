"""Makes the rows of paper.py that are results: Figures 8, 10 to 12, and 14 to 16."""

from __future__ import annotations

from collections.abc import Iterator

from twinstep.planner.paper import (
    FIGURE_7_STEP_S,
    FIGURE_15,
    SAVE_S,
    STEP_S,
    STORAGE,
    Row,
    gpt_100b,
    ratio,
)
from twinstep.planner.policy import interval_min_s, wasted_s


def wasted_time() -> Iterator[Row]:
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


def checkpoints() -> Iterator[Row]:
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


def frequencies() -> Iterator[Row]:
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


def recovery() -> Iterator[Row]:
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


def scale() -> Iterator[Row]:
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


def ablation() -> Iterator[Row]:
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
