"""What a run's time went to, in one append-only file that every attempt adds to.

    attempt 1   init  compile  step 1  step 2  step 3  step 4  killed
    attempt 2   init  restore (step 2)  step 3  step 4  step 5 ...

Goodput is "the time spent computing useful new steps over the elapsed time of the
training job" (Gemini 1.0 report, section 3, footnote 2). A step is useful when its
number is new and the run has kept it: of steps that were lost and computed again, the
first time counts, and the second is `replay`; steps that nobody has computed again yet
are `lost`. What is not goodput has a cause, and all together are the elapsed time.

The file has a line for each event, written when it ends, so that who is killed loses
one at most. Attempts are placed by the wall clock, since the next one may be on another
machine; within an attempt time is monotonic. From the last line of an attempt that did
not end by itself to the first of the next is `recover`. An attempt that did end is
followed by no badput: whoever goes on later was not waiting.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from twinstep.clock import Clock, SystemClock

EVENTS = (
    "init",
    "compile",
    "data_wait",
    "step",
    "checkpoint_save",
    "checkpoint_restore",
    "recover",
    "replay",
    "eval",
    "idle",
)
"""What a run may spend time on. `idle` is also what no event covers."""
CAUSES = (*(event for event in EVENTS if event != "step"), "lost", "skipped")
"""What time that is not goodput goes to. `skipped`: steps that changed nothing, since
their gradients were not finite."""
LINE_BYTES_MAX = 4096


class Line(msgspec.Struct, omit_defaults=True):
    """One line of the file. Times are in seconds; `at_s` is monotonic, `wall_s` that of
    the wall clock. `step` is the number of updates after it."""

    event: str
    at_s: float
    took_s: float = 0.0
    step: int = 0
    kept: bool = True
    run: str = ""
    attempt: int = 0
    wall_s: float = 0.0


@dataclass(slots=True)
class Span:
    """An event that goes on; what its body finds out of it."""

    step: int = 0
    kept: bool = True
    took_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A run so far. Invariant: goodput_s plus all of badput_s is elapsed_s."""

    run: str
    attempts: int
    step: int
    """The newest that is kept."""
    elapsed_s: float
    goodput_s: float
    badput_s: dict[str, float]
    steps_replayed: int
    steps_lost: int

    @property
    def goodput(self) -> float:
        """A share of 1; 0 before any time has passed."""
        return self.goodput_s / self.elapsed_s if self.elapsed_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A stretch of the run's time, for a picture: from `at_s` after its start."""

    kind: str
    at_s: float
    took_s: float
    step: int
    attempt: int


@dataclass(slots=True)
class Tally:
    """Sums lines up, in the file's order; what goodput is, is decided here."""

    bars: list[Bar] | None = None
    """Where a list is given, every line becomes a bar of it."""
    run: str = ""
    attempts: int = 0
    elapsed_s: float = 0.0
    _began_s: float = 0.0
    """Monotonic time at which the present attempt began."""
    _before_s: float = 0.0
    """Elapsed time before the present attempt."""
    _wall_s: float = 0.0
    _ended: bool = False
    _step: int = 0
    _replayed: int = 0
    _first_s: dict[int, float] = field(default_factory=dict)
    """Of each step, how long it took when it was computed first."""
    _spent_s: dict[str, float] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        """Lines of an unknown kind count as time of no event."""
        if line.event == "attempt":
            self._begin(line)
            return
        if not self.attempts:
            return  # without a beginning there is no place for it
        ends_s = line.at_s + line.took_s - self._began_s
        self.elapsed_s = max(self.elapsed_s, self._before_s + ends_s)
        if line.event == "end":
            self._ended = True
        elif line.event == "step":
            self._add_step(line)
        elif line.event in EVENTS:
            self._spend(line.event, line.took_s)
            self._draw(line.event, line)
        if line.event == "checkpoint_restore":
            self._step = line.step

    def _begin(self, line: Line) -> None:
        gap_s = max(0.0, line.wall_s - self._end_wall_s) if self.attempts else 0.0
        if self._ended:
            gap_s = 0.0
        at_s, self.elapsed_s = self.elapsed_s, self.elapsed_s + gap_s + line.took_s
        if gap_s:
            self._spend("recover", gap_s)
            self._bar("recover", at_s, gap_s, 0)
        if line.took_s:
            self._spend("init", line.took_s)
            self._bar("init", at_s + gap_s, line.took_s, 0)
        self.run, self.attempts = line.run or self.run, self.attempts + 1
        self._began_s, self._wall_s = line.at_s, line.wall_s
        self._before_s, self._ended = self.elapsed_s, False

    @property
    def _end_wall_s(self) -> float:
        return self._wall_s + self.elapsed_s - self._before_s

    def _add_step(self, line: Line) -> None:
        self._step = line.step
        if not line.kept:
            kind = "skipped"
        elif line.step in self._first_s:
            kind = "replay"
            self._replayed += 1
        else:
            kind = "step"
            self._first_s[line.step] = line.took_s
        if kind != "step":
            self._spend(kind, line.took_s)
        self._draw(kind, line)

    def _spend(self, cause: str, seconds: float) -> None:
        self._spent_s[cause] = self._spent_s.get(cause, 0.0) + seconds

    def _draw(self, kind: str, line: Line) -> None:
        at_s = self._before_s + line.at_s - self._began_s
        self._bar(kind, at_s, line.took_s, line.step)

    def _bar(self, kind: str, at_s: float, took_s: float, step: int) -> None:
        if self.bars is not None:
            self.bars.append(
                Bar(
                    kind=kind,
                    at_s=at_s,
                    took_s=took_s,
                    step=step,
                    attempt=self.attempts,
                )
            )

    def summary(self) -> Summary:
        kept = [s for step, s in self._first_s.items() if step <= self._step]
        lost = [s for step, s in self._first_s.items() if step > self._step]
        spent = dict(self._spent_s)
        if lost:
            spent["lost"] = sum(lost)
        goodput_s = sum(kept)
        idle_s = self.elapsed_s - goodput_s - sum(spent.values())
        spent["idle"] = spent.get("idle", 0.0) + max(0.0, idle_s)
        return Summary(
            run=self.run,
            attempts=self.attempts,
            step=self._step,
            elapsed_s=self.elapsed_s,
            goodput_s=goodput_s,
            badput_s={cause: spent[cause] for cause in CAUSES if spent.get(cause)},
            steps_replayed=self._replayed,
            steps_lost=len(lost),
        )


def read(path: Path) -> list[Line]:
    """Returns the lines of a ledger; what a kill has torn is left out.

    Raises: OSError when there is none."""
    lines: list[Line] = []
    for raw in path.read_bytes().splitlines():
        with contextlib.suppress(msgspec.DecodeError):
            lines.append(msgspec.json.decode(raw[:LINE_BYTES_MAX], type=Line))
    return lines


def summarise(path: Path, *, bars: list[Bar] | None = None) -> Summary:
    """Returns what the time of a run went to so far; `bars` are filled for a picture.

    Raises: OSError when there is no ledger."""
    tally = Tally(bars)
    for line in read(path):
        tally.add(line)
    return tally.summary()


class Ledger:
    """One attempt's part of a ledger.

        with ledger.event("compile"):
            ...
        with ledger.event("step", step=k) as span:
            span.kept = ...

    Events do not nest. Where `path` is None nothing is written (every rank but the
    first), and everything else is the same.

    Args:
      began_wall_s: when somebody started what this process is the first attempt of;
        the time since then is `init`. Later attempts leave it out."""

    def __init__(
        self,
        path: Path | None,
        *,
        began_wall_s: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._tally = Tally()
        self._file: IO[bytes] | None = None
        self._span: Span | None = None
        self._encoder = msgspec.json.Encoder()
        former = read(path) if path is not None and path.exists() else []
        for line in former:
            self._tally.add(line)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            if _torn(path):
                self._file.write(b"\n")
        wall_s = self._clock.wall_s()
        before_s = wall_s - began_wall_s if began_wall_s and not former else 0.0
        self._write(
            Line(
                event="attempt",
                at_s=self._clock.monotonic_s(),
                took_s=max(0.0, before_s),
                run=self._tally.run or uuid.uuid4().hex[:12],
                attempt=self._tally.attempts + 1,
                wall_s=wall_s,
            )
        )
        self._flush()

    @contextlib.contextmanager
    def event(self, name: str, *, step: int = 0) -> Generator[Span]:
        """The body's time is that event's. A step whose body raises was not computed,
        and is not written; another event is."""
        assert name in EVENTS, f"{name!r} is none of {', '.join(EVENTS)}"
        assert self._span is None, f"{name} within another event"
        self._span = span = Span(step=step)
        at_s, done = self._clock.monotonic_s(), False
        try:
            yield span
            done = True
        finally:
            self._span = None
            span.took_s = self._clock.monotonic_s() - at_s
            if done or name != "step":
                self._write(
                    Line(
                        event=name,
                        at_s=at_s,
                        took_s=span.took_s,
                        step=span.step,
                        kept=span.kept,
                    )
                )
            if name != "data_wait":  # the step that waited for it follows at once
                self._flush()

    def end(self) -> None:
        """The attempt ended by itself. Safe to repeat."""
        if self._file is None:
            return
        self._write(Line(event="end", at_s=self._clock.monotonic_s()))
        self.leave()

    def leave(self) -> None:
        """The file is closed, and does not say that the attempt ended by itself: as if
        it had been killed now."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def summary(self) -> Summary:
        """The run so far, with its earlier attempts."""
        return self._tally.summary()

    @property
    def elapsed_s(self) -> float:
        """Of the run, up to its last line."""
        return self._tally.elapsed_s

    def _write(self, line: Line) -> None:
        self._tally.add(line)
        if self._file is not None:
            self._file.write(self._encoder.encode(line) + b"\n")

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()


def _torn(path: Path) -> bool:
    """Whether the last line has no end."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
