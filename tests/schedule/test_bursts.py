"""Bursts are counted as they come, and as they are counted afterwards."""

from __future__ import annotations

from hypothesis import given, strategies as st

from twinstep.schedule.bursts import Bursts
from twinstep.schedule.profile import Sample, from_counters

INTERVAL_S = 0.001
PAUSE_S = 0.010


def samples(busy: list[bool]) -> list[Sample]:
    """A sample a millisecond; training moves bytes in the milliseconds that are busy,
    and copies do all the time."""
    made, sent, own = [Sample(0.0, 0, 0, 0)], 0, 0
    for number, uses in enumerate(busy, start=1):
        sent, own = sent + 100_000 * uses + 10_000, own + 10_000
        made.append(Sample(number * INTERVAL_S, sent, 0, own))
    return made


def bursts(busy: list[bool]) -> Bursts:
    made = Bursts(quiet_bytes_per_s=1e6, span_s_min=PAUSE_S)
    made.begins(3, 0.0)
    for sample in samples(busy):
        made.take(sample)
    return made


def test_a_burst_is_over_when_the_interface_was_idle_for_long_enough() -> None:
    seen = bursts([False] * 5 + [True] * 20)
    assert seen.moment(0.0251).busy and seen.moment(0.0251).ended == 0
    after = seen.moment(0.025 + PAUSE_S)
    assert (after.busy, after.ended, after.step) == (False, 1, 3)
    assert after.since_s == 0.025


def test_before_the_first_burst_the_span_begins_with_the_step() -> None:
    now = bursts([False] * 5).moment(0.005)
    assert (now.busy, now.ended, now.since_s) == (False, 0, 0.0)


def test_another_step_begins_anew() -> None:
    seen = bursts([True] * 5)
    seen.begins(4, 0.010)
    seen.take(Sample(0.006, 10**9, 0, 0))  # from before it began
    seen.take(Sample(0.011, 2 * 10**9, 0, 0))
    assert seen.count == 0


@given(st.lists(st.booleans(), max_size=80))
def test_it_counts_what_is_counted_afterwards(busy: list[bool]) -> None:
    whole = samples(busy)
    afterwards = from_counters(
        whole,
        step=3,
        began_s=0.0,
        ended_s=whole[-1].at_s,
        quiet_bytes_per_s=1e6,
        span_s_min=PAUSE_S,
    )
    assert bursts(busy).count == len(afterwards.busy)
