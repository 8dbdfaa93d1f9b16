"""What torch's ranks do on the network is told to their pulse, and changes no bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.adapters.ranks import run_ranks
from twinstep.adapters.torch_traffic import QUEUED_MAX, Queue, Queued
from twinstep.schedule.pulse import PULSE_BYTES, Pulse, read


def test_two_ranks_tell_their_collectives(tmp_path: Path) -> None:
    """DDP, FSDP2 and every other way, in real processes: see traffic_run.py."""
    run_ranks("traffic_run", folder=tmp_path, seconds_max=120)


class Operation:
    """Stands for one on a device: it begins and ends when the test says."""

    def __init__(self) -> None:
        self.has_begun = self.is_over = False

    def queued(self) -> Queued:
        return Queued(began=lambda: self.has_begun, over=lambda: self.is_over)


def beats(page: memoryview) -> tuple[int, int]:
    beat = read(page)
    assert beat is not None
    return beat.started, beat.ended


def queue(page: memoryview, give_up: Callable[[Exception], None]) -> Queue:
    pulse = Pulse(page)
    pulse.step_begins(0, 1)
    return Queue(pulse, give_up)


def test_an_operation_on_a_device_starts_when_its_stream_has_come_to_it() -> None:
    page = memoryview(bytearray(PULSE_BYTES))
    watched = queue(page, lambda error: None)
    first, second = Operation(), Operation()
    watched.add(first.queued())
    watched.add(second.queued())
    assert watched.look() == 2
    assert beats(page) == (0, 0)
    first.has_begun = True
    watched.look()
    assert beats(page) == (1, 0)
    first.is_over = second.has_begun = True
    assert watched.look() == 1
    assert beats(page) == (2, 1)
    second.is_over = True
    assert watched.look() == 0
    assert beats(page) == (2, 2)


def test_a_device_that_takes_no_questions_ends_the_feed_and_nothing_else() -> None:
    page = memoryview(bytearray(PULSE_BYTES))
    errors: list[Exception] = []

    def fails() -> bool:
        raise RuntimeError("capture was invalidated")

    watched = queue(page, errors.append)
    watched.add(Queued(began=fails, over=fails))
    watched.start()
    watched.join()
    assert [str(error) for error in errors] == ["capture was invalidated"]


def test_a_queue_is_bounded() -> None:
    page = memoryview(bytearray(PULSE_BYTES))
    watched = queue(page, lambda error: None)
    stuck = Operation()
    for _ in range(QUEUED_MAX):
        watched.add(stuck.queued())
    with pytest.raises(OverflowError, match=str(QUEUED_MAX)):
        watched.add(stuck.queued())
