"""What went in a step, and whether training was then on the network."""

from __future__ import annotations

import pytest

from twinstep.schedule.profile import Seen
from twinstep.schedule.record import STEPS_MAX, Record, Sent, clear_share

STEP = Seen(
    step=7, length_s=1.0, busy=((0.2, 0.4), (0.3, 0.5), (0.8, 0.9)), began_s=50.0
)


def chunk(
    start_s: float, end_s: float, *, after: int | None = 0, size: int = 10
) -> Sent:
    return Sent(began_s=50.0 + start_s, ended_s=50.0 + end_s, size=size, after=after)


@pytest.mark.parametrize(
    ("start_s", "end_s", "share"),
    [
        (0.0, 0.2, 1.0),
        (0.1, 0.3, 0.5),
        (0.3, 0.5, 0.0),
        (0.1, 0.6, 0.4),  # operations that overlap are one
        (0.5, 0.8, 1.0),
        (0.7, 1.0, 2 / 3),
    ],
)
def test_the_share_of_a_chunk_that_met_nothing(
    start_s: float, end_s: float, share: float
) -> None:
    assert clear_share(chunk(start_s, end_s), STEP) == pytest.approx(share)


def test_bytes_are_counted_by_what_the_gate_said_and_by_what_was() -> None:
    record = Record()
    record.sent(chunk(0.1, 0.3, after=0))
    record.sent(chunk(0.6, 0.7, after=None))
    record.sent(chunk(1.2, 1.3, after=0))  # of the next step
    record.over(STEP)
    assert (record.sent_bytes, record.in_span_bytes) == (30, 20)
    assert (record.judged_bytes, record.clear_bytes) == (20, 15)
    (observed,) = record.observed()
    assert [sent.began_s for sent in observed.sent] == [50.1, 50.6]


def test_only_the_last_steps_are_kept() -> None:
    record = Record()
    for step in range(2 * STEPS_MAX):
        record.over(Seen(step=step, length_s=1.0, busy=(), began_s=float(step)))
    assert [each.step.step for each in record.observed()] == list(
        range(STEPS_MAX, 2 * STEPS_MAX)
    )


def test_what_holders_had_is_counted_and_planned_with_in_sixteenths() -> None:
    record = Record()
    assert record.sixteenths == 16
    for spared in (0, 950, 930, 940):
        record.arrived(1000, spared=spared)
    assert (record.arrived_bytes, record.spared_bytes) == (4000, 2820)
    assert record.sixteenths == 16, "one of the last was sent whole"
    for _ in range(8):
        record.arrived(1000, spared=940)
    assert record.sixteenths == 1
    record.arrived(1000, spared=930)
    assert record.sixteenths == 2
    for size, spared in ((0, 0), (10, -3), (10, 20)):
        record.arrived(size, spared=spared)
    assert record.spared_bytes <= record.arrived_bytes
