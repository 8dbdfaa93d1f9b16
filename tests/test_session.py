"""A session against an agent of the test's own, on a real Unix socket.

The agent is a script: it says what the test tells it to say, when it does. Waits end
at WAIT_S at the latest, and nothing sleeps to be sure.
"""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from twinstep import session as subject
from twinstep.agent import messages as say
from twinstep.capture.snapshot import Held
from twinstep.environment import RankPlace
from twinstep.errors import OrderError, StateError
from twinstep.session import Session
from twinstep.store.memory import Slot
from twinstep.transfer.frame import PREFIX_BYTES, decode_header, encode, parse_prefix
from twinstep.transfer.sender import hash_copy

WAIT_S = 10.0
ROUND = 3
CHUNK_BYTES = 4096
_decoder: msgspec.msgpack.Decoder[say.FromRank] = msgspec.msgpack.Decoder(say.FromRank)


class FakeAgent:
    """The agent's end of one rank's socket."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "agent.sock")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(1)
        self._listener.settimeout(WAIT_S)
        self._connection: socket.socket | None = None
        self.slots: list[Slot] = []

    def connection(self) -> socket.socket:
        if self._connection is None:
            self._connection, _ = self._listener.accept()
            self._connection.settimeout(WAIT_S)
        return self._connection

    def hear(self, kind: type[Any]) -> Any:
        """Returns the next message, which must be of this kind."""
        raw = self._read(PREFIX_BYTES)
        prefix = parse_prefix(raw, header_bytes_max=1 << 20, payload_bytes_max=0)
        message = decode_header(prefix, self._read(prefix.header_bytes), _decoder)
        assert isinstance(message, kind), message
        return message

    def _read(self, count: int) -> bytes:
        raw = b""
        while len(raw) < count:
            part = self.connection().recv(count - len(raw))
            assert part, "the session has closed the connection"
            raw += part
        return raw

    def tell(self, message: say.ToRank, fds: list[int] | None = None) -> None:
        socket.send_fds(self.connection(), [encode(message)], fds or [])

    def welcome(self) -> None:
        """Gives the waiting rank a first start. Called before it asks."""
        self.tell(
            say.Welcome(
                round=ROUND, step=0, may_share=False, chunk_bytes=CHUNK_BYTES, slots=[]
            )
        )

    def give_slots(self, layout: say.Layout) -> None:
        self.own_bytes = layout.own_bytes
        self.slots = [
            Slot.create(shard=0, slot=slot, capacity_bytes=layout.own_bytes)
            for slot in range(2)
        ]
        infos = [
            say.SlotInfo(shard=0, slot=index, size=slot.size)
            for index, slot in enumerate(self.slots)
        ]
        message = say.Slots(round=ROUND, chunk_bytes=CHUNK_BYTES, slots=infos)
        self.tell(message, [slot.fd for slot in self.slots])

    def answer(self, step: int, *, capture: bool = True, slot: int = 0) -> None:
        self.tell(
            say.Capture(round=ROUND, step=step, capture=capture, keep=0, own_slot=slot)
        )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._listener.close()
        for slot in self.slots:
            slot.close()


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    with (
        tempfile.TemporaryDirectory(prefix="twinstep-") as folder,
        closing(FakeAgent(Path(folder))) as found,
    ):
        yield found


@pytest.fixture(autouse=True)
def no_session_is_left() -> Iterator[None]:
    yield
    left = subject.present()
    if left is not None:
        left.close()
    assert left is None, "a test left its session open"


class Trained:
    """A model with its optimizer, and a session in the place of rank 0."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, agent: FakeAgent) -> None:
        place = RankPlace(
            rank=0, local_rank=0, ranks_per_machine=1, round=ROUND, agent=agent.path
        )
        monkeypatch.setattr(subject, "rank_place", lambda: place)
        monkeypatch.setattr(subject.last_word, "prepare", lambda _place: None)
        self.model = torch.nn.Linear(3, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.session = Session(model=self.model, optimizer=self.optimizer)
        self.agent = agent

    def start(self) -> None:
        """The session has restored step 0."""
        thread = threading.Thread(target=self._serve_start)
        thread.start()
        assert self.session.restore() == 0
        thread.join(WAIT_S)

    def _serve_start(self) -> None:
        assert self.agent.hear(say.Hello).round == ROUND
        self.agent.welcome()

    def first_step(self) -> None:
        """Step 1 is reached, and the slots are here."""
        self.start()
        self.update()
        self.session.after_step(1)
        self.agent.give_slots(self.agent.hear(say.Layout))
        assert self.agent.hear(say.Reached).step == 1

    def update(self) -> None:
        self.model(torch.ones(1, 3)).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, agent: FakeAgent) -> Iterator[Trained]:
    found = Trained(monkeypatch, agent)
    try:
        yield found
    finally:
        found.session.close()


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


def test_training_goes_on_when_the_agent_is_gone(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.first_step()
    trained.agent.close()
    twin = trained.session._thread
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
