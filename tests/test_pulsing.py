"""A rank tells its steps and collectives on the page that comes with its welcome."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.sessions import FakeAgent, Trained, agent, no_session_is_left, trained
from twinstep.agent import messages as say
from twinstep.schedule.pulse import PULSE_BYTES, last_step, read
from twinstep.store.memory import Slot

__all__ = ["agent", "no_session_is_left", "trained"]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    yield
    dist.destroy_process_group()


def sum_once() -> None:
    dist.all_reduce(torch.ones(2))


@pytest.mark.usefixtures("alone")
def test_steps_and_collectives_are_told_on_the_page_that_comes(
    monkeypatch: pytest.MonkeyPatch, agent: FakeAgent
) -> None:
    agent.page = Slot.create("pulse", capacity_bytes=PULSE_BYTES)
    page = memoryview(agent.page.view)
    trained = Trained(monkeypatch, agent)
    trained.start()
    beat = read(page)
    assert beat is not None
    assert (beat.step, beat.fed, beat.started) == (0, True, 0)
    sum_once()
    beat = read(page)
    assert beat is not None
    assert (beat.started, beat.ended) == (1, 1)
    trained.update()
    trained.session.after_step(1)
    beat, seen = read(page), last_step(page)
    assert beat is not None
    assert seen is not None
    assert (beat.step, beat.started) == (1, 0)
    assert (seen.step, len(seen.operations)) == (0, 1)
    agent.welcome()  # again, late: its descriptor is not kept
    agent.give_slots(agent.hear(say.Layout))
    assert agent.hear(say.Reached).step == 1
    trained.session.close()
    beat = read(page)
    assert beat is not None
    assert not beat.fed
    sum_once()
    assert read(page) == beat


@pytest.mark.usefixtures("alone")
def test_without_a_page_collectives_are_not_watched(trained: Trained) -> None:
    wait = dist.Work.wait
    trained.start()
    sum_once()
    assert dist.Work.wait is wait


def test_a_page_that_is_none_is_said_and_training_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    agent: FakeAgent,
    capfd: pytest.CaptureFixture[str],
) -> None:
    agent.page = Slot.create("pulse", capacity_bytes=1)
    trained = Trained(monkeypatch, agent)
    trained.first_step()
    assert "collectives are not told to its agent" in capfd.readouterr().err
    trained.session.close()
