"""A ledger for people: a table of where the time went, and a picture of when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from twinstep.decoder.train.ledger import Bar, Summary

COLOURS = {
    "step": "#3b7a57",
    "replay": "#e0a030",
    "lost": "#c0392b",
    "skipped": "#8e44ad",
    "recover": "#7f1d1d",
    "init": "#9aa5b1",
    "compile": "#5b6b7b",
    "data_wait": "#4a90d9",
    "checkpoint_save": "#20b2aa",
    "checkpoint_restore": "#17807a",
    "eval": "#b0b060",
    "idle": "#d0d0d0",
}
WORDS = {
    "init": "start of processes, imports, data",
    "compile": "of the step, or reading it from the cache",
    "data_wait": "for the next batch",
    "checkpoint_save": "training waits in after_step",
    "checkpoint_restore": "state from memory or another machine",
    "recover": "from a kill to the next attempt's first line",
    "replay": "steps computed again",
    "lost": "steps that were lost and not yet computed again",
    "skipped": "steps without an update",
    "eval": "held-out loss",
    "idle": "none of these",
}


def table(runs: Mapping[str, Summary]) -> Table:
    """Returns a table with a column for each run: seconds, and shares of it."""
    made = Table(title="Goodput", title_justify="left", show_footer=False)
    made.add_column("time went to", no_wrap=True)
    for name in runs:
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("what it is", style="dim")
    causes = [
        cause for cause in WORDS if any(cause in s.badput_s for s in runs.values())
    ]

    def row(title: str, seconds: Sequence[float], what: str, style: str = "") -> None:
        cells = [
            f"{each:8.2f} s {each / max(1e-12, summary.elapsed_s):7.2%}"
            for each, summary in zip(seconds, runs.values(), strict=True)
        ]
        made.add_row(title, *cells, what, style=style)

    every = list(runs.values())
    row("useful new steps", [s.goodput_s for s in every], "goodput", "bold green")
    for cause in causes:
        row(cause, [s.badput_s.get(cause, 0.0) for s in every], WORDS[cause])
    made.add_section()
    row("elapsed", [s.elapsed_s for s in every], "their sum", "bold")
    made.add_row("steps kept", *[str(s.step) for s in every], "")
    made.add_row("steps replayed", *[str(s.steps_replayed) for s in every], "")
    made.add_row("attempts", *[str(s.attempts) for s in every], "")
    return made


def record(summary: Summary) -> dict[str, Any]:
    """Returns the summary for JSON, with its goodput."""
    return asdict(summary) | {"goodput": summary.goodput}


def draw(runs: Mapping[str, Sequence[Bar]], path: Path) -> None:
    """Draws each run as two rows: what its time went to, and the step it was at."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    figure, axes = pyplot.subplots(
        2 * len(runs),
        1,
        sharex=True,
        figsize=(12, 2.6 * len(runs)),
        height_ratios=[1, 2] * len(runs),
        squeeze=False,
        layout="constrained",
    )
    seen: set[str] = set()
    for number, (name, bars) in enumerate(runs.items()):
        strip, line = axes[2 * number][0], axes[2 * number + 1][0]
        marked = mark_lost(bars)
        for kind in sorted({bar.kind for bar in marked}):
            spans = [(bar.at_s, bar.took_s) for bar in marked if bar.kind == kind]
            strip.broken_barh(spans, (0, 1), color=COLOURS.get(kind, "#000000"))
            seen.add(kind)
        strip.set_yticks([])
        strip.set_title(name, loc="left", fontsize=10)
        steps = [bar for bar in marked if bar.kind in ("step", "replay", "lost")]
        for attempt in sorted({bar.attempt for bar in steps}):
            mine = [bar for bar in steps if bar.attempt == attempt]
            line.plot(
                [bar.at_s + bar.took_s for bar in mine],
                [bar.step for bar in mine],
                color=COLOURS["step"],
                linewidth=1.2,
            )
        gone = [bar for bar in steps if bar.kind == "lost"]
        line.scatter(
            [bar.at_s + bar.took_s for bar in gone],
            [bar.step for bar in gone],
            color=COLOURS["lost"],
            s=9,
            zorder=3,
        )
        line.set_ylabel("step")
        line.grid(alpha=0.3)
    axes[-1][0].set_xlabel("seconds since the start")
    kinds = [kind for kind in COLOURS if kind in seen]
    figure.legend(
        handles=[Patch(color=COLOURS[kind], label=kind) for kind in kinds],
        loc="outside lower center",
        ncols=min(8, max(1, len(kinds))),
        fontsize=8,
    )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def mark_lost(bars: Sequence[Bar]) -> list[Bar]:
    """Returns the bars with those steps marked as lost whose work a later attempt did
    not have: it computed the same number, or was restored to an earlier one."""
    marked: list[Bar] = []
    lowest: float = float("inf")
    for bar in reversed(bars):
        lost = bar.kind == "step" and bar.step > lowest
        if bar.kind == "checkpoint_restore":
            lowest = min(lowest, bar.step)
        marked.append(
            Bar(
                kind="lost" if lost else bar.kind,
                at_s=bar.at_s,
                took_s=bar.took_s,
                step=bar.step,
                attempt=bar.attempt,
            )
        )
    return marked[::-1]
