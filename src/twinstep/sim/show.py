"""Runs simulated clusters for a person: progress, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from twinstep.sim.explore import Run, run
from twinstep.sim.simulate import Report, simulate, write

TRACE_LINES = 40
PROBES_FROM = 2000
"""With fewer seeds it means nothing that a rare branch was not reached."""


def show(
    *,
    first: int,
    seeds: int,
    kinds: Sequence[str],
    fixed: Mapping[str, int],
    processes: int,
    trace: bool,
    json_file: Path | None,
    console: Console,
) -> int:
    """Returns 0 when every invariant held in every seed, else 1."""
    with Live(console=console, auto_refresh=False) as live:
        report = simulate(
            first=first,
            seeds=seeds,
            kinds=kinds,
            fixed=fixed,
            processes=processes,
            tell=lambda report: live.update(line(report, seeds), refresh=True),
        )
        live.update(draw(report, seeds=seeds), refresh=True)
    if trace:
        for seed in range(first, first + seeds):
            one = run(seed, kinds=kinds, fixed=fixed)
            console.print("\n".join(one.trace), highlight=False, markup=False)
    if json_file is not None:
        write(report, json_file)
    unreached = report.seeds >= PROBES_FROM and report.unreached and not kinds
    return 1 if report.failures or unreached else 0


def line(report: Report, seeds: int) -> Text:
    """Returns the progress in one line."""
    text = Text(f"{report.seeds} of {seeds} seeds, {report.seeds_per_s:.0f} a second")
    text.append(f", {report.simulated_s / 3600:.1f} hours of clusters")
    count = len(report.failures)
    text.append(f", {count} violations", style="red" if count else "")
    return text


def draw(report: Report, *, seeds: int) -> RenderableType:
    """Returns the outcome."""
    parts: list[RenderableType] = [line(report, seeds)]
    if report.unreached and report.seeds >= PROBES_FROM:
        names = "\n  ".join(report.unreached)
        parts.append(Text(f"never reached:\n  {names}", style="yellow"))
    parts += [_failure(one) for one in report.failures]
    return Group(*parts)


def _failure(one: Run) -> Text:
    text = Text(f"\nseed {one.seed} breaks invariant {one.what}\n", style="bold red")
    faults = ", ".join(
        f"{f.kind} after {f.after_s:.3f} s" + f" and {f.steps} steps" * bool(f.steps)
        for f in one.faults
    )
    text.append(f"needs: {faults or 'no fault at all'}\n", style="default")
    text.append("\n".join(one.trace[-TRACE_LINES:]), style="default")
    text.append(f"\nagain, with all its faults: {one.again}", style="default")
    return text
