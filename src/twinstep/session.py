"""The one object that a training loop holds: restore once, then say each step.

    session = twinstep.Session(model=model, optimizer=optimizer, loader=loader)
    start = session.restore()
    for step in range(start, steps):
        train_one_step()
        session.after_step(step + 1)

after_step tells the agent that the step is reached and returns. When the root's answer
comes, the twin thread copies the state into the slot it names, while the next forward
and backward pass run; a fence before the next update waits for it. The step to copy may
lie ahead: the twin waits for it. An answer that comes too late means that the step is
skipped: never torn, never waited for.

    training  update s | after_step | forward, backward s + 1 | fence | update s + 1
    twin                     Capture -> copy -> Captured

A step that cannot be captured is a warning, never an end of training. Left out:
frameworks (adapters), which step is captured (agent), where copies go (placement).
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
from collections.abc import Callable

from twinstep import last_word
from twinstep.adapters.choice import adapter_for
from twinstep.adapters.state import StateAdapter
from twinstep.agent import messages as say
from twinstep.agent.own_stack import show_when_asked
from twinstep.agent.tether import Tether
from twinstep.arriving import reach
from twinstep.capture.snapshot import (
    Digests,
    Held,
    Layout,
    LayoutChanged,
    cut,
)
from twinstep.capture.turn import Came, Outcome, Standing, Statistics, Turn, turn
from twinstep.environment import RankPlace, launch, rank_place
from twinstep.errors import DeadlinePassed, OrderError, TwinstepError
from twinstep.loading import load
from twinstep.pulsing import OwnPulse
from twinstep.store.memory import Slot, adopt
from twinstep.telling import tell

CONNECT_S_MAX = 30.0
_present: list[Session] = []


class Session:
    """Keeps every step of this rank in memory that outlives it.

    Args:
      objects: the state by name: modules, optimizers, schedulers, scalers, loaders,
        anything with state_dict and load_state_dict, and lists or dicts of them.

    A session that is started by hand works and protects nothing; it says so once.

    Raises: OrderError for a second session in a process; StateError for an object
        that cannot be captured, by its name."""

    def __init__(self, **objects: object) -> None:
        self._place: RankPlace | None = rank_place()
        self._launch = launch() if self._place is None else None
        if self._place is not None:
            last_word.prepare(self._place)
            show_when_asked()
        if _present:
            raise OrderError(
                "this process has a Session already; give it all objects at once: "
                "Session(model=..., optimizer=..., loader=...), or close() the first"
            )
        self._adapter: StateAdapter = adapter_for(objects)
        self._pulse = OwnPulse(self._say)
        self._tether: Tether | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._layout: Layout | None = None
        self._slots: dict[tuple[int, int], Slot] = {}
        self._shared_range = range(0)
        self._chunk_bytes = 0
        self._standing = Standing(step=-1, held=None, closed=True)
        self._unfence: Callable[[], None] | None = None
        self._steps = self._captured = self._skipped = 0
        self._blocked_s = self._copied_s = 0.0
        _present.append(self)

    def restore(self) -> int:
        """The live objects have the newest complete step afterwards; returns it.

        0 on a first start. Waits while copies come from other machines.
        Raises: StateError when the state does not fit the live objects."""
        if self._standing.step >= 0:
            raise OrderError("restore() was called already; call it once, at the start")
        self._warn()
        step = 0
        reached = reach(self._place, self._launch, connect_s_max=CONNECT_S_MAX)
        if reached is None:
            self._say(
                "started by hand: no step is protected. Start the script with "
                "`twinstep run`, torchrun, srun or mpirun"
            )
        else:
            self._tether, self._place = reached
            if self._launch:  # nobody else sees how such a rank ends
                atexit.register(self._close)
            step = load(self._tether, self._adapter, self._place, self._pulse)
            self._thread = threading.Thread(
                target=self._listen, name="twinstep-twin", daemon=True
            )
            self._thread.start()
        self._warn()
        self._unfence = self._adapter.fence(self.fence)
        self._standing = Standing(step=step, held=None, closed=True)
        self._pulse.step_begins(step, self._adapter)
        return step

    def after_step(self, step: int) -> None:
        """Step `step` is reached; it will be captured while training goes on.

        Args:
          step: how many updates the state has seen; one more than the last time.

        Raises: OrderError when it is not the next step."""
        began_s = time.perf_counter()
        last = self._standing.step
        if last < 0:
            raise OrderError("call start = session.restore() before after_step")
        if step != last + 1:
            raise OrderError(
                f"after_step({step}) after step {last}; allowed is {last + 1}: call it "
                "once after each update, with the number of updates so far"
            )
        self.fence()  # for loops without an optimizer that could be hooked
        held = self._hold(step) if self._tether is not None else None
        with self._changed:
            self._standing = Standing(step=step, held=held)
            self._changed.notify_all()
        self._steps += 1
        self._pulse.step_begins(step, self._adapter)
        if self._place is not None:
            self._send(
                say.Reached(rank=self._place.rank, round=self._place.round, step=step)
            )
        self._blocked_s += time.perf_counter() - began_s

    def fence(self) -> None:
        """The state may change afterwards: a copy under way has ended.

        Called before every update of a known optimizer; call it yourself before you
        change the state in another way."""
        began_s = time.perf_counter()
        with self._changed:
            standing = self._standing
            self._changed.wait_for(lambda: not standing.copying)
            standing.closed = True
        self._blocked_s += time.perf_counter() - began_s

    @property
    def protects(self) -> bool:
        """Whether an agent is there to keep steps."""
        return self._tether is not None

    def wait_captured(self, *, seconds_max: float) -> Outcome:
        """Returns what came of the last step, once its copy is made or will not be.
        The state may change afterwards, as after fence()."""
        began_s = time.perf_counter()
        outcome = self._standing.wait_settled(
            self._changed, lambda: not self.protects, seconds_max=seconds_max
        )
        self._blocked_s += time.perf_counter() - began_s
        self.fence()
        return outcome

    def statistics(self) -> Statistics:
        counts = (self._steps, self._captured, self._skipped)
        return Statistics(*counts, self._blocked_s, self._copied_s)

    def close(self) -> None:
        """The session ends; the agent keeps what was captured. Safe to repeat."""
        self._close(well=True)

    def _close(self, *, well: bool | None = None) -> None:
        if self not in _present:
            return
        well = not hasattr(sys, "last_value") if well is None else well
        with self._changed:
            _present.remove(self)
            self._changed.notify_all()  # the twin may wait for a step
        self.fence()
        self._pulse.close()
        if self._unfence is not None:
            self._unfence()
        if self._tether is not None and self._place is not None:
            place, step = self._place, max(0, self._standing.step)
            if well:
                self._send(say.Leaving(rank=place.rank, round=place.round, step=step))
            self._tether.close()
        if self._thread is not None:
            self._thread.join(timeout=CONNECT_S_MAX)
        self._give_up_slots()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        self._close(well=error is None)

    # In the training thread.

    def _hold(self, step: int) -> Held | None:
        """Takes what may change soon; lays the state out when it has to."""
        try:
            if self._layout is None:
                self._lay_out()
            return self._adapter.hold(step)
        except LayoutChanged as error:
            self._layout = None
            self._say(f"step {step} is not captured: {error}")
        except Exception as error:
            if self._captured == 0:
                raise  # at start, what cannot be captured is the user's to know
            self._say(f"step {step} is not captured: {type(error).__name__}: {error}")
        return None

    def _lay_out(self) -> None:
        assert self._place is not None
        place = self._place
        self._layout = layout = self._adapter.layout()
        self._shared_range = cut(
            layout.shared_bytes, parts=place.ranks_per_machine, index=place.local_rank
        )
        message = say.Layout(
            rank=place.rank,
            round=place.round,
            own_bytes=layout.own_bytes,
            shared_bytes=len(self._shared_range),
            shared_digest=self._adapter.shared_digest(),
        )
        self._send(message)

    def _send(self, message: say.FromRank) -> None:
        tether = self._tether  # the other thread may find it gone at any time
        if tether is None:
            return
        try:
            tether.send(message)
        except OSError:
            self._lost()

    def _lost(self) -> None:
        """The agent is gone; training goes on without protection."""
        with self._changed:
            lost, self._tether = self._tether, None
            self._changed.notify_all()
        if lost is None:
            return
        lost.close()
        if self in _present:
            self._say("the agent is gone: steps are not protected any more")

    # In the twin thread.

    def _listen(self) -> None:
        tether = self._tether
        assert tether is not None
        while self in _present:
            try:
                self._hear(tether, tether.receive(None))
            except (OSError, DeadlinePassed):
                return self._lost()
            except Exception as error:  # training must not end with this thread
                self._say(f"{type(error).__name__}: {error}")

    def _hear(self, tether: Tether, message: say.ToRank) -> None:
        match message:
            case say.Slots():
                self._give_up_slots()
                descriptors = tether.take(len(message.slots))
                self._chunk_bytes = message.chunk_bytes
                self._slots = {
                    (info.shard, info.slot): adopt(descriptor)
                    for info, descriptor in zip(message.slots, descriptors, strict=True)
                }
            case say.Capture():
                self._capture(message)
            case say.Unshare():
                self._adapter.unshare()
                self._layout = None
                self._say(message.reason)
            case say.Fail():
                self._give_up_slots()
                self._say(message.reason)
            case say.Admit():
                pass  # said once, before there was a session
            case say.Welcome():
                tether.leave(len(message.slots) + message.pulse)

    def _give_up_slots(self) -> None:
        for slot in self._slots.values():
            slot.close()
        self._slots = {}

    def _capture(self, answer: say.Capture) -> None:
        """Copies the state into its slots, if it still stands at the step."""
        if not answer.capture:
            return self._settle(answer.step, *Came.refused(again=answer.again))
        assert self._place is not None
        rank, round = self._place.rank, self._place.round
        if self._turn(answer) is Turn.LATER:
            self._settle(answer.step, Came.PASSED)
        with self._changed:
            self._changed.wait_for(lambda: self._turn(answer) is not Turn.LATER)
            standing = self._standing
            late = self._turn(answer) is not Turn.NOW
            ready = standing.held is not None and bool(self._slots)
            standing.copying = copying = not late and ready
        reason, digests = "", Digests()
        if copying:
            try:
                finish = self._copy(standing, answer)
                self._open(standing)
                digests = finish()
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
            finally:
                self._open(standing)
        if copying and not reason:
            self._captured += 1
            told = {shard: digests.shared for shard, _ in self._slots if shard != rank}
            told[rank] = digests.own
            told = {shard: each for shard, each in told.items() if each}
            self._send(
                say.Captured(rank=rank, round=round, step=answer.step, digests=told)
            )
            return self._settle(answer.step, Came.CAPTURED)
        self._skipped += 1
        self._settle(answer.step, Came.FAILED, reason or "its turn came too late")
        self._send(say.Skipped(rank=rank, round=round, step=answer.step, reason=reason))

    def _settle(self, step: int, came: Came, reason: str = "") -> None:
        with self._changed:
            self._standing.settle(step, Outcome(came, reason))
            self._changed.notify_all()

    def _turn(self, answer: say.Capture) -> Turn:
        """What is due; too late when the session ends, or the agent is gone."""
        gone, standing = self not in _present or self._tether is None, self._standing
        due = turn(answer.step, standing=standing.step, closed=standing.closed)
        return Turn.LATE if gone else due

    def _open(self, standing: Standing) -> None:
        """The fence opens: the next update may run."""
        with self._changed:
            standing.copying = False
            self._changed.notify_all()

    def _copy(self, standing: Standing, answer: say.Capture) -> Callable[[], Digests]:
        """Reads the live state; the bytes are in the slots when what is returned
        has been called."""
        assert standing.held is not None and self._place is not None
        began_s = time.perf_counter()
        rank = self._place.rank
        shared = [
            slot.view
            for (shard, index), slot in self._slots.items()
            if shard != rank and index == answer.shared_slot
        ]
        finish = self._adapter.copy(
            standing.held,
            own=self._slots[rank, answer.own_slot].view,
            shared=shared[0] if shared else memoryview(bytearray()),
            shared_range=self._shared_range,
            chunk_bytes=self._chunk_bytes,
        )
        self._copied_s += time.perf_counter() - began_s
        return finish

    def _warn(self) -> None:
        while self._adapter.warnings:
            self._say(self._adapter.warnings.pop(0))

    def _say(self, text: str) -> None:
        who = f"rank {self._place.rank}" if self._place is not None else "session"
        tell(f"twinstep: {who}: {text}", error=True)


def present() -> Session | None:
    """Returns this process's session, if there is one."""
    return _present[0] if _present else None


__all__ = ["Session", "Statistics", "TwinstepError", "present"]
