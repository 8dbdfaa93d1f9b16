"""Intervals against published values, what falls short, and the table's forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from twinstep.decoder.eval.report import (
    Measured,
    Report,
    Row,
    load,
    markdown,
    save,
    short_of,
    wilson,
)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, table I, method 3 (Wilson).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_intervals(right: int, total: int, low: float, high: float) -> None:
    found = wilson(right, total)
    assert found.value == right / total
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


def test_what_is_short_is_said() -> None:
    assert short_of(_report(), {"image_digit": 0.95}) == []
    assert short_of(_report(), {"image_digit": 0.99}) == [
        "image_digit reached 0.970 (0.951 to 0.982); it has to reach 0.99: train longer"
    ]
    assert "not asked" in short_of(_report(), {"spoken_digit": 0.5})[0]
    tells = replace(_report().rows[0], blind=wilson(150, 500))
    found = short_of(Report(name="t", rows=(tells,), seconds=1.0), {})
    assert found == [
        "image_digit reached 0.300 with blank media, and guessing 0.110: its prompts "
        "tell the answer"
    ]


def test_a_blind_model_below_chance_is_no_fault() -> None:
    row = replace(_report().rows[0], blind=wilson(10, 500))
    assert row.blind_is_guessing


def test_a_report_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    save(_report(), path)
    assert load(path) == _report()


def test_the_markdown_has_a_line_for_each_task() -> None:
    lines = markdown(_report()).splitlines()
    assert len(lines) == 3
    assert lines[2] == (
        "| image_digit | Image understanding | 500 | exact match | 0.970 | 0.951 to "
        "0.982 | 0.110 | 0.981 logistic regression | 0.106 |"
    )


def _report() -> Report:
    row = Row(
        task="image_digit",
        family="Image understanding",
        metric="exact_match",
        items=500,
        reached=wilson(485, 500),
        chance=0.11,
        baseline=0.981,
        baseline_name="logistic regression",
        blind=wilson(53, 500),
        more={"bleu": 1.0},
    )
    assert row.reached == Measured(
        value=0.97, low=row.reached.low, high=row.reached.high
    )
    return Report(name="tiny", rows=(row,), seconds=12.5)
