"""A pulse is read whole or not at all, and tells what the rank told it."""

from __future__ import annotations

import itertools
import mmap
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from twinstep.errors import ProtocolError
from twinstep.schedule.pulse import (
    OPERATIONS_MAX,
    PULSE_BYTES,
    Beat,
    Pulse,
    StepSeen,
    last_step,
    read,
)


def blank() -> memoryview:
    return memoryview(bytearray(PULSE_BYTES))


def test_nothing_is_read_before_the_first_step() -> None:
    buffer = blank()
    assert read(buffer) is None
    pulse = Pulse(buffer)
    pulse.feeds(True, 5)
    pulse.starts(6)
    assert read(buffer) is None
    pulse.step_begins(7, 10)
    assert last_step(buffer) is None


def test_a_rank_is_busy_between_start_and_end() -> None:
    buffer = blank()
    pulse = Pulse(buffer)
    pulse.feeds(True, 99)
    pulse.step_begins(3, 100)
    beat = Beat(step=3, began_ns=100, started=0, ended=0, changed_ns=100, fed=True)
    assert read(buffer) == beat
    first, second = pulse.starts(110), pulse.starts(120)
    assert read(buffer) == beat._replace(started=2, changed_ns=120)
    pulse.ends(first, 130)
    seen = read(buffer)
    assert seen is not None
    assert seen.busy
    pulse.ends(second, 140)
    assert read(buffer) == beat._replace(started=2, ended=2, changed_ns=140)
    pulse.step_begins(4, 150)
    assert read(buffer) == beat._replace(step=4, began_ns=150, changed_ns=150)
    assert last_step(buffer) == StepSeen(
        step=3,
        began_ns=100,
        ended_ns=150,
        operations=((110, 130), (120, 140)),
        overfull=False,
        fed=True,
    )


def test_an_operation_that_spans_two_steps_is_counted_in_the_first() -> None:
    buffer = blank()
    pulse = Pulse(buffer)
    pulse.step_begins(0, 10)
    token = pulse.starts(15)
    pulse.step_begins(1, 20)
    seen, beat = last_step(buffer), read(buffer)
    assert seen is not None
    assert beat is not None
    assert seen.operations == ((15, 20),)
    assert (beat.started, beat.ended, beat.carried, beat.busy) == (0, 0, 1, True)
    other = pulse.starts(22)
    pulse.ends(token, 25)
    pulse.ends(other, 27)
    beat = read(buffer)
    assert beat is not None
    assert not beat.busy
    pulse.step_begins(2, 30)
    seen = last_step(buffer)
    assert seen is not None
    assert seen.operations == ((22, 27),)
    assert seen.carried_ns == 25
    pulse.step_begins(3, 40)
    seen = last_step(buffer)
    assert seen is not None
    assert seen.carried_ns == 0


def test_an_operation_that_never_ends_is_lost_after_a_whole_step() -> None:
    buffer = blank()
    pulse = Pulse(buffer)
    pulse.step_begins(0, 10)
    token = pulse.starts(15)
    pulse.step_begins(1, 20)
    assert pulse.open == 1
    pulse.step_begins(2, 30)
    beat, seen = read(buffer), last_step(buffer)
    assert beat is not None
    assert not beat.busy
    assert seen is not None
    assert seen.carried_ns == 30
    assert pulse.open == 0
    pulse.ends(token, 35)
    assert read(buffer) == beat


def test_more_operations_than_are_listed_are_counted() -> None:
    buffer = blank()
    pulse = Pulse(buffer)
    pulse.step_begins(0, 10)
    tokens = [pulse.starts(20 + at) for at in range(OPERATIONS_MAX + 2)]
    for token in tokens:
        pulse.ends(token, 50_000)
    beat = read(buffer)
    assert beat is not None
    assert beat.started == beat.ended == OPERATIONS_MAX + 2
    pulse.step_begins(1, 60_000)
    seen = last_step(buffer)
    assert seen is not None
    assert seen.overfull
    assert len(seen.operations) == OPERATIONS_MAX
    assert seen.operations[-1] == (20 + OPERATIONS_MAX - 1, 50_000)


def test_a_step_counts_as_fed_only_as_a_whole() -> None:
    buffer = blank()
    pulse = Pulse(buffer)
    fed: list[bool] = []

    def next_step(number: int) -> None:
        pulse.step_begins(number, number)
        seen = last_step(buffer)
        fed.append(seen is not None and seen.fed)

    next_step(1)
    pulse.feeds(True, 1)
    next_step(2)
    next_step(3)
    pulse.starts(3)
    pulse.feeds(False, 4)
    beat = read(buffer)
    assert beat is not None
    assert not beat.busy
    next_step(4)
    assert fed == [False, False, True, False]


def test_a_page_that_is_too_small_is_refused() -> None:
    with pytest.raises(ProtocolError, match=f"{PULSE_BYTES} bytes; this has 4096"):
        Pulse(memoryview(bytearray(4096)))


class Watched:
    """The page's words; after each store somebody looks at the page."""

    def __init__(self, words: memoryview, look: Callable[[], None]) -> None:
        self.words, self.look = words, look

    def __setitem__(self, at: int, value: int) -> None:
        self.words[at] = value
        self.look()

    def __getitem__(self, at: int) -> int:
        return self.words[at]


def drive(pulse: Pulse, *, rolls: random.Random, steps: int) -> Iterator[int]:
    """Steps with up to 12 operations, in any order; the time counts the calls."""
    now_ns = 0
    for step in range(steps):
        now_ns += 1
        pulse.step_begins(step, now_ns)
        yield now_ns
        tokens: list[int] = []
        for _ in range(rolls.randrange(24)):
            now_ns += 1
            if tokens and rolls.random() < 0.5:
                pulse.ends(tokens.pop(rolls.randrange(len(tokens))), now_ns)
            else:
                tokens.append(pulse.starts(now_ns))
            yield now_ns


def test_no_store_leaves_a_page_that_reads_as_a_torn_one() -> None:
    """After each single store the reader sees what was told before the call, or what
    is after it, or nothing."""
    buffer = blank()
    pulse = Pulse(buffer)
    between: list[tuple[Beat | None, StepSeen | None]] = []
    pulse._words = Watched(  # type: ignore[assignment]
        pulse._words, lambda: between.append((read(buffer), last_step(buffer)))
    )
    before: tuple[Beat | None, StepSeen | None] = (None, None)
    torn = 0
    for _ in drive(pulse, rolls=random.Random(1), steps=20):
        after = (read(buffer), last_step(buffer))
        for beat, seen in between:
            assert beat in (before[0], after[0], None)
            assert seen in (before[1], after[1], None)
            torn += beat is None
        assert between
        between.clear()
        before = after
    assert torn > 100


def write_for_ever(descriptor: int) -> None:
    """Steps of 20 operations, one after the other. All of a beat is known from the
    time, which is 1000 a step and 1 a call."""
    pulse = Pulse(memoryview(mmap.mmap(descriptor, PULSE_BYTES)), threading.RLock())
    for step in itertools.count():
        now_ns = 1000 * step
        pulse.step_begins(step, now_ns)
        for at in range(now_ns + 1, now_ns + 40, 2):
            pulse.ends(pulse.starts(at), at + 1)


def test_a_reader_beside_a_writer_takes_no_torn_beat_for_a_whole_one() -> None:
    descriptor = os.memfd_create("pulse")
    os.ftruncate(descriptor, PULSE_BYTES)
    buffer = memoryview(mmap.mmap(descriptor, PULSE_BYTES))
    call = f"from {__name__} import write_for_ever; write_for_ever({descriptor})"
    writer = subprocess.Popen([sys.executable, "-c", call], pass_fds=[descriptor])
    beats: set[int] = set()
    steps: set[int] = set()
    until_s = time.monotonic() + 30
    try:
        while (len(beats) < 500 or len(steps) < 10) and time.monotonic() < until_s:
            beat, seen = read(buffer), last_step(buffer)
            if beat is not None:
                step, calls = divmod(beat.changed_ns, 1000)
                assert beat == Beat(
                    step=step,
                    began_ns=1000 * step,
                    started=(calls + 1) // 2,
                    ended=calls // 2,
                    changed_ns=beat.changed_ns,
                    fed=False,
                )
                beats.add(beat.changed_ns)
            if seen is not None:
                first = 1000 * seen.step
                pairs = tuple((at, at + 1) for at in range(first + 1, first + 40, 2))
                assert seen == StepSeen(
                    step=seen.step,
                    began_ns=first,
                    ended_ns=first + 1000,
                    operations=pairs,
                    overfull=False,
                    fed=False,
                )
                steps.add(seen.step)
    finally:
        writer.kill()
        writer.wait()
        os.close(descriptor)
    assert len(beats) >= 500
    assert len(steps) >= 10


def test_what_is_no_pulse_is_not_read() -> None:
    buffer = blank()
    Pulse(buffer).step_begins(1, 1)
    buffer.cast("Q")[0] ^= 1
    assert read(buffer) is None
    assert last_step(buffer) is None
