"""A session whose state is a value, against an agent of the test's own."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy
import pytest

from tests.sessions import ROUND, WAIT_S, FakeAgent, agent, no_session_is_left
from twinstep import session as subject
from twinstep.adapters.jax import JaxState
from twinstep.agent import messages as say
from twinstep.capture.turn import Came
from twinstep.environment import RankPlace
from twinstep.errors import OrderError, StateError
from twinstep.session import Session

__all__ = ["agent", "no_session_is_left"]


class Functional:
    """A loop that passes its state on, and a session in the place of rank 0."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, agent: FakeAgent) -> None:
        place = RankPlace(
            rank=0, local_rank=0, ranks_per_machine=1, round=ROUND, agent=agent.path
        )
        monkeypatch.setattr(subject, "rank_place", lambda: place)
        monkeypatch.setattr(subject.last_word, "prepare", lambda _place: None)
        self.agent = agent
        self.session = Session()
        self.update = jax.jit(lambda state: {"a": jnp.sort(state["a"] + 1)})
        self.donating = jax.jit(
            lambda state: {"a": jnp.sort(state["a"] + 1)}, donate_argnums=0
        )
        self.state: Any = {"a": jnp.arange(100_000.0)}

    def first_step(self) -> None:
        """Step 1 is reached, and the slots are here."""

        def serve() -> None:
            self.agent.hear(say.Hello)
            self.agent.welcome()

        thread = threading.Thread(target=serve)
        thread.start()
        self.state, step = self.session.restore(like=self.state)
        thread.join(WAIT_S)
        assert step == 0
        self.state = self.update(self.state)
        self.session.after_step(1, self.state)
        self.agent.give_slots(self.agent.hear(say.Layout))
        assert self.agent.hear(say.Reached).step == 1

    def slot(self, index: int = 0) -> Any:
        """The state in a slot, restored by another rank."""
        adapter = JaxState({})
        adapter.offer({"a": jnp.zeros(100_000)})
        adapter.restore(self.agent.slots[index].view, [])
        found: Any = adapter.restored()
        return found["a"]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch, agent: FakeAgent) -> Iterator[Functional]:
    found = Functional(monkeypatch, agent)
    try:
        yield found
    finally:
        found.session.close()


def test_an_update_does_not_end_the_step_that_is_to_be_copied(loop: Functional) -> None:
    loop.first_step()
    expected = numpy.array(loop.state["a"])
    following = loop.update(loop.state)
    loop.agent.answer(1)
    assert loop.agent.hear(say.Captured).step == 1
    assert numpy.array_equal(loop.slot(), expected)
    assert not numpy.array_equal(following["a"], expected)


def test_no_step_waits_for_a_copy_under_way(
    loop: Functional, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.first_step()
    began, go_on = threading.Event(), threading.Event()
    copy = loop.session._adapter.copy

    def slow(*args: Any, **places: Any) -> Any:
        began.set()
        assert go_on.wait(WAIT_S)
        return copy(*args, **places)

    monkeypatch.setattr(loop.session._adapter, "copy", slow)
    expected = numpy.array(loop.state["a"])
    loop.agent.answer(1)
    assert began.wait(WAIT_S)
    for step in range(2, 5):
        loop.state = loop.update(loop.state)
        loop.session.after_step(step, loop.state)
    go_on.set()
    for step in range(2, 5):
        assert loop.agent.hear(say.Reached).step == step
    assert loop.agent.hear(say.Captured).step == 1
    assert numpy.array_equal(loop.slot(), expected)


def test_a_fence_lets_the_order_that_has_come_be_carried_out(loop: Functional) -> None:
    loop.first_step()
    for step in (2, 3, 4):
        loop.agent.answer(step, slot=step % 2)
        while loop.session._twin._ordered != step:
            assert not loop.session._twin.ended
        loop.session.fence()
        before = loop.state["a"].unsafe_buffer_pointer()
        loop.state = loop.donating(loop.state)
        if step > 2:
            assert loop.state["a"].unsafe_buffer_pointer() == before, "memory doubled"
        loop.session.after_step(step, loop.state)
        loop.session.fence()
        expected = numpy.array(loop.state["a"].addressable_data(0))
        assert loop.agent.hear(say.Reached).step == step
        assert loop.agent.hear(say.Captured).step == step
        assert numpy.array_equal(loop.slot(step % 2), expected)
    assert loop.session.statistics().skipped == 0
    assert isinstance(loop.session._adapter, JaxState)
    assert not loop.session._adapter._keeper.donates, "each state was copied first"


def test_a_step_that_was_closed_is_not_captured(loop: Functional) -> None:
    loop.first_step()
    loop.session.fence()
    loop.donating(loop.state)
    loop.agent.answer(1)
    assert loop.agent.hear(say.Skipped).reason == ""


def test_a_loop_that_donates_loses_one_step_and_says_why(loop: Functional) -> None:
    loop.first_step()
    loop.state = loop.donating(loop.state)
    loop.agent.answer(1)
    assert "session.fence() before" in loop.agent.hear(say.Skipped).reason
    for step in (2, 3):
        loop.session.after_step(step, loop.state)
        expected = numpy.array(loop.state["a"])
        loop.state = loop.donating(loop.state)
        assert loop.agent.hear(say.Reached).step == step
        loop.agent.answer(step)
        assert loop.agent.hear(say.Captured).step == step
        assert numpy.array_equal(loop.slot(), expected)


def test_whoever_waits_for_a_copy_may_donate_afterwards(loop: Functional) -> None:
    loop.first_step()
    loop.agent.answer(1)
    assert loop.session.wait_captured(seconds_max=WAIT_S).came is Came.CAPTURED
    before = loop.state["a"].unsafe_buffer_pointer()
    assert loop.donating(loop.state)["a"].unsafe_buffer_pointer() == before


def test_a_call_without_state_says_what_to_pass(loop: Functional) -> None:
    with pytest.raises(OrderError, match="restore\\(like=state\\)"):
        loop.session.restore()
    loop.first_step()
    with pytest.raises(OrderError, match="after_step\\(2\\) without state"):
        loop.session.after_step(2)


def test_a_torch_session_takes_no_state() -> None:
    import torch

    with Session(model=torch.nn.Linear(2, 2)) as session:
        session.restore()
        with pytest.raises(OrderError, match="after_step\\(1\\) with state"):
            session.after_step(1, {"a": 1})


def test_a_loader_may_be_given_beside_a_state_though_torch_is_imported() -> None:
    class Loader:
        def state_dict(self) -> dict[str, int]:
            return {"position": 3}

        def load_state_dict(self, state: dict[str, int]) -> None:
            raise AssertionError("nothing was captured")

    with Session(loader=Loader()) as session:
        state, step = session.restore(like={"a": jnp.ones(2), "n": 1})
        session.after_step(1, state)
    assert step == 0


def test_what_begins_must_have_bytes() -> None:
    like = {"a": jax.ShapeDtypeStruct((2,), jnp.float32)}
    with (
        Session() as session,
        pytest.raises(StateError, match="has no bytes; on a first start"),
    ):
        session.restore(like=like)


def test_a_session_for_jax_does_not_import_torch() -> None:
    code = (
        "import sys, jax, jax.numpy as jnp, twinstep\n"
        "with twinstep.Session() as session:\n"
        "    state, step = session.restore(like={'a': jnp.ones(2)})\n"
        "    session.after_step(1, state)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
