"""The results as one table: what was reached, between which bounds, against what.

A share of right answers says little alone. Each row has Wilson's 95 % interval, what
chance gives, a simple baseline on the same items, and the same task with blank media.
That is what `short_of` checks too: enough right, and no more than guessing when blind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

THRESHOLDS: Mapping[str, float] = {
    "image_digit": 0.95,
    "spoken_digit": 0.95,
    "speech_image_match": 0.9,
    "video_direction": 0.95,
}
"""What the tiny preset must reach at least after its short training."""
Z = 1.959964
"""Standard deviations that hold 95 % of a normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One task. Shares and bits per byte as they are, chrF in 0..100.

    `chance` is what the commonest answer reaches, or a pick of those that are
    possible, or the bits of equal bytes; `guess` what the question and the sizes of
    media allow without looking. `blind` is the model with blank media, `shuffled` with
    video frames out of order; None where a task has no such media."""

    task: str
    family: str
    metric: str
    items: int
    reached: Measured
    chance: float
    guess: float | None = None
    baseline: float | None = None
    baseline_name: str = ""
    blind: Measured | None = None
    shuffled: Measured | None = None
    more: dict[str, float] | None = None
    """Further metrics of lm-eval, such as BLEU."""

    @property
    def lower_is_better(self) -> bool:
        return self.metric == "bits_per_byte"

    @property
    def blind_is_guessing(self) -> bool:
        """Whether the blind model is no better than guessing is, beyond what few items
        explain. Worse is well: it may always say a rarer answer."""
        return self.blind is None or self.blind.low <= self.guessing

    @property
    def guessing(self) -> float:
        return max(self.chance, self.guess or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All rows of one evaluation, of which run, and how long it took."""

    name: str
    rows: tuple[Row, ...]
    seconds: float

    def row(self, task: str) -> Row | None:
        return next((row for row in self.rows if row.task == task), None)


def wilson(right: float, total: int, *, z: float = Z) -> Measured:
    """Returns the share right / total and Wilson's interval of it (Wilson 1927), which
    stays within 0..1 and is of use at 0 and at 1 too."""
    assert 0 <= right <= total and total > 0, (right, total)
    share = right / total
    scale = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Measured(value=share, low=min(low, share), high=max(high, share))


def short_of(report: Report, thresholds: Mapping[str, float] = THRESHOLDS) -> list[str]:
    """Returns one sentence for each way in which the report falls short: a task below
    its threshold or not asked, or a blind model that does better than guessing. Empty
    when all is well."""
    short: list[str] = []
    for task, least in thresholds.items():
        row = report.row(task)
        if row is None:
            short.append(f"{task} was not asked; it has to reach {least:.2f}")
        elif row.reached.value < least:
            short.append(
                f"{task} reached {row.reached.value:.3f} "
                f"({row.reached.low:.3f} to {row.reached.high:.3f}); it has to reach "
                f"{least:.2f}: train longer"
            )
    for row in report.rows:
        if row.blind and not row.blind_is_guessing:
            short.append(
                f"{row.task} reached {row.blind.value:.3f} with blank media, and "
                f"guessing {row.guessing:.3f}: its prompts tell the answer"
            )
    return short


def save(report: Report, path: Path) -> None:
    """Writes the report as JSON, for load()."""
    path.write_text(json.dumps(asdict(report), indent=1) + "\n")


def load(path: Path) -> Report:
    """Reads what save() wrote."""
    fields = json.loads(path.read_text())
    rows = tuple(_row(row) for row in fields.pop("rows"))
    return Report(rows=rows, **fields)


def _row(fields: dict[str, object]) -> Row:
    for name in ("reached", "blind", "shuffled"):
        value = fields[name]
        fields[name] = Measured(**value) if isinstance(value, dict) else None
    return Row(**fields)  # pyright: ignore[reportArgumentType]


COLUMNS = (
    "task",
    "in the report",
    "items",
    "metric",
    "reached",
    "95 %",
    "chance",
    "baseline",
    "blind",
)
NUMBERS = ("task", "reached", "95 %", "chance", "baseline", "blind")
WIDE = 120
"""Columns of a console that all of the table has room in."""


def cells(row: Row) -> tuple[str, ...]:
    """The row as text, one for each of COLUMNS."""
    blind = "" if row.blind is None else _number(row, row.blind.value)
    if row.shuffled is not None:
        blind += f" (shuffled {_number(row, row.shuffled.value)})"
    baseline = ""
    if row.baseline is not None:
        baseline = f"{_number(row, row.baseline)} {row.baseline_name}"
    return (
        row.task,
        row.family,
        str(row.items),
        row.metric.replace("_", " "),
        _number(row, row.reached.value),
        f"{_number(row, row.reached.low)} to {_number(row, row.reached.high)}",
        _number(row, row.chance),
        baseline,
        blind,
    )


def table(report: Report, *, width: int = WIDE) -> Table:
    """The report for a console of `width` columns; a narrow one has only numbers."""
    shown = Table(title=f"{report.name}: on what it has not seen", expand=False)
    narrow = width < WIDE
    kept = [at for at, name in enumerate(COLUMNS) if not narrow or name in NUMBERS]
    for at in kept:
        words = COLUMNS[at] in ("in the report", "baseline", "blind")
        right = COLUMNS[at] in ("items", "reached", "95 %", "chance")
        shown.add_column(
            COLUMNS[at], justify="right" if right else "left", no_wrap=not words
        )
    for row in report.rows:
        texts = [
            Text(cell.split(" ")[0] if narrow and at in (7, 8) else cell)
            for at, cell in enumerate(cells(row))
        ]
        texts[4].stylize("bold")
        if row.task in THRESHOLDS:
            enough = row.reached.value >= THRESHOLDS[row.task]
            texts[4].stylize("green" if enough else "red")
        if not row.blind_is_guessing:
            texts[8].stylize("red")
        shown.add_row(*(texts[at] for at in kept))
    return shown


def markdown(report: Report) -> str:
    """The report as a Markdown table."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *map(cells, report.rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _number(row: Row, value: float) -> str:
    return f"{value:.1f}" if row.metric == "chrf" else f"{value:.3f}"
