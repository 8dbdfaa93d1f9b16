"""The one object that a training loop holds: restore once, then say each step.

    session = twinstep.Session(model=model, optimizer=optimizer, loader=loader)
    start = session.restore()
    for step in range(start, steps):
        train_one_step()
        session.after_step(step + 1)

Where the state is a value and not objects, as in JAX, it is passed and returned:

    session = twinstep.Session()
    state, start = session.restore(like=state)
    for step in range(start, steps):
        state = update(state)
        session.after_step(step + 1, state)

after_step tells the agent that the step is reached and returns. When the root's answer
comes, the twin thread copies the state into the slot it names (twin.py), while the next
forward and backward pass run; a fence before the next update waits for it. The step to
copy may lie ahead: the twin waits for it. An answer that comes too late means that the
step is skipped: never torn, never waited for.

    training  update s | after_step | forward, backward s + 1 | fence | update s + 1
    twin                     Capture -> copy -> Captured

A step that cannot be captured is a warning, never an end of training. Left out:
frameworks (adapters), which step is captured (agent), where copies go (placement).
"""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Callable
from typing import TypeVar, overload

from twinstep import last_word
from twinstep.adapters.choice import adapter_for, adapter_like
from twinstep.adapters.state import StateAdapter, ValueAdapter
from twinstep.agent import messages as say
from twinstep.agent.own_stack import show_when_asked
from twinstep.arriving import reach
from twinstep.capture.snapshot import Held, LayoutChanged
from twinstep.capture.turn import Outcome, Standing, Statistics
from twinstep.environment import RankPlace, launch, rank_place
from twinstep.errors import OrderError, TwinstepError
from twinstep.loading import load
from twinstep.pulsing import OwnPulse
from twinstep.telling import tell
from twinstep.twin import Twin

CONNECT_S_MAX = 30.0
State = TypeVar("State")
_present: list[Session] = []
_NONE = object()
"""No state was passed: None is one."""


class Session:
    """Keeps every step of this rank in memory that outlives it.

    Args:
      objects: the state by name: modules, optimizers, schedulers, scalers, loaders,
        anything with state_dict and load_state_dict, and lists or dicts of them.
        None need be given where the state is a value: restore(like=...).

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
        self._objects = objects
        self._use(adapter_for(objects))
        self._pulse = OwnPulse(self._say)
        self._twin = Twin(self._say)
        self._unfence: Callable[[], None] | None = None
        self._steps = 0
        self._blocked_s = 0.0
        _present.append(self)

    @overload
    def restore(self) -> int: ...

    @overload
    def restore(self, *, like: State) -> tuple[State, int]: ...

    def restore(self, *, like: object = _NONE) -> int | tuple[object, int]:
        """The live objects have the newest complete step afterwards; returns it.

        0 on a first start. Waits while copies come from other machines.

        Args:
          like: in JAX the state itself, a pytree: it says structure, shapes, dtypes
            and shardings. Returns the state at the newest complete step with exactly
            these, and the step; on a first start `like` itself, and 0.

        Raises: StateError when the state does not fit the live objects, or `like`."""
        if self._twin.standing.step >= 0:
            raise OrderError("restore() was called already; call it once, at the start")
        if like is not _NONE:
            self._use(adapter_like(self._adapter, self._objects, like))
        elif self._values is not None:
            raise OrderError(
                "restore() without state; in JAX pass the first one: state, start = "
                "session.restore(like=state)"
            )
        self._warn()
        step = self._reach()
        self._warn()
        self._unfence = self._adapter.fence(self.fence)
        self._twin.stand(Standing(step=step, held=None, closed=True))
        self._pulse.step_begins(step, self._adapter)
        return step if self._values is None else (self._values.restored(), step)

    def after_step(self, step: int, state: object = _NONE) -> None:
        """Step `step` is reached; it will be captured while training goes on.

        Args:
          step: how many updates the state has seen; one more than the last time.
          state: in JAX, the state after this update.

        Raises: OrderError when it is not the next step."""
        began_s = time.perf_counter()
        twin = self._twin
        last = twin.standing.step
        if last < 0:
            raise OrderError("call start = session.restore() before after_step")
        if step != last + 1:
            raise OrderError(
                f"after_step({step}) after step {last}; allowed is {last + 1}: call it "
                "once after each update, with the number of updates so far"
            )
        if (self._values is None) is not (state is _NONE):
            raise OrderError(
                f"after_step({step}) {'without' if state is _NONE else 'with'} state; "
                "pass it if and only if restore(like=state) has returned one"
            )
        twin.wait_copied(closing=False)  # for loops whose optimizer cannot be hooked
        held = self._hold(step, state) if twin.tether is not None else None
        twin.stand(Standing(step=step, held=held))
        self._steps += 1
        self._pulse.step_begins(step, self._adapter)
        if twin.place is not None:
            twin.send(
                say.Reached(rank=twin.place.rank, round=twin.place.round, step=step)
            )
        self._blocked_s += time.perf_counter() - began_s

    def fence(self) -> None:
        """The state may change afterwards: a copy under way has ended.

        Called before every update of a known optimizer; call it yourself before you
        change the state in another way. In JAX it is for loops that donate the state:
        called right before each update, it saves the memory of one more state."""
        began_s = time.perf_counter()
        self._twin.wait_copied(closing=True)
        self._blocked_s += time.perf_counter() - began_s

    @property
    def protects(self) -> bool:
        """Whether an agent is there to keep steps."""
        return self._twin.tether is not None

    def wait_captured(self, *, seconds_max: float) -> Outcome:
        """Returns what came of the last step, once its copy is made or will not be.
        The state may change afterwards, as after fence()."""
        began_s = time.perf_counter()
        outcome = self._twin.standing.wait_settled(
            self._twin.changed, lambda: not self.protects, seconds_max=seconds_max
        )
        self._blocked_s += time.perf_counter() - began_s
        self.fence()
        return outcome

    def statistics(self) -> Statistics:
        twin = self._twin
        counts = (self._steps, twin.captured, twin.skipped)
        return Statistics(*counts, self._blocked_s, twin.copied_s)

    def close(self) -> None:
        """The session ends; the agent keeps what was captured. Safe to repeat."""
        self._close(well=True)

    def _close(self, *, well: bool | None = None) -> None:
        if self not in _present:
            return
        well = not hasattr(sys, "last_value") if well is None else well
        twin = self._twin
        _present.remove(self)
        twin.end()
        self.fence()
        self._pulse.close()
        if self._unfence is not None:
            self._unfence()
        if twin.tether is not None and twin.place is not None:
            place, step = twin.place, max(0, twin.standing.step)
            if well:
                twin.send(say.Leaving(rank=place.rank, round=place.round, step=step))
            twin.tether.close()
        if twin.thread is not None:
            twin.thread.join(timeout=CONNECT_S_MAX)
        twin.give_up_slots()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        self._close(well=error is None)

    def _use(self, adapter: StateAdapter) -> None:
        self._adapter = adapter
        self._values = adapter if isinstance(adapter, ValueAdapter) else None

    def _reach(self) -> int:
        """Returns the step that the state has, from whatever agent there is."""
        twin = self._twin
        reached = reach(self._place, self._launch, connect_s_max=CONNECT_S_MAX)
        if reached is None:
            self._say(
                "started by hand: no step is protected. Start the script with "
                "`twinstep run`, torchrun, srun or mpirun"
            )
            return 0
        twin.tether, self._place = reached
        twin.place, twin.adapter = self._place, self._adapter
        if self._launch:  # nobody else sees how such a rank ends
            atexit.register(self._close)
        step = load(twin.tether, self._adapter, self._place, self._pulse)
        twin.start()
        return step

    def _hold(self, step: int, state: object) -> Held | None:
        """Takes what may change soon; lays the state out when it has to."""
        try:
            if self._values is not None:
                self._values.offer(state)
            if self._twin.layout is None:
                self._twin.lay_out()
            return self._adapter.hold(step)
        except LayoutChanged as error:
            self._twin.layout = None
            self._say(f"step {step} is not captured: {error}")
        except Exception as error:
            if self._twin.captured == 0:
                raise  # at start, what cannot be captured is the user's to know
            self._say(f"step {step} is not captured: {type(error).__name__}: {error}")
        return None

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
