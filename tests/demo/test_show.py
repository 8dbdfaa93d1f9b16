"""The table has a row per failure, and the verdict names what is wrong."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from tests.demo import records
from twinstep.demo import show
from twinstep.demo.record import Comparison


def comparison(*differing: str, parts: int = 3) -> Comparison:
    return Comparison(style="ddp", parts=parts, size=10, differing=list(differing))


def drawn(renderable: object) -> str:
    file = io.StringIO()
    Console(file=file, width=80).print(renderable)
    return file.getvalue()


def test_a_row_says_what_when_from_where_and_at_what_cost() -> None:
    cells = show.row(records.failure())
    assert cells == ("FSDP2", "m02 lost", "1.50 s", "m03", "1", "4.00 s")
    assert len(cells) == len(show.COLUMNS)


def test_what_training_did_not_notice_is_said_so() -> None:
    known = replace(records.failure(), recoveries=0, source="")
    assert show.outcome(known) == ("training went on", "")
    assert show.outcome(records.failure())[0] == "back after 4.0 s"


def test_a_table_of_failures_fits_a_terminal_line_each() -> None:
    failures = [records.failure(), records.failure(what="m03 bad, m01 lost")]
    lines = drawn(show.failure_table(failures)).splitlines()
    assert sum("FSDP2" in line for line in lines) == 2
    assert all(
        any(what in line for line in lines)
        for what in ("m02 lost", "m03 bad, m01 lost")
    )


def test_the_machines_are_drawn_with_their_part() -> None:
    line = show.machine_line(records.status(root="m02")).plain
    assert "m02 rank 2 root" in line
    assert "m04 standby" in line


def test_all_is_well_without_loss_and_difference() -> None:
    assert show.verdict([records.failure()], [comparison()]) == []
    assert "bit-identical" in show.comparison_lines([comparison()])[0].plain


def test_loss_difference_and_silence_are_named() -> None:
    lossy = records.failure(records.recovery(reached=29))
    assert "9 steps" in show.verdict([lossy], [])[0]
    assert "1 of 3" in show.verdict([], [comparison("rank0 weight")])[0]
    assert show.verdict([], [comparison(parts=0)])
    assert (
        "rank0 weight" in show.comparison_lines([comparison("rank0 weight")])[0].plain
    )
