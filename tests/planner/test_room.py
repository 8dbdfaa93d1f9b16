"""What copies take of a machine, and how a plan refuses what does not fit."""

from __future__ import annotations

import pytest

from tests.planner.jobs import job
from twinstep.errors import DoesNotFit
from twinstep.planner.room import check, in_words, room_of
from twinstep.schedule_settings import Schedule

BUFFERS = Schedule().buffer_bytes


def test_memory_is_what_agents_reserve() -> None:
    """2 slots x copies x the machine's state: 300 GB for GPT-2 100B, of 1152 GB
    (GEMINI, Table 1)."""
    room = room_of(job(memory_bytes=1152e9))
    assert room.slots_bytes == pytest.approx(300e9)
    assert room.reserved_bytes == pytest.approx(300e9 + BUFFERS)
    assert room.fits
    check(room, job())


def test_traffic_is_what_a_step_leaves_idle() -> None:
    """GEMINI, Figure 8: 2.5 s of copies in about 10 s that are idle."""
    room = room_of(job())
    assert room.sent_bytes == pytest.approx(75e9)
    assert room.send_s == pytest.approx(2.5)
    assert room.idle_s == pytest.approx(9.3)
    assert room.every == 1
    assert "they fit into every step" in in_words(room, job())[2]


@pytest.mark.parametrize(
    ("memory_bytes", "way"),
    [(200e9, "use copies = 1"), (100e9, "use more machines: not")],
)
def test_what_does_not_fit_is_refused_with_the_arithmetic(
    memory_bytes: float, way: str
) -> None:
    one = job(memory_bytes=memory_bytes)
    with pytest.raises(DoesNotFit, match=way) as refused:
        check(room_of(one), one)
    assert "2 slots x 2 copies x 75 GB" in str(refused.value)


def test_words_for_copies_that_never_fit_and_for_one_copy() -> None:
    busy = job(idle_share=0.0)
    assert "do not fit into every_max (64) steps" in in_words(room_of(busy), busy)[2]
    slow = job(idle_share=0.02)  # 1.24 s, and 0.8 of it is planned with.
    assert "3 steps" in in_words(room_of(slow), slow)[2]
    alone = job(copies=1)
    assert "nothing is sent" in in_words(room_of(alone), alone)[2]
