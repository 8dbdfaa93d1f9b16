"""A session against an agent of the test's own, on a real Unix socket."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from tests.sessions import (
    CHUNK_BYTES,
    WAIT_S,
    Trained,
    agent,
    no_session_is_left,
    trained,
)
from twinstep.adapters.choice import adapter_for
from twinstep.adapters.torch import TorchState
from twinstep.agent import messages as say
from twinstep.capture.snapshot import Held
from twinstep.capture.turn import Came
from twinstep.errors import OrderError, StateError
from twinstep.session import Session
from twinstep.transfer.sender import hash_copy

__all__ = ["agent", "no_session_is_left", "trained"]


def test_an_answer_in_time_is_captured(trained: Trained) -> None:
    trained.first_step()
    trained.agent.answer(1)
    captured = trained.agent.hear(say.Captured)
    assert captured.step == 1
    slot = trained.agent.slots[0]
    digests = hash_copy(slot.view, trained.agent.own_bytes, CHUNK_BYTES)
    assert captured.digests == {0: digests}
    assert any(bytes(trained.agent.slots[0].view))
    assert not any(bytes(trained.agent.slots[1].view))
    assert trained.session.statistics().captured == 1


def test_an_answer_after_the_update_is_skipped(trained: Trained) -> None:
    trained.first_step()
    trained.update()  # the optimizer's hook closes step 1
    trained.agent.answer(1)
    skipped = trained.agent.hear(say.Skipped)
    assert (skipped.step, skipped.reason) == (1, "")
    assert not any(bytes(trained.agent.slots[0].view))


def test_an_answer_for_an_earlier_step_is_skipped(trained: Trained) -> None:
    trained.first_step()
    trained.session.after_step(2)
    assert trained.agent.hear(say.Reached).step == 2
    trained.agent.answer(1)
    assert trained.agent.hear(say.Skipped).step == 1
    trained.agent.answer(2, slot=1)
    assert trained.agent.hear(say.Captured).step == 2
    assert not any(bytes(trained.agent.slots[0].view))


def test_an_order_for_a_step_ahead_waits_until_the_rank_stands_there(
    trained: Trained,
) -> None:
    trained.first_step()
    trained.agent.answer(3)
    trained.update()
    trained.session.after_step(2)
    trained.update()
    third = trained.model.weight.detach().clone()
    trained.session.after_step(3)
    assert [trained.agent.hear(say.Reached).step for _ in range(2)] == [2, 3]
    assert trained.agent.hear(say.Captured).step == 3
    assert trained.session.statistics().skipped == 0
    slot = bytes(trained.agent.slots[0].view)
    assert third.numpy().tobytes() in slot


def test_an_order_for_a_step_that_never_comes_ends_with_the_session(
    trained: Trained,
) -> None:
    trained.first_step()
    trained.agent.answer(30)
    twin = trained.session._twin.thread
    assert twin is not None
    trained.session.close()
    assert not twin.is_alive()


def test_an_order_that_waits_does_not_outlive_the_agent(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.first_step()
    trained.agent.answer(30)
    trained.agent.close()
    for step in range(2, 40):
        trained.update()
        trained.session.after_step(step)
    said = capsys.readouterr().err
    assert said.count("the agent is gone: steps are not protected any more") == 1


def test_an_answer_of_no_is_followed(trained: Trained) -> None:
    trained.first_step()
    trained.agent.answer(1, capture=False)
    trained.agent.answer(1)  # nothing was said in between
    assert trained.agent.hear(say.Captured).step == 1


def test_the_update_waits_for_a_copy_under_way(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.first_step()
    began, go_on = threading.Event(), threading.Event()
    copy = trained.session._adapter.copy
    seen: list[torch.Tensor] = []

    def slow(held: Held, **places: Any) -> Any:
        began.set()
        assert go_on.wait(WAIT_S)
        seen.append(trained.model.weight.detach().clone())
        return copy(held, **places)

    monkeypatch.setattr(trained.session._adapter, "copy", slow)
    trained.agent.answer(1)
    assert began.wait(WAIT_S)
    before = trained.model.weight.detach().clone()
    updated = threading.Event()

    def update() -> None:
        trained.update()
        updated.set()

    thread = threading.Thread(target=update)
    thread.start()
    assert not updated.wait(0.2), "the update did not wait for the copy"
    go_on.set()
    assert updated.wait(WAIT_S)
    thread.join(WAIT_S)
    assert torch.equal(seen[0], before), "the state changed while it was copied"
    assert not torch.equal(trained.model.weight, before)
    assert trained.agent.hear(say.Captured).step == 1
    assert trained.session.statistics().blocked_s > 0.1


def test_a_copy_that_fails_never_ends_training(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.first_step()

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("no such luck")

    with monkeypatch.context() as patch:
        patch.setattr(trained.session._adapter, "copy", fail)
        trained.agent.answer(1)
        skipped = trained.agent.hear(say.Skipped)
    assert skipped.step == 1 and "ValueError: no such luck" in skipped.reason
    trained.update()
    trained.session.after_step(2)
    assert trained.agent.hear(say.Reached).step == 2
    trained.agent.answer(2)
    assert trained.agent.hear(say.Captured).step == 2


def test_whoever_waits_for_a_copy_learns_of_it_and_may_change_the_state(
    trained: Trained,
) -> None:
    trained.first_step()
    trained.agent.answer(1)
    assert trained.session.wait_captured(seconds_max=WAIT_S).came is Came.CAPTURED
    assert trained.agent.hear(say.Captured).step == 1
    trained.agent.answer(1, slot=1)  # a second order comes too late: the state changed
    assert trained.agent.hear(say.Skipped).step == 1


def test_a_no_that_is_followed_by_a_yes_is_a_yes(trained: Trained) -> None:
    trained.first_step()
    trained.agent.answer(1, capture=False, again=True)
    trained.agent.answer(1)
    assert trained.session.wait_captured(seconds_max=WAIT_S).came is Came.CAPTURED


@pytest.mark.parametrize(
    ("answers", "came", "says", "seconds_max"),
    [
        ([(1, False, False)], Came.PASSED, "left it out", 3600.0),
        ([(1, False, True)], Came.BUSY, "still on their way", 0.1),
        ([(3, True, False)], Came.PASSED, "step 3 is captured instead", 3600.0),
        ([], Came.FAILED, "did not call for it within 0.1 s", 0.1),
    ],
)
def test_a_copy_that_is_not_made_is_not_waited_for_for_ever(
    trained: Trained,
    answers: list[tuple[int, bool, bool]],
    came: Came,
    says: str,
    seconds_max: float,
) -> None:
    trained.first_step()
    for step, capture, again in answers:
        trained.agent.answer(step, capture=capture, again=again)
    outcome = trained.session.wait_captured(seconds_max=seconds_max)
    assert outcome.came is came and says in outcome.reason


def test_a_wait_ends_with_the_agent(trained: Trained) -> None:
    trained.first_step()
    assert trained.session.protects
    trained.agent.close()
    outcome = trained.session.wait_captured(seconds_max=3600.0)
    assert (outcome.came, outcome.reason) == (Came.FAILED, "its agent is gone")
    assert not trained.session.protects


def test_an_adapter_that_is_given_serves_itself() -> None:
    adapter = TorchState({"model": torch.nn.Linear(2, 2)})
    assert adapter_for({"mine": adapter}) is adapter


def test_training_goes_on_when_the_agent_is_gone(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.first_step()
    trained.agent.close()
    twin = trained.session._twin.thread
    assert twin is not None
    twin.join(WAIT_S)
    assert not twin.is_alive()
    for step in range(2, 5):
        trained.update()
        trained.session.after_step(step)
    said = capsys.readouterr().err
    assert said.count("the agent is gone: steps are not protected any more") == 1
    assert trained.session.statistics().steps == 4


def test_state_that_grew_beyond_its_slot_is_skipped_with_a_reason(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.first_step()
    trained.model.weight.data = torch.zeros(30, 30)
    trained.session.after_step(2)
    said = capsys.readouterr().err
    assert "step 2 is not captured" in said


@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_step_out_of_order_is_refused(trained: Trained, step: int) -> None:
    trained.first_step()
    with pytest.raises(OrderError, match=rf"after_step\({step}\) after step 1.*is 2"):
        trained.session.after_step(step)


def test_restore_is_called_once_and_first(trained: Trained) -> None:
    with pytest.raises(OrderError, match=r"restore\(\) before after_step"):
        trained.session.after_step(1)
    trained.start()
    with pytest.raises(OrderError, match="called already"):
        trained.session.restore()


def test_a_second_session_is_refused_and_a_closed_one_makes_room() -> None:
    model = torch.nn.Linear(2, 2)
    with (
        Session(model=model),
        pytest.raises(OrderError, match="has a Session already"),
    ):
        Session(model=model)
    with Session(model=model):
        pass


def test_state_that_cannot_be_captured_is_named_and_leaves_no_session() -> None:

    with pytest.raises(StateError, match=r"odd.*"):
        Session(odd=object())
    with Session(model=torch.nn.Linear(2, 2)):
        pass


def test_without_an_agent_the_session_says_so_and_protects_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Session(model=model, optimizer=optimizer) as session:
        assert session.restore() == 0
        for step in range(1, 4):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            session.after_step(step)
        statistics = session.statistics()
    assert capsys.readouterr().err.count("no step is protected") == 1
    assert (statistics.steps, statistics.captured) == (3, 0)


def test_a_closed_session_unhooks_the_optimizer(trained: Trained) -> None:
    trained.first_step()
    trained.session.close()
    trained.session.close()
    trained.update()
    assert trained.agent.hear(say.Leaving).step == 1
