"""A session in this process, and an agent of the test's own, on a real Unix socket.

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
from twinstep.environment import RankPlace
from twinstep.session import Session
from twinstep.store.memory import Slot
from twinstep.transfer.frame import PREFIX_BYTES, decode_header, encode, parse_prefix

__all__ = ["agent", "no_session_is_left", "trained"]

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
        self.page: Slot | None = None

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
        """Gives the waiting rank a first start, and its page where there is one.
        Called before it asks."""
        welcome = say.Welcome(
            round=ROUND,
            step=0,
            may_share=False,
            chunk_bytes=CHUNK_BYTES,
            slots=[],
            pulse=self.page is not None,
        )
        self.tell(welcome, [self.page.fd] if self.page else [])

    def give_slots(self, layout: say.Layout) -> None:
        self.own_bytes = layout.own_bytes
        self.slots = [
            Slot.create(f"twinstep-0-{slot}", capacity_bytes=layout.own_bytes)
            for slot in range(2)
        ]
        infos = [
            say.SlotInfo(shard=0, slot=index, size=slot.size)
            for index, slot in enumerate(self.slots)
        ]
        message = say.Slots(round=ROUND, chunk_bytes=CHUNK_BYTES, slots=infos)
        self.tell(message, [slot.fd for slot in self.slots])

    def answer(
        self, step: int, *, capture: bool = True, slot: int = 0, again: bool = False
    ) -> None:
        self.tell(
            say.Capture(
                round=ROUND,
                step=step,
                capture=capture,
                keep=0,
                own_slot=slot,
                again=again,
            )
        )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._listener.close()
        for slot in [*self.slots, self.page]:
            if slot is not None:
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
