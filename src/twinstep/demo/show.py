"""Draws a trial for a person: what happens now, a row per failure, the verdict.

In a terminal three lines are kept up to date; elsewhere only what is done is printed,
a line an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from twinstep.agent.status import MachineStatus, Status
from twinstep.demo.job import Plan, Sight
from twinstep.demo.record import Comparison, Failure

REFRESH_PER_S = 4

NAMES = {"ddp": "DDP", "fsdp2": "FSDP2"}


class Screen:
    """Progress of trials, one after the other; use as a context manager."""

    def __init__(self, console: Console, *, failures_planned: int = 0) -> None:
        self._console = console
        self._live = Live(
            console=console, refresh_per_second=REFRESH_PER_S, transient=True
        )
        self._title, self._steps, self._last = "", 1, ""
        self._planned, self._seen = failures_planned, 0

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.update(Text(""))
        self._live.stop()

    def begins(self, title: str, plan: Plan) -> None:
        self._title, self._steps = titled(title), plan.steps
        self._last = f"{plan.machines} machines, {plan.standbys} standby"
        self._seen = 0

    def look(self, sight: Sight) -> None:
        """Draws what can be seen of the job now."""
        if self._console.is_terminal:
            self._live.update(self._draw(sight))

    def _draw(self, sight: Sight) -> Group:
        head = Table.grid(padding=(0, 2))
        loss = f"loss {sight.losses[-1].loss:.3f}" if sight.losses else "loss -"
        count = f"{self._seen}/{self._planned}" if self._planned else ""
        head.add_row(
            Text(self._title, style="bold"),
            ProgressBar(total=self._steps, completed=sight.step, width=32),
            f"step {sight.step:>4}",
            loss,
            Text(sight.phase, style="green" if sight.phase == "training" else "yellow"),
            count,
        )
        machines = machine_line(sight.status) if sight.status else Text("")
        return Group(head, machines, Text(f"  last: {self._last}", style="dim"))

    def failure(self, failure: Failure) -> None:
        self._seen += 1
        after, source = outcome(failure)
        self._last = f"{failure.what}, {after}"
        self._console.print(
            Text.assemble(
                (f"{failure.struck_s:7.1f} s  ", "dim"),
                (failure.what, "bold red"),
                f" at step {failure.at_step}, ",
                (after, "green"),
                source,
            ),
            soft_wrap=True,
        )

    def ends(self, took_s: float) -> None:
        self._console.print(Text(f"{self._title}: ended well after {took_s:.1f} s"))


def outcome(failure: Failure) -> tuple[str, str]:
    """Returns what came of a failure, and from where, in words."""
    if not failure.recoveries:
        return "training went on", ""
    return f"back after {failure.resumed_s:.1f} s", f" from {failure.source}"


def titled(title: str) -> str:
    """Returns a title with the frameworks' names as they are written."""
    style, _, rest = title.partition(",")
    return f"{NAMES.get(style, style)},{rest}" if rest else NAMES.get(style, style)


def machine_line(status: Status) -> Text:
    """Returns the machines in a line, each with its ranks."""
    line = Text("  ")
    for machine in sorted(
        status.machines, key=lambda m: (m.machine_rank < 0, m.machine)
    ):
        line.append(machine.machine, style="bold")
        line.append(f" {_role(machine, status)}   ", style="dim")
    return line.append(f"round {status.round}   safe {status.safe}", style="dim")


def _role(machine: MachineStatus, status: Status) -> str:
    ranks = ",".join(map(str, sorted(machine.ranks))) or "-"
    role = "standby" if machine.machine_rank < 0 else f"rank {ranks}"
    return f"{role} root" if machine.machine == status.root else role


COLUMNS = ("", "what", "detected after", "loaded from", "steps lost", "back after")


def row(failure: Failure) -> tuple[str, ...]:
    """Returns the cells of a failure, as in COLUMNS."""
    return (
        NAMES.get(failure.style, failure.style),
        failure.what,
        f"{failure.detected_s:.2f} s",
        failure.source.replace("memory of ", ""),
        str(failure.steps_lost),
        f"{failure.resumed_s:.2f} s",
    )


def failure_table(failures: Sequence[Failure]) -> Table:
    """Returns a row per failure; red are those that cost what they should not."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in COLUMNS:
        right = name in ("detected after", "steps lost", "back after")
        table.add_column(
            name, justify="right" if right else "left", no_wrap=name == "what"
        )
    for index, failure in enumerate(failures):
        last = index + 1 == len(failures) or failures[index + 1].style != failure.style
        style = "red" if failure.lost else ""
        table.add_row(*row(failure), style=style, end_section=last)
    return table


def bad_copy_lines(failures: Sequence[Failure]) -> list[str]:
    """Returns what was found out about copies that were damaged on purpose."""
    return [
        f"{NAMES.get(failure.style, failure.style):<6} {failure.damaged} was damaged: "
        "found bad, named, not loaded"
        for failure in failures
        if failure.damaged and not failure.lost
    ]


def comparison_lines(comparisons: Sequence[Comparison]) -> list[Text]:
    """Returns the verdict on each pair of runs."""
    return [_comparison(each) for each in comparisons]


def _comparison(comparison: Comparison) -> Text:
    name = NAMES.get(comparison.style, comparison.style)
    what = f"{comparison.parts} tensors and values, {comparison.size / 1e6:.1f} MB"
    line = Text(f"{name:<6} final state of both runs: {what}: ")
    if comparison.identical:
        return line.append("bit-identical", style="bold green")
    if not comparison.parts:
        return line.append("nothing was written", style="bold red")
    line.append(f"{len(comparison.differing)} differ", style="bold red")
    return line.append(": " + ", ".join(comparison.differing[:5]))


def verdict(
    failures: Sequence[Failure], comparisons: Sequence[Comparison]
) -> list[str]:
    """Returns what was lost or differs; empty when all is well."""
    wrong = [failure.lost for failure in failures if failure.lost]
    wrong += [
        f"{NAMES.get(each.style, each.style)}: {len(each.differing)} of {each.parts} "
        "parts of the final state differ"
        for each in comparisons
        if not each.identical
    ]
    return wrong
