"""What a step's idle spans are, and when they are known. Sections are of GEMINI
(SOSP 2023, doi 10.1145/3600006.3613145)."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given, strategies as st

from twinstep.config import Schedule
from twinstep.schedule.profile import (
    Busy,
    Profile,
    Profiler,
    Sample,
    Seen,
    from_counters,
    gaps,
    merge,
)

PATTERN: Busy = ((0.10, 0.20), (0.35, 0.45), (0.40, 0.60), (0.605, 0.80))
"""Spans of 100, 150 and 200 ms, and one of 5 ms; two operations overlap."""


def seen(step: int = 0, busy: Busy = PATTERN, length_s: float = 1.0) -> Seen:
    return Seen(step=step, length_s=length_s, busy=busy)


def noisy(spread: float, seed: int, *, scale: float = 1.0) -> Seen:
    """PATTERN with idle spans that are each a little longer or shorter."""
    numbers = random.Random(seed)
    busy, now_s, end_s = [], 0.0, 0.0
    for start_s, until_s in PATTERN:
        if start_s > end_s:
            now_s += scale * (start_s - end_s) * (1 + numbers.gauss(0, spread))
            busy.append((now_s, now_s + until_s - start_s))
        else:
            before_s = busy[-1][0]
            busy.append((before_s + 0.05, before_s + 0.05 + until_s - start_s))
        now_s = max(now_s, busy[-1][1])
        end_s = max(end_s, until_s)
    rest_s = scale * (1.0 - end_s) * (1 + numbers.gauss(0, spread))
    return seen(busy=tuple(busy), length_s=now_s + rest_s)


def taken(steps: list[Seen], **settings: Any) -> list[Profile]:
    profiler = Profiler(settings=Schedule(**settings))
    made = (profiler.take(each) for each in steps)
    return [profile for profile in made if profile is not None]


def test_twenty_steps_make_a_profile() -> None:
    """Section 5.4: 20 iterations; the mean of each idle span."""
    assert taken([seen()] * 19) == []
    [profile] = taken([seen()] * 20)
    assert profile.steps == 20
    assert profile.operations == 4
    assert profile.step_s == 1.0
    assert [s.after for s in profile.spans] == [0, 1, 4], "5 ms are not worth it"
    assert [s.start_s for s in profile.spans] == pytest.approx([0.0, 0.2, 0.8])
    assert profile.lengths_s == pytest.approx((0.1, 0.15, 0.2))


def test_the_mean_the_least_and_the_deviation_are_kept() -> None:
    """Section 5.4 plans with the mean; the authors' code with the least."""
    steps = [seen(busy=((s, 0.5),)) for s in (0.1, 0.3)] * 10
    [profile] = taken(steps)
    first = profile.spans[0]
    assert (first.mean_s, first.min_s) == (pytest.approx(0.2), 0.1)
    assert first.deviation == pytest.approx(0.5)


def test_the_papers_deviation_is_no_drift() -> None:
    """Section 5.4: the normalised deviation of idle spans is below 10 %."""
    steps = [noisy(0.09, seed) for seed in range(1000)]
    [profile] = taken(steps)
    assert all(0.03 < s.deviation < 0.15 for s in profile.spans)


def test_the_spread_that_a_profile_has_itself_is_no_drift() -> None:
    numbers = random.Random(1)
    steps = []
    for _ in range(1000):
        idle_s = 0.1 * (1 + numbers.gauss(0, 0.15))
        steps.append(seen(busy=((idle_s, idle_s + 0.5),), length_s=idle_s + 0.5))
    assert len(taken(steps)) == 1


@given(st.permutations([noisy(0.1, seed) for seed in range(20)]))
def test_the_order_of_steps_leaves_no_trace(steps: list[Seen]) -> None:
    assert taken(steps) == taken([noisy(0.1, seed) for seed in range(20)])


MORE: Busy = ((0.01, 0.02), *PATTERN)


def test_a_step_with_another_number_of_operations_is_left_out() -> None:
    """One that evaluates or logs: all spans after its operation would be shifted."""
    steps = [seen()] * 10 + [seen(busy=MORE, length_s=9.0)] * 5 + [seen()] * 9
    assert taken(steps) == []
    [profile] = taken([*steps, seen()])
    assert profile == taken([seen()] * 20)[0]


def test_when_no_two_steps_in_three_are_alike_no_span_is_named() -> None:
    changing = [seen(busy=PATTERN[: step % 4]) for step in range(100)]
    made = taken(changing)
    assert len(made) == 1, "and it is not said again and again"
    assert (made[0].spans, made[0].steps, made[0].operations) == ((), 0, 0)
    assert made[0].step_s == 1.0
    idle_s = [sum(gap.length_s for gap in gaps(each)) for each in changing[:40]]
    assert made[0].lengths_s == pytest.approx((sum(idle_s) / 40,)), "but how much"
    assert taken(changing[:39]) == []
    settled = taken([*changing, *[seen()] * 40])
    assert settled[1:] == taken([seen()] * 20), "as soon as they are"


def test_a_step_without_traffic_is_one_span() -> None:
    [profile] = taken([seen(busy=())] * 20)
    assert (profile.operations, profile.steps) == (0, 20)
    assert profile.lengths_s == (1.0,)


@pytest.mark.parametrize("scale", [0.6, 1.5])
def test_spans_that_have_changed_are_learnt_again(scale: float) -> None:
    before = [noisy(0.02, seed) for seed in range(100)]
    after = [noisy(0.02, seed, scale=scale) for seed in range(100)]
    made = taken(before + after)
    assert len(made) == 2
    for old, new in zip(made[0].spans, made[1].spans, strict=True):
        assert new.mean_s == pytest.approx(scale * old.mean_s, rel=0.05)
    assert len(taken(before + after[:24])) == 1, "five that drift, and twenty more"
    assert len(taken(before + after[:25])) == 2


def test_another_number_of_operations_that_becomes_the_rule_is_drift() -> None:
    made = taken([seen()] * 30 + [seen(busy=MORE)] * 25)
    assert [profile.operations for profile in made] == [4, 5]
    often = [seen(), seen(busy=MORE), seen(busy=MORE)] * 30
    assert [p.operations for p in taken([seen()] * 30 + often)] == [4, 5]


def test_single_steps_that_are_unlike_are_no_drift() -> None:
    now_and_then = [seen(), seen(busy=MORE)] * 200
    assert len(taken([seen()] * 20 + now_and_then)) == 1


def test_the_profile_holds_until_there_is_another() -> None:
    profiler = Profiler(settings=Schedule())
    for _ in range(20):
        profiler.take(seen())
    first = profiler.profile
    assert first is not None and not profiler.profiling
    for _ in range(5):
        profiler.take(seen(busy=MORE))
    assert profiler.profile is first and profiler.profiling


times = st.floats(0.0, 10.0).map(lambda t: round(t, 3))
operations = st.lists(
    st.tuples(times, times).map(lambda both: (min(both), max(both))), max_size=8
).map(lambda found: tuple(sorted(found)))


@given(operations)
def test_a_gap_is_where_all_that_started_has_ended(busy: Busy) -> None:
    step = seen(busy=busy, length_s=10.0)
    found = gaps(step)
    assert len(found) == len(busy) + 1
    for after, gap in enumerate(found):
        if gap.length_s == 0:
            continue
        at_s = gap.start_s + gap.length_s / 2
        assert sum(end_s <= at_s for _, end_s in busy) == after
        assert sum(start_s <= at_s for start_s, _ in busy) == after
    idle_s = sum(gap.length_s for gap in found)
    assert idle_s == pytest.approx(10.0 - covered(busy))


def covered(busy: Busy) -> float:
    edges = sorted({0.0, *(edge for pair in busy for edge in pair)})
    return sum(
        two - one
        for one, two in itertools.pairwise(edges)
        if any(start <= one and two <= end for start, end in busy)
    )


@given(st.lists(st.tuples(times, operations), min_size=1, max_size=3), times)
def test_merged_the_machine_is_busy_when_any_rank_is(
    ranks: list[tuple[float, Busy]], at_s: float
) -> None:
    seens = [
        Seen(step=3, length_s=10.0, busy=busy, began_s=began_s)
        for began_s, busy in ranks
    ]
    one = merge(seens)

    def is_busy(step: Seen) -> bool:
        # In the middle of a millisecond: no operation starts or ends there.
        now_s = at_s + 0.0005 - step.began_s
        return any(start_s < now_s < end_s for start_s, end_s in step.busy)

    assert is_busy(one) == any(is_busy(step) for step in seens)
    assert len(one.busy) == sum(len(step.busy) for step in seens)
    assert merge(list(reversed(seens))) == one
    assert one.began_s == min(began_s for began_s, _ in ranks)
    assert list(one.busy) == sorted(one.busy)


def counted(moved: list[tuple[float, int, int]]) -> list[Sample]:
    """Samples from what moves in each millisecond: rate of training, of copies."""
    samples = [Sample(100.0, 10**6, 10**6, 10**4)]
    for training, own, headers in moved:
        last = samples[-1]
        samples.append(
            Sample(
                last.at_s + 0.001,
                last.sent_bytes + int(training * 0.0005) + own + headers,
                last.received_bytes + int(training * 0.0005),
                last.own_bytes + own,
            )
        )
    return samples


def shown(moved: list[tuple[float, int, int]], **changes: Any) -> Seen:
    samples = counted(moved)
    given_: dict[str, Any] = {
        "step": 7,
        "began_s": samples[0].at_s,
        "ended_s": samples[-1].at_s,
        "quiet_bytes_per_s": 1e6,
        "span_s_min": 0.010,
    }
    return from_counters(samples, **(given_ | changes))


FULL, QUIET = (1e9, 0, 0), (0.5e6, 0, 0)


def close(busy: Busy) -> list[tuple[float, float]]:
    return [(round(start_s, 3), round(end_s, 3)) for start_s, end_s in busy]


def test_counters_show_when_training_uses_the_network() -> None:
    step = shown([QUIET] * 20 + [FULL] * 30 + [QUIET] * 50 + [FULL] * 10 + [QUIET] * 5)
    assert close(step.busy) == [(0.02, 0.05), (0.1, 0.11)]
    assert (step.step, round(step.length_s, 3), step.began_s) == (7, 0.115, 100.0)


def test_a_pause_in_a_burst_is_not_a_span() -> None:
    burst = [*[FULL] * 5, *[QUIET] * 9]
    assert len(shown([*burst * 4, *[QUIET] * 20]).busy) == 1
    apart = [*[FULL] * 5, *[QUIET] * 11]
    assert len(shown([*apart * 4, *[QUIET] * 20]).busy) == 4


def test_copies_and_their_headers_are_not_training() -> None:
    copies = (0.0, 1_000_000, 60_000)
    assert shown([copies] * 50).busy == ()
    both = (1e9, 1_000_000, 60_000)
    assert close(shown([copies] * 20 + [both] * 10 + [copies] * 20).busy) == [
        (0.02, 0.03)
    ]


def test_counters_are_cut_at_the_step() -> None:
    step = shown([FULL] * 100, began_s=100.0205, ended_s=100.0605)
    assert close(step.busy) == [(0.0, 0.04)]


def test_counters_that_begin_again_show_nothing_idle() -> None:
    samples = counted([QUIET] * 50)
    again = [Sample(s.at_s, 0, 0, s.own_bytes) for s in samples[25:]]
    step = from_counters(
        [*samples[:25], *again],
        step=7,
        began_s=100.0,
        ended_s=100.05,
        quiet_bytes_per_s=1e9,
        span_s_min=0.010,
    )
    assert close(step.busy) == [(0.024, 0.025)]


def test_words_of_agents_are_no_traffic_of_training() -> None:
    """One comes in each step, somewhere; a burst of training is much more."""
    for at in range(1, 99, 7):
        samples, sent = [], 0
        for number in range(101):
            sent += 3000 if number == at else 300_000 if 20 < number <= 40 else 0
            samples.append(Sample(number * 0.001, sent, 0, 0))
        settings = {"quiet_bytes_per_s": 1e6, "span_s_min": 0.005}
        found = from_counters(samples, step=1, began_s=0.0, ended_s=0.1, **settings)
        assert found.busy == (pytest.approx((0.02, 0.04)),), at
