"""A page for each rank and round, which outlives the rank and its reader's round."""

from __future__ import annotations

import os

import pytest

from twinstep.agent import messages as say
from twinstep.agent.pulses import Pulses
from twinstep.schedule.pulse import PULSE_BYTES, Pulse, read
from twinstep.store.memory import Slot, adopt


def welcome(round: int) -> say.Welcome:
    return say.Welcome(round=round, step=0, may_share=True, chunk_bytes=1, slots=[])


def test_the_agent_reads_what_the_rank_writes() -> None:
    pulses = Pulses(log=print)
    told, descriptors = pulses.beside(4, welcome(1))
    assert told.pulse
    rank = adopt(os.dup(descriptors[0]))
    Pulse(rank.view).step_begins(7, 10)
    rank.close()
    beat = read(pulses.views[4])
    assert beat is not None
    assert beat.step == 7
    pulses.close()


def reserved_bytes(pulses: Pulses) -> int:
    return sum(view.nbytes for view in pulses.views.values())


def test_a_rank_has_one_page_a_round() -> None:
    pulses = Pulses(log=print)
    pulses.beside(0, welcome(1))
    pulses.beside(1, welcome(1))
    assert reserved_bytes(pulses) == 2 * PULSE_BYTES
    view = pulses.views[0]
    Pulse(view).step_begins(3, 10)
    pulses.beside(0, welcome(1))
    assert reserved_bytes(pulses) == 2 * PULSE_BYTES
    assert read(pulses.views[0]) is not None
    pulses.beside(0, welcome(2))
    assert list(pulses.views) == [0]
    assert reserved_bytes(pulses) == PULSE_BYTES
    assert read(pulses.views[0]) is None
    beat = read(view)
    assert beat is not None
    assert beat.step == 3, "whoever reads an earlier round's page still can"
    pulses.close()
    assert not pulses.views


def test_without_memory_a_rank_goes_on_without_a_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []

    def fails(name: str, **_: int) -> Slot:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(Slot, "create", fails)
    pulses = Pulses(log=said.append)
    word = welcome(1)
    assert pulses.beside(5, word) == (word, [])
    assert "rank 5 has no pulse" in said[0]
    assert not pulses.views
