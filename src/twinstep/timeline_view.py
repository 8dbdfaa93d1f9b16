"""Draws a step of each machine: training's traffic and copies, planned and observed.

As text a line a machine, as JSON what the agents said, as a picture two rows a machine:
above what is planned into the idle spans of its profile, below the last step that was
observed with copies in it, all on one axis of seconds since the step began.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from twinstep.agent.asking import ask_all
from twinstep.agent.timeline import ObservedStep, Timeline
from twinstep.errors import UsageError
from twinstep.jobs import JobView
from twinstep.planner.quantities import in_words_bytes

COLUMNS = ("machine", "step", "idle", "copies", "take", "in spans", "clear", "held")
CELLS = 60
"""Of the bar that is a step."""
BUSY, COPY, BOTH, IDLE = "▒", "█", "x", "·"
INK, PALE, TRAINING, COPIES, PLANNED = (
    "#22303c",
    "#d9e2ec",
    "#829ab1",
    "#0b7285",
    "#63b3a4",
)
DPI = 150


class Timelines(msgspec.Struct, frozen=True, kw_only=True):
    """What all machines of a job told of their steps."""

    every: int
    """One step in so many is captured."""
    reason: str
    """Why not every one; empty when every one is."""
    overhead: float | None
    """By how much copies lengthen the mean step; None before it is known."""
    overhead_noise: float | None
    machines: list[Timeline]
    silent: list[str]
    """Who did not answer, and why."""


def look(view: JobView) -> Timelines:
    """Returns the timelines of a job's machines.

    Raises: UsageError while there is no root to say who they are."""
    status = view.status()
    if status is None:
        raise UsageError(
            f"job {view.job.name} has no root yet; try again when `twinstep status` "
            "shows its machines"
        )
    training = [one for one in status.machines if one.machine_rank >= 0]
    told, silent = ask_all(
        training, Timeline, job=view.job.name, credentials=view.credentials
    )
    return Timelines(
        every=status.every,
        reason=status.every_reason,
        overhead=status.overhead,
        overhead_noise=status.overhead_noise,
        machines=sorted(told, key=lambda one: one.machine_rank),
        silent=silent,
    )


def show(view: JobView, *, as_json: bool, png: Path | None) -> RenderableType:
    """Returns the steps of all machines as text or as one JSON object; the picture is
    in the file `png` afterwards, if that is named."""
    seen = look(view)
    if png is not None:
        picture(seen, png)
    return msgspec.json.encode(seen).decode() if as_json else draw(seen)


def draw(seen: Timelines) -> RenderableType:
    """Returns a table of machines, and the last step of each as a bar."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "machine" else "right")
    bars: list[RenderableType] = []
    for machine in seen.machines:
        table.add_row(*_row(machine))
        step = shown(machine)
        if step is not None:
            bars.append(Text(f"{machine.machine}  {bar(step)}  {step.length_s:.3g} s"))
    legend = f"{BUSY} training  {COPY} copies  {BOTH} both  {IDLE} nothing"
    parts: list[RenderableType] = [Text(frequency(seen)), table]
    if bars:
        parts += [*bars, Text(legend, style="dim")]
    return Group(*parts, *(Text(f"no answer: {t}", style="red") for t in seen.silent))


def frequency(seen: Timelines) -> str:
    """Returns in a sentence how often a step is captured, and why."""
    if seen.every == 1:
        text = "every step is captured"
    else:
        text = f"one step in {seen.every} is captured: {seen.reason}"
    if seen.overhead is None or seen.overhead_noise is None:
        return text
    noise = f"± {seen.overhead_noise:.1%}"
    return f"{text}; copies lengthen steps by {seen.overhead:.1%} {noise}"


def _row(machine: Timeline) -> list[str]:
    held = _share(machine.spared_bytes, machine.arrived_bytes)
    if not machine.step_s:
        what = "being learnt" if machine.profiling else "unknown"
        return [machine.machine, what, *[""] * 5, held]
    idle_s = sum(span.mean_s for span in machine.spans)
    return [
        machine.machine,
        f"{machine.step_s:.3g} s",
        f"{idle_s:.3g} s in {len(machine.spans)}",
        in_words_bytes(sum(machine.copies_bytes)),
        f"{machine.needs_s:.3g} s",
        _share(machine.in_span_bytes, machine.sent_bytes),
        _share(machine.clear_bytes, machine.judged_bytes),
        held,
    ]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""


def shown(machine: Timeline) -> ObservedStep | None:
    """Returns the newest step in which copies went, else the newest."""
    with_copies = [step for step in machine.steps if step.sent]
    return next(reversed(with_copies or machine.steps), None)


def bar(step: ObservedStep) -> str:
    """Returns a step as CELLS signs."""
    signs: list[str] = []
    for cell in range(CELLS):
        start_s, end_s = (step.length_s * (cell + i) / CELLS for i in (0, 1))
        busy = any(a < end_s and b > start_s for a, b in step.busy)
        copies = any(c.began_s < end_s and c.ended_s > start_s for c in step.sent)
        signs.append(BOTH if busy and copies else BUSY if busy else COPY if copies else
                     IDLE)  # fmt: skip
    return "".join(signs)


def picture(seen: Timelines, path: Path) -> None:
    """The file is a PNG of a step of each machine.

    Raises: UsageError while no machine has observed one."""
    machines = [machine for machine in seen.machines if shown(machine) is not None]
    if not machines:
        raise UsageError(
            "no machine has observed a step yet: no rank tells when it uses the "
            "network; try again when some steps were made"
        )
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made: Any = cast("Any", pyplot)
    figure, axes = made.subplots(figsize=(11, 1.2 + 1.1 * len(machines)))
    ticks: list[tuple[float, str]] = []
    for row, machine in enumerate(machines):
        ticks += _draw_machine(axes, machine, base=-2.6 * row)
    axes.set_yticks([at for at, _ in ticks], [text for _, text in ticks])
    axes.set_xlabel("seconds since the step began")
    axes.set_title(frequency(seen), loc="left", fontsize=10, color=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.legend(
        handles=[
            made.Rectangle((0, 0), 1, 1, color=color, label=label)
            for color, label in (
                (TRAINING, "training"),
                (PALE, "idle, by the profile"),
                (PLANNED, "copies, planned"),
                (COPIES, "copies, observed"),
            )
        ],
        ncols=4,
        loc="upper left",
        bbox_to_anchor=(0, -0.18),
        frameon=False,
        fontsize=9,
    )
    figure.savefig(path, dpi=DPI, bbox_inches="tight", facecolor="white")
    made.close(figure)


def _draw_machine(
    axes: Any, machine: Timeline, *, base: float
) -> list[tuple[float, str]]:
    """Returns where its rows are, and their names."""
    spans = [(span.start_s, span.mean_s) for span in machine.spans]
    axes.broken_barh(spans, (base, 0.9), color=PALE)
    rate = machine.link_bytes_per_s or 1.0
    steps = max(1, machine.every)
    planned = [
        (span.start_s, span.planned_bytes / steps / rate)
        for span in machine.spans
        if span.planned_bytes
    ]
    axes.broken_barh(planned, (base + 0.2, 0.5), color=PLANNED)
    step = shown(machine)
    assert step is not None
    busy = [(start_s, end_s - start_s) for start_s, end_s in step.busy]
    axes.broken_barh(busy, (base - 1.1, 0.9), color=TRAINING)
    chunks = [(one.began_s, one.ended_s - one.began_s) for one in step.sent]
    axes.broken_barh(chunks, (base - 0.9, 0.5), color=COPIES)
    name = machine.machine
    return [(base + 0.45, f"{name} planned"), (base - 0.65, f"{name} step {step.step}")]
