"""An agent of the test's own that does what agents do: calls for each save, at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sessions import CHUNK_BYTES, ROUND, FakeAgent
from twinstep import session as subject
from twinstep.agent import messages as say
from twinstep.environment import RankPlace
from twinstep.transfer.sender import hash_copy


class Served:
    """Serves one process's session. `says` decides of each save: True captures it,
    False passes it over, None says nothing."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        says: Callable[[int], bool | None] = lambda _: True,
        *,
        copy: bytes = b"",
        step: int = 0,
    ) -> None:
        self.agent, self.says = FakeAgent(folder), says
        self.captured: list[int] = []
        self.copy, self.step = copy, step
        self.slot = 0
        place = RankPlace(
            rank=0,
            local_rank=0,
            ranks_per_machine=1,
            round=ROUND,
            agent=self.agent.path,
        )
        monkeypatch.setattr(subject, "rank_place", lambda: place)
        monkeypatch.setattr(subject.last_word, "prepare", lambda _place: None)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def newest(self) -> tuple[bytes, int]:
        """The copy that a process after this one is given, and its step. This one has
        ended, and all it said was heard."""
        self.end()
        return bytes(self.agent.slots[self.slot].view), self.captured[-1]

    def end(self) -> None:
        present = subject.present()
        if present is not None and self._thread.is_alive():
            present.close()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.end()
        self.agent.close()

    def _serve(self) -> None:
        try:
            while True:
                self._answer(self.agent.hear(object))
        except (OSError, AssertionError):
            return  # the session has ended

    def _answer(self, message: Any) -> None:
        match message:
            case say.Hello() if self.copy:
                self._welcome()
            case say.Hello():
                self.agent.welcome()
            case say.Layout():
                for slot in self.agent.slots:
                    slot.close()
                self.agent.give_slots(message)
            case say.Reached(step=step):
                word = self.says(step)
                if word is not None:
                    self.agent.answer(step, capture=word, slot=step % 2)
            case say.Captured(step=step):
                self.captured.append(step)
                self.slot = step % 2
            case _:
                pass

    def _welcome(self) -> None:
        from twinstep.store.memory import Slot

        slot = Slot.create("twinstep-0-0", capacity_bytes=len(self.copy))
        slot.view[:] = self.copy
        info = say.SlotInfo(
            shard=0,
            slot=0,
            size=len(self.copy),
            digests=hash_copy(slot.view, len(self.copy), CHUNK_BYTES),
            source="own memory",
        )
        welcome = say.Welcome(
            round=ROUND,
            step=self.step,
            may_share=False,
            chunk_bytes=CHUNK_BYTES,
            slots=[info],
        )
        self.agent.tell(welcome, [slot.fd])
        slot.close()
