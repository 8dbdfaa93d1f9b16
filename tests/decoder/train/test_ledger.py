"""The ledger's sums are the run's time, whatever kills it, and whenever."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings, strategies as st
from rich.console import Console

from twinstep.decoder.train import ledger_view
from twinstep.decoder.train.ledger import Bar, Ledger, read, summarise


@dataclass
class FakeClock:
    """A computer's clocks; another computer's monotonic time has another origin."""

    true_s: float = 1000.0
    origin_s: float = 0.0

    def monotonic_s(self) -> float:
        return self.true_s - self.origin_s

    def wall_s(self) -> float:
        return self.true_s


def spend(
    ledger: Ledger, clock: FakeClock, name: str, took_s: float, step: int = 0
) -> None:
    with ledger.event(name, step=step):
        clock.true_s += took_s


def test_a_calm_run_sums_up(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "ledger.jsonl"
    ledger = Ledger(path, clock=clock, began_wall_s=998.0)
    spend(ledger, clock, "compile", 3.0)
    for step in (1, 2, 3, 4):
        spend(ledger, clock, "data_wait", 0.25)
        spend(ledger, clock, "step", 1.0, step)
    clock.true_s += 0.5
    ledger.end()
    summary = summarise(path)
    assert summary.goodput_s == pytest.approx(4.0)
    assert summary.badput_s == pytest.approx(
        {"init": 2.0, "compile": 3.0, "data_wait": 1.0, "idle": 0.5}
    )
    assert summary.elapsed_s == pytest.approx(10.5)
    assert summary.goodput == pytest.approx(4.0 / 10.5)
    assert (summary.step, summary.attempts, summary.steps_replayed) == (4, 1, 0)
    assert ledger.summary() == summary


def test_steps_computed_again_are_replay_and_the_gap_is_recover(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "ledger.jsonl"
    first = Ledger(path, clock=clock)
    for step in (1, 2, 3, 4):
        spend(first, clock, "step", 1.0, step)
    first.leave()
    clock.true_s += 0.75  # killed in step 5
    clock.origin_s = 500.0  # and goes on on another computer
    clock.true_s += 2.0
    second = Ledger(path, clock=clock, began_wall_s=1.0)
    spend(second, clock, "checkpoint_restore", 0.5, 2)
    assert second.summary().steps_lost == 2
    assert second.summary().badput_s["lost"] == pytest.approx(2.0)
    for step in (3, 4, 5):
        spend(second, clock, "step", 1.0, step)
    second.leave()
    summary = summarise(path)
    assert summary.goodput_s == pytest.approx(5.0)
    assert summary.badput_s == pytest.approx(
        {"recover": 2.75, "checkpoint_restore": 0.5, "replay": 2.0}
    )
    assert (summary.step, summary.attempts) == (5, 2)
    assert (summary.steps_replayed, summary.steps_lost) == (2, 0)
    assert len({line.run for line in read(path) if line.event == "attempt"}) == 1


def test_a_torn_last_line_costs_that_line_only(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "ledger.jsonl"
    first = Ledger(path, clock=clock)
    spend(first, clock, "step", 1.0, 1)
    spend(first, clock, "step", 1.0, 2)
    first.leave()
    path.write_bytes(path.read_bytes()[:-7])
    second = Ledger(path, clock=clock)
    spend(second, clock, "step", 1.0, 2)
    second.leave()
    summary = summarise(path)
    assert summary.goodput_s == pytest.approx(2.0)
    assert summary.badput_s == pytest.approx({"recover": 1.0})
    assert summary.attempts == 2


def test_a_step_that_changed_nothing_is_not_useful(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "ledger.jsonl"
    ledger = Ledger(path, clock=clock)
    with ledger.event("step", step=1) as span:
        clock.true_s += 1.0
        span.kept = False
    assert summarise(path).goodput_s == 0
    assert summarise(path).badput_s == pytest.approx({"skipped": 1.0})
    ledger.leave()


def test_a_step_that_raises_was_not_computed(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "ledger.jsonl"
    ledger = Ledger(path, clock=clock)
    with contextlib.suppress(ZeroDivisionError), ledger.event("step", step=1):
        clock.true_s += 1.0 / 1
        clock.true_s /= 0
    spend(ledger, clock, "eval", 1.0)
    assert summarise(path).badput_s == pytest.approx({"eval": 1.0, "idle": 1.0})
    inner = ledger.event("step")
    with ledger.event("eval"), pytest.raises(AssertionError, match="within another"):
        inner.__enter__()
    ledger.leave()


def test_who_goes_on_later_was_not_waiting(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "ledger.jsonl"
    first = Ledger(path, clock=clock)
    spend(first, clock, "step", 1.0, 1)
    first.end()
    first.end()
    clock.true_s += 86_400
    second = Ledger(path, clock=clock)
    spend(second, clock, "step", 1.0, 2)
    second.leave()
    assert summarise(path).elapsed_s == pytest.approx(2.0)
    assert summarise(path).goodput == pytest.approx(1.0)


def test_a_rank_that_writes_nothing_still_measures() -> None:
    clock = FakeClock()
    ledger = Ledger(None, clock=clock)
    with ledger.event("step", step=1) as span:
        clock.true_s += 2.0
    assert span.took_s == 2.0 and ledger.summary().goodput_s == 2.0


@dataclass
class Life:
    """A run as it really was: what is in the file, and what is not."""

    seed: int
    useful_s: dict[int, float] = field(default_factory=dict)
    total_s: float = 0.0
    again_s: float = 0.0
    away_s: float = 0.0
    reached: int = 0

    def live(self, path: Path) -> None:
        random, clock = Random(self.seed), FakeClock()
        unwritten_s = 0.0
        for attempt in range(random.randint(1, 5)):
            if attempt:
                down_s = random.random() * 5
                clock.true_s += down_s
                clock.origin_s = random.random() * 900
                self.away_s += unwritten_s + down_s
            ledger = Ledger(path, clock=clock)
            self.reached = random.randint(max(0, self.reached - 3), self.reached)
            spend(ledger, clock, "checkpoint_restore", 0.1, self.reached)
            for _ in range(random.randint(0, 6)):
                spend(ledger, clock, "data_wait", random.random())
                took_s, self.reached = random.random(), self.reached + 1
                spend(ledger, clock, "step", took_s, self.reached)
                if self.reached in self.useful_s:
                    self.again_s += took_s
                else:
                    self.useful_s[self.reached] = took_s
            written_s = clock.true_s
            with path.open("ab") as file:  # killed within an event
                file.write(b'{"event":"step","at_s":12'[: random.randint(0, 25)])
            clock.true_s += random.random()
            unwritten_s = clock.true_s - written_s
            ledger.leave()
        self.total_s = written_s - 1000.0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_whatever_is_killed_the_sums_are_the_runs_time(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    path = tmp_path_factory.mktemp("life") / "ledger.jsonl"
    life = Life(seed)
    life.live(path)
    summary = summarise(path)
    assert summary.elapsed_s == pytest.approx(life.total_s)
    assert summary.goodput_s + sum(summary.badput_s.values()) == pytest.approx(
        summary.elapsed_s
    )
    kept = [s for step, s in life.useful_s.items() if step <= life.reached]
    assert summary.goodput_s == pytest.approx(sum(kept))
    assert summary.badput_s.get("replay", 0.0) == pytest.approx(life.again_s)
    assert summary.badput_s.get("recover", 0.0) == pytest.approx(life.away_s)
    assert summary.badput_s.get("idle", 0.0) == pytest.approx(0.0, abs=1e-6)


def test_the_table_and_the_picture_show_it(tmp_path: Path) -> None:
    life = Life(7)
    life.live(tmp_path / "ledger.jsonl")
    bars: list[Bar] = []
    summary = summarise(tmp_path / "ledger.jsonl", bars=bars)
    assert sum(bar.took_s for bar in bars) == pytest.approx(summary.elapsed_s)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(ledger_view.table({"calm": summary, "injured": summary}))
    text = console.export_text()
    assert "useful new steps" in text and f"{summary.goodput:.2%}" in text
    shown = json.loads(json.dumps(ledger_view.record(summary)))
    assert shown["goodput"] == summary.goodput
    ledger_view.draw({"injured": bars}, tmp_path / "timeline.png")
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_marks_what_a_restart_lost() -> None:
    def bar(kind: str, step: int) -> Bar:
        return Bar(kind=kind, at_s=0, took_s=1, step=step, attempt=1)

    before = [bar("step", 1), bar("step", 2), bar("checkpoint_restore", 1)]
    marked = ledger_view.mark_lost([*before, bar("replay", 2), bar("step", 3)])
    assert [b.kind for b in marked] == [
        "step",
        "lost",
        "checkpoint_restore",
        "replay",
        "step",
    ]
