"""Sessions whose slots are this process's: a training ends early, and another goes on.

The state is captured and restored by the real adapter, without agents. That the same
holds with agents and a killed process is for the tests of whole jobs."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from tests.adapters.small_runs import Slots, capture
from twinstep.adapters.torch import TorchState


class Killed(BaseException):
    """The process would have died here; no library catches it as an error."""


class OwnMemory:
    """What outlives a training: the state after its newest update."""

    def __init__(self) -> None:
        self.step = 0
        self.slots: Slots | None = None
        self.dies_at = 0
        """The training ends once this step is captured."""
        self.sessions: list[OwnSession] = []

    def session(self, **objects: Any) -> OwnSession:
        self.sessions.append(OwnSession(self, objects))
        return self.sessions[-1]


class OwnSession:
    """Satisfies what the adapters of trainers use of a Session."""

    def __init__(self, memory: OwnMemory, objects: dict[str, Any]) -> None:
        self.memory, self.state = memory, TorchState(objects)
        self.closed = False

    def restore(self) -> int:
        memory = self.memory
        if memory.slots is not None:
            found = self.state.restore(memory.slots.own, memory.slots.shared)
            assert found == memory.step
        return memory.step

    def after_step(self, step: int) -> None:
        memory = self.memory
        assert step == memory.step + 1
        memory.slots, memory.step = capture(self.state, step), step
        if step == memory.dies_at:
            raise Killed

    def close(self) -> None:
        self.closed = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
