"""When a piece of a copy may go: never to training's cost, never too late."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, strategies as st

from twinstep.config import Schedule
from twinstep.schedule.gate import Gate, Go, Moment, Wait, moment
from twinstep.schedule.profile import Profile, Profiler, Seen
from twinstep.schedule.pulse import Beat
from twinstep.schedule.timetable import Link, fit

BUSY = ((0.1, 0.3), (0.5, 0.8))
"""Spans of 100, 200 and 200 ms in a step of a second."""


def link(**changes: Any) -> Link:
    given_ = {
        "bytes_per_s": 1e6,
        "startup_s": 0.001,
        "chunk_bytes": 1000,
        "buffer_bytes": 40_000,
        "buffers": 4,
    }
    return Link(**(given_ | changes))


def learnt(busy: tuple[tuple[float, float], ...] = BUSY) -> Profile:
    profiler = Profiler(settings=Schedule())
    for step in range(20):
        profiler.take(Seen(step=step, length_s=1.0, busy=busy))
    assert profiler.profile is not None
    return profiler.profile


def gate(
    profile: Profile, copy_bytes: int = 50_000, *, every_max: int = 8, **changes: Any
) -> Gate:
    settings = Schedule(**changes)
    made = Gate(settings=settings, link=link())
    table = fit(
        profile.lengths_s,
        copies_bytes=[copy_bytes],
        link=made.link,
        mu=settings.mu,
        every_max=every_max,
    )
    made.follow(profile, table)
    made.saw(Seen(step=0, length_s=1.0, busy=BUSY))
    return made


def in_step(now_s: float) -> Moment:
    """What training does where every step is as BUSY says."""
    step, at_s = divmod(now_s, 1.0)
    ended = [end_s for _, end_s in BUSY if end_s <= at_s]
    return Moment(
        step=int(step),
        ended=len(ended),
        busy=any(start_s <= at_s < end_s for start_s, end_s in BUSY),
        since_s=step + max(ended, default=0.0),
    )


Sent = list[tuple[float, Go]]


def send(made: Gate, copy_bytes: int, *, told: Any = in_step) -> Sent:
    """Sends a copy as fast as the gate lets it; when each piece began, and what."""
    now_s, left, sent = 0.0, copy_bytes, []
    for _ in range(10_000):
        now = told(now_s)
        verdict = made.ask(now, wanted_bytes=left, held_s=now_s, now_s=now_s)
        if isinstance(verdict, Wait):
            assert verdict.seconds > 0 and verdict.reason
            now_s += verdict.seconds
            continue
        assert 0 < verdict.bytes_max <= left
        sent.append((now_s, verdict))
        left -= verdict.bytes_max
        if left == 0:
            return sent
    raise AssertionError(f"{left} bytes never went")


def test_a_copy_goes_into_the_spans_that_were_planned() -> None:
    sent = send(gate(learnt(), 300_000), 300_000)
    assert {go.span for _, go in sent} == {0, 1, 2}
    assert all(not in_step(now_s).busy for now_s, _ in sent)
    assert math.ceil(sent[-1][0]) == 1, "within the step, as the timetable says"


def looks(copy_bytes: int, *, began: bool) -> tuple[int, Sent]:
    """How often the gate is asked in vain, and what goes when."""
    made, asked = gate(learnt(), copy_bytes), 0

    def told(now_s: float) -> Moment:
        nonlocal asked
        asked += 1
        now = in_step(now_s)
        return now._replace(began_s=float(now.step)) if began else now

    sent = send(made, copy_bytes, told=told)
    return asked - len(sent), sent


def test_a_few_looks_find_the_next_span() -> None:
    """Where a look every millisecond would cost a processor that computes."""
    vain, sent = looks(300_000, began=True)
    vain_polled, polled = looks(300_000, began=False)
    assert vain < vain_polled / 5
    # Halving a second down to a millisecond takes ten; each piece waits for a buffer.
    assert vain <= 12 * len(BUSY) + len(sent)
    # As much goes into each span, and no span is begun later than a look is long.
    assert len(sent) == len(polled)
    for (now_s, go), (polled_s, other) in zip(sent, polled, strict=True):
        assert go == other
        assert abs(now_s - polled_s) <= 0.002


def test_a_step_that_is_late_or_early_is_found_all_the_same() -> None:
    for pace in (0.5, 1.0, 1.6):

        def told(now_s: float, pace: float = pace) -> Moment:
            now = in_step(now_s / pace)
            return now._replace(since_s=now.since_s * pace, began_s=now.step * pace)

        sent = send(gate(learnt(), 200_000), 200_000, told=told)
        assert all(not told(now_s).busy for now_s, _ in sent)
        assert sent[-1][0] < 2 * pace


def test_it_takes_as_many_steps_as_planned() -> None:
    table = fit(
        learnt().lengths_s, copies_bytes=[900_000], link=link(), mu=0.8, every_max=8
    )
    sent = send(gate(learnt(), 900_000), 900_000)
    assert table.every == 3
    assert math.ceil(sent[-1][0]) == 3


steps = st.lists(
    st.tuples(
        st.floats(0.0, 0.3),  # until the next question
        st.integers(0, 3),  # operations that have ended
        st.booleans(),
        st.floats(0.0, 0.5),  # since when
        st.floats(0.0, 100.0),  # held
    ),
    max_size=60,
)


@given(steps, st.integers(1, 2_000_000), st.sampled_from(["spans", "naive"]))
def test_no_piece_is_in_trainings_way(
    asked: list[tuple[float, int, bool, float, float]], copy_bytes: int, mode: str
) -> None:
    """While training uses the network nothing goes, and nothing that the profile says
    would not be off the link in time, unless the copy is too late."""
    made = gate(learnt(), copy_bytes, mode=mode, every_max=2)
    spans = {span.after: span for span in learnt().spans}
    every = math.ceil(copy_bytes / 382_000)
    due_s = min(2, max(1, every)) * 1.0
    now_s = free_s = 10.0
    for wait_s, ended, busy, since_s, held_s in asked:
        now_s += wait_s
        now = Moment(step=1, ended=ended, busy=busy, since_s=now_s - since_s)
        said = made.ask(now, wanted_bytes=copy_bytes, held_s=held_s, now_s=now_s)
        if isinstance(said, Wait):
            continue
        free_s = max(now_s, free_s) + link().takes_s(said.bytes_max)
        assert said.bytes_max <= (40_000 if mode == "naive" else 10_000)
        assert said.bytes_max == copy_bytes or said.bytes_max % 1000 == 0
        if held_s > due_s + 60:
            continue
        assert not busy, "twice hold_s_max has not passed"
        if mode == "spans" and said.span is not None:
            assert said.span == ended
            early = now_s < now.since_s + 0.1 * spans[ended].mean_s - 1e-9
            assert not early or held_s > due_s + 30
            assert free_s <= now.since_s + 0.9 * spans[ended].mean_s + 1e-9
        elif mode == "spans" and held_s <= due_s + 30:
            assert ended >= 2 and copy_bytes > 2 * 350_000, "the end of a step"


def always_busy(now_s: float) -> Moment:
    return Moment(step=0, ended=0, busy=True, since_s=0.0)


@pytest.mark.parametrize("mode", ["spans", "naive"])
@pytest.mark.parametrize("copy_bytes", [1, 50_000, 333_333])
def test_a_copy_always_ends(copy_bytes: int, mode: str) -> None:
    """Held back for no longer than twice hold_s_max beyond what was planned."""
    sent = send(
        gate(learnt(), copy_bytes, mode=mode, hold_s_max=2.0, poll_s=0.1),
        copy_bytes,
        told=always_busy,
    )
    assert sent[0][0] == pytest.approx(1.0 + 2 * 2.0, abs=0.11)
    assert all(go.span is None for _, go in sent)
    takes_s = len(sent) * 0.001 + copy_bytes / 1e6
    assert sent[-1][0] <= 1.0 + 2 * 2.0 + 0.1 + takes_s


def outside_all_spans(now_s: float) -> Moment:
    return Moment(step=0, ended=7, busy=int(now_s * 10) % 2 == 0, since_s=now_s)


def test_a_copy_that_is_late_takes_any_moment_without_traffic() -> None:
    sent = send(
        gate(learnt(), hold_s_max=2.0, poll_s=0.01), 50_000, told=outside_all_spans
    )
    assert 3.0 <= sent[0][0] <= 3.2
    assert all(not outside_all_spans(now_s).busy for now_s, _ in sent)


def ask(made: Gate, now: Moment | None, **changes: Any) -> Go | Wait:
    given_: dict[str, Any] = {"wanted_bytes": 50_000, "held_s": 0.0, "now_s": 1.0}
    return made.ask(now, **(given_ | changes))


BUSY_NOW = Moment(step=1, ended=0, busy=True, since_s=1.0)
IDLE_NOW = Moment(step=1, ended=0, busy=False, since_s=0.99)
AT_THE_END = Moment(step=1, ended=2, busy=False, since_s=0.0)


def test_without_a_profile_or_pulses_copies_go_at_once() -> None:
    new = Gate(settings=Schedule(), link=link())
    assert ask(new, BUSY_NOW) == Go(50_000, None)
    assert ask(gate(learnt()), None) == Go(50_000, None)
    assert ask(gate(learnt(), mode="off"), BUSY_NOW) == Go(50_000, None)
    assert isinstance(ask(gate(learnt()), BUSY_NOW), Wait)


def test_where_steps_are_not_alike_a_copy_waits_only_for_traffic() -> None:
    unlike = Profile(step_s=1.0, spans=(), steps=0, operations=0, deviation=0.0)
    for profile in (unlike, learnt(busy=())):
        made = gate(profile)
        verdict = ask(made, IDLE_NOW._replace(since_s=0.99))
        assert isinstance(verdict, Go) and verdict.bytes_max == 10_000
        assert isinstance(ask(made, BUSY_NOW), Wait)


def test_what_does_not_fit_goes_into_the_end_of_the_step() -> None:
    """Section 5.3: the last idle span counts as endless."""
    much = gate(learnt(), 10_000_000)
    assert ask(much, AT_THE_END, wanted_bytes=10_000_000) == Go(10_000, None)
    assert isinstance(ask(much, AT_THE_END._replace(busy=True)), Wait)
    fits = ask(gate(learnt()), AT_THE_END)
    assert isinstance(fits, Wait) and "no room left" in fits.reason
    elsewhere = ask(gate(learnt(), 10_000_000), AT_THE_END._replace(ended=1))
    assert isinstance(elsewhere, Wait)


def goes(made: Gate, now: Moment) -> list[int]:
    """What goes at one moment, without any time in between."""
    sizes: list[int] = []
    while isinstance(verdict := ask(made, now), Go):
        sizes.append(verdict.bytes_max)
    return sizes


def test_nothing_goes_before_an_operation_is_over_everywhere() -> None:
    """It ends here, and on another machine a moment later: pieces that went at once
    made steps 1.4 % longer, in `make bench-interleave` at half of the idle time."""
    said = ask(gate(learnt()), IDLE_NOW._replace(since_s=0.992))
    assert isinstance(said, Wait)
    assert said.seconds == pytest.approx(0.002)
    assert isinstance(ask(gate(learnt(), lead=0), IDLE_NOW._replace(since_s=0.992)), Go)
    late = ask(gate(learnt()), IDLE_NOW._replace(since_s=0.992), held_s=31.1)
    assert isinstance(late, Go), "a copy that is later than hold_s_max waits no longer"


def test_no_more_is_on_its_way_than_there_are_buffers() -> None:
    assert goes(gate(learnt()), IDLE_NOW) == [10_000] * 4
    assert goes(gate(learnt(), pipeline=False), IDLE_NOW) == [10_000]
    assert goes(gate(learnt(), mode="naive"), IDLE_NOW) == [40_000], "one in a span"


def test_a_piece_ends_in_its_span_behind_those_before_it() -> None:
    """35 ms are left of the 80; 10,000 bytes take 11, and 1,000 take 2."""
    made = gate(learnt())
    assert goes(made, IDLE_NOW._replace(since_s=0.945)) == [10_000] * 3 + [1000]


def test_the_naive_way_knows_no_ends_of_spans() -> None:
    made = gate(learnt(), mode="naive")
    near_the_end = IDLE_NOW._replace(since_s=0.93)
    assert ask(made, near_the_end) == Go(40_000, 0)
    assert isinstance(ask(made, near_the_end, now_s=2.0), Wait)
    assert ask(made, near_the_end._replace(step=2), now_s=2.0) == Go(40_000, 0)
    assert isinstance(ask(gate(learnt()), IDLE_NOW._replace(since_s=0.9095)), Wait)


def beat(step: int, began: int, started: int, ended: int, changed: int) -> Beat:
    return Beat(
        step=step,
        began_ns=began * 10**9,
        started=started,
        ended=ended,
        changed_ns=changed * 10**9,
        fed=True,
    )


def test_the_ranks_of_a_machine_are_one() -> None:
    one, two = beat(5, 10, 3, 3, 14), beat(5, 11, 2, 2, 13)
    assert moment([one, two]) == Moment(5, 5, busy=False, since_s=14.0, began_s=10.0)
    assert moment([one, two._replace(started=3)]) == Moment(5, 5, True, 14.0, 10.0)
    assert moment([beat(5, 10, 0, 0, 10), beat(5, 11, 0, 0, 11)]) == Moment(
        5, 0, busy=False, since_s=10.0, began_s=10.0
    ), "the first that begins a step begins the machine's"


def test_a_rank_in_the_step_before_counts_only_while_it_is_busy() -> None:
    ahead, behind = beat(6, 20, 1, 1, 21), beat(5, 10, 9, 9, 22)
    assert moment([ahead, behind]) == Moment(6, 1, False, 21.0, 20.0)
    assert moment([ahead, behind._replace(started=10)]) == Moment(
        6, 1, True, 21.0, 20.0
    )


def test_a_rank_that_does_not_tell_is_left_out() -> None:
    told, silent = beat(5, 10, 1, 1, 11), beat(5, 10, 0, 0, 10)._replace(fed=False)
    assert moment([told, silent]) == moment([told])
    assert moment([silent]) is None and moment([]) is None


def test_what_the_kernel_still_has_takes_its_time_before_a_piece() -> None:
    made = gate(learnt())
    now = in_step(0.0)
    # 80 ms of the first span may be used, and 75 of them are queued already.
    full = made.ask(
        now, wanted_bytes=50_000, held_s=0.0, now_s=0.0, queued_bytes=75_000
    )
    assert isinstance(full, Wait)
    part = made.ask(
        in_step(0.04), wanted_bytes=50_000, held_s=0.0, now_s=0.04, queued_bytes=20_000
    )
    assert isinstance(part, Go) and part.bytes_max <= 0.02 * made.link.bytes_per_s
