"""The one session through which all of this process's DCP saves go into memory.

It begins when a reader or a writer first needs it: the newest complete save of this
run is then fetched, once. A save is a step of the session, whatever the user calls it:
the session counts them from where memory left off. Every rank counts every save, also
one that could not be kept, so that all ranks stand at the same one.

Where the user has a Session already, it keeps the steps, and nothing here does.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch.distributed.checkpoint.planner import SavePlanner, WriteItem

from twinstep.adapters.torch_dcp_items import About, flat_of
from twinstep.adapters.torch_dcp_state import DcpState, Restored
from twinstep.capture.turn import Came, Outcome
from twinstep.session import Session, present
from twinstep.telling import tell

FAILURES_MAX = 3
"""After so many saves in a row that got no copy, the next ones hardly wait."""
HARDLY_S = 0.1
_memory: list[Memory] = []


class Memory:
    """This process's. All of it is used in the thread that calls DCP."""

    def __init__(self) -> None:
        self.state = DcpState()
        self.saves = 0
        """How many saves there were, in all rounds of this run."""
        self.items: list[WriteItem] = []
        """Of the last plan. DCP's planner says nothing when a plan did not change."""
        self.mappings: object = None
        self._failures = 0
        self._said: set[str] = set()
        self.session: Session | None = None
        if present() is not None:
            self.say(
                "this process has a Session of its own, which keeps its steps: what "
                "DCP saves goes to files only"
            )
            self.began = False
            return
        self.session = Session(torch_dcp=self.state)
        try:
            self.saves = self.session.restore()
        except BaseException:
            self.session.close()
            raise
        self.began = self.session.protects

    @property
    def restored(self) -> Restored | None:
        """What memory had when this process began, until it saves."""
        return self.state.restored

    def save(
        self, planner: SavePlanner, *, about: About, seconds_max: float
    ) -> Outcome:
        """Returns whether this rank's items of the last plan are in memory.

        The caller may change its tensors afterwards. Never raises: what goes wrong
        is the reason."""
        self.saves += 1
        self.state.restored = None
        session = self.session
        if session is None or not self.began:
            return Outcome(Came.FAILED, "no agent keeps it")
        self._put(planner, self.items, about)
        patience_s = seconds_max if self._failures < FAILURES_MAX else HARDLY_S
        try:
            session.after_step(self.saves)
            outcome = session.wait_captured(seconds_max=patience_s)
        except Exception as error:  # training must not end with a copy
            session.fence()
            outcome = Outcome(Came.FAILED, f"{type(error).__name__}: {error}")
        self.state.give_up()
        failed = outcome.came is Came.FAILED
        self._failures = self._failures + 1 if failed else 0
        return outcome

    def _put(
        self, planner: SavePlanner, items: Iterable[WriteItem], about: About
    ) -> None:
        try:
            flat = flat_of(
                items, planner.resolve_data, about=about, mappings=self.mappings
            )
        except Exception as error:
            self.state.put(None, why=f"{type(error).__name__}: {error}")
        else:
            self.state.put(flat)

    def say(self, text: str, *, topic: str = "") -> None:
        """The text is on stderr, once for each topic."""
        if (topic or text) not in self._said:
            self._said.add(topic or text)
            tell(f"twinstep: dcp: {text}", error=True)


def memory() -> Memory:
    """Returns this process's memory, which begins now if it has not yet.

    Raises: as Session.restore does."""
    if _memory and _memory[0].session not in (None, present()):
        _memory.clear()  # its session was closed
    if not _memory:
        _memory.append(Memory())
    return _memory[0]
