"""Draws what a storage has and what a check found: plain records, as tables."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence

from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from twinstep.planner.quantities import in_words_bytes, in_words_s
from twinstep.stepfiles.checking import Report
from twinstep.stepfiles.listing import Directory, Row
from twinstep.stepfiles.windows import Tick

FAULTS_SHOWN = 20
TENSORS_SHOWN = 20


def draw_rows(name: str, rows: Sequence[Row], *, now_s: float) -> RenderableType:
    """Returns a line for each step of a storage. `now_s`: seconds since 1970."""
    whole = sum(row.whole for row in rows)
    head = Text(f"{name}: {_count(len(rows), 'step')}, {whole} whole")
    if not rows:
        return head
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("step", "written", "size", "machines x ranks", ""):
        table.add_column(column, justify="right" if column == "step" else "left")
    for row in rows:
        age_s = max(0.0, now_s - row.written_s)
        table.add_row(
            str(row.step),
            f"{in_words_s(age_s)} ago" if row.written_s else "",
            in_words_bytes(row.bytes),
            f"{row.machines} x {row.ranks_per_machine}" if row.whole else "",
            Text("whole") if row.whole else Text(_why(row), style="yellow"),
        )
    return Group(head, table)


def _why(row: Row) -> str:
    if row.foreign:
        return "not twinstep's: a directory of torch.distributed.checkpoint"
    return f"passed over: {row.reason}"


def draw_directory(name: str, directory: Directory) -> RenderableType:
    """Returns what a foreign directory has, the first of its tensors by name."""
    tensors = directory.tensors
    head = (
        f"{name}: a directory of torch.distributed.checkpoint, not twinstep's: "
        f"{_count(len(tensors), 'tensor')}, {_count(len(directory.values), 'value')}, "
        f"{in_words_bytes(directory.bytes)} in {_count(directory.files, 'file')}"
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("key", "dtype", "shape", "size", "chunks"):
        table.add_column(column)
    for key, one in list(tensors.items())[:TENSORS_SHOWN]:
        shape = " x ".join(map(str, one.shape)) or "one number"
        size = in_words_bytes(one.bytes) if one.bytes else ""
        table.add_row(Text(key), one.dtype, shape, size, str(one.chunks))
    parts: list[RenderableType] = [Text(head), table]
    if len(tensors) > TENSORS_SHOWN:
        parts.append(Text(f"and {len(tensors) - TENSORS_SHOWN} tensors more (--json)"))
    return Group(*parts)


def draw_report(report: Report) -> RenderableType:
    """Returns in words whether a checkpoint is whole, and the first of its faults."""
    boxes = _count(report.boxes, "box", "boxes")
    files = f"{in_words_bytes(report.bytes)} in {_count(report.files, 'file')}"
    what = f"{_count(report.tensors, 'tensor')} in {boxes}, {files}"
    if not report.faults:
        return Text(f"{report.name} is whole: {what}", style="green")
    count = _count(len(report.faults), "fault")
    parts = [Text(f"{report.name} has {count}: {what}", style="red")]
    for fault in report.faults[:FAULTS_SHOWN]:
        tensor = f" {fault.tensor}:" if fault.tensor else ""
        parts.append(Text(f"  {fault.file}:{tensor} {fault.what}"))
    if len(report.faults) > FAULTS_SHOWN:
        more = len(report.faults) - FAULTS_SHOWN
        parts.append(Text(f"  and {more} more; --json has all"))
    return Group(*parts)


@contextlib.contextmanager
def bar(name: str, size: int) -> Generator[Tick]:
    """Shows how many of `size` bytes are done, and how fast, where stderr is a
    terminal."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(name, total=max(1, size))
        yield lambda count: progress.advance(task, count)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
