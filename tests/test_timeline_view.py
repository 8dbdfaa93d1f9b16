"""The picture of a step: what is drawn is what the machines said."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from twinstep.agent.timeline import Carried, ObservedStep, TimedSpan, Timeline
from twinstep.errors import UsageError
from twinstep.timeline_view import CELLS, Timelines, bar, draw, frequency, picture


def step(number: int = 7, **changed: Any) -> ObservedStep:
    settings: dict[str, Any] = {
        "step": number,
        "length_s": 0.6,
        "busy": [(0.3, 0.5)],
        "sent": [Carried(began_s=0.0, ended_s=0.1, size=1000, after=0)],
    }
    return ObservedStep(**(settings | changed))


def machine(name: str = "m00", **changed: Any) -> Timeline:
    settings: dict[str, Any] = {
        "machine": name,
        "machine_rank": 0,
        "mode": "spans",
        "profiling": False,
        "step_s": 0.6,
        "deviation": 0.01,
        "spans": [
            TimedSpan(
                after=0, start_s=0.0, mean_s=0.3, min_s=0.2, planned_bytes=2_000_000
            )
        ],
        "link_bytes_per_s": 25e6,
        "startup_s": 0.001,
        "copies_bytes": [2_000_000],
        "needs_s": 0.08,
        "every": 1,
        "unfitted_bytes": 0,
        "steps": [step()],
        "sent_bytes": 1000,
        "in_span_bytes": 990,
        "judged_bytes": 1000,
        "clear_bytes": 980,
    }
    return Timeline(**(settings | changed))


def seen(*machines: Timeline, **changed: Any) -> Timelines:
    settings: dict[str, Any] = {
        "every": 1,
        "reason": "",
        "overhead": None,
        "overhead_noise": None,
        "machines": list(machines),
        "silent": [],
    }
    return Timelines(**(settings | changed))


def text(timelines: Timelines) -> str:
    console = Console(file=StringIO(), width=140)
    console.print(draw(timelines))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_bar_shows_who_used_the_network_when() -> None:
    tenth = CELLS // 6
    one = step(sent=[Carried(began_s=0.0, ended_s=0.1, size=1, after=0)])
    assert bar(one) == "█" * tenth + "·" * 2 * tenth + "▒" * 2 * tenth + "·" * tenth
    both = step(sent=[Carried(began_s=0.3, ended_s=0.5, size=1, after=-1)])
    assert bar(both).count("x") == 2 * tenth


def test_a_row_a_machine_and_the_last_step_with_copies() -> None:
    quiet = step(8, sent=[], length_s=0.7)
    shown = text(seen(machine(steps=[step(), quiet]), silent=["m01: gone"]))
    assert "every step is captured" in shown
    assert "0.3 s in 1" in shown and "2 MB" in shown
    assert "99.0%" in shown and "98.0%" in shown
    assert "0.6 s" in shown and "0.7 s" not in shown
    assert "no answer: m01: gone" in shown


def test_a_machine_that_learns_says_so() -> None:
    learns = machine(step_s=0.0, spans=[], steps=[], profiling=True)
    assert "being learnt" in text(seen(learns))


def test_the_frequency_has_its_reason_and_its_price() -> None:
    timelines = seen(
        machine(), every=3, reason="it is slow", overhead=0.012, overhead_noise=0.004
    )
    assert frequency(timelines) == (
        "one step in 3 is captured: it is slow; copies lengthen steps by 1.2% ± 0.4%"
    )


def test_a_picture_is_made_of_the_machines_that_saw_a_step(tmp_path: Path) -> None:
    path = tmp_path / "step.png"
    picture(seen(machine(), machine("m01", steps=[])), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_any_step_there_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no machine has observed a step yet"):
        picture(seen(machine(steps=[])), tmp_path / "step.png")
