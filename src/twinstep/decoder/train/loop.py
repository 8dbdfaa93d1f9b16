"""The single controller: one readable loop that restores, steps, and says each step.

    state, start = session.restore(like=state)
    for k in range(start, steps):
        batch = feed.take()                      batch k, made ahead by a thread
        state, metrics = step(state, batch)
        session.after_step(k + 1, state)

Every stretch of it is an event of the ledger. The loop waits for each step's numbers
before the next: what a step took is then its own time, and on a CPU nothing is lost by
it. With several processes (ranks.py) the same loop runs in each; arrays are global,
each process feeds its rows, and GSPMD puts the collectives into the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax

from twinstep.decoder.train.feed import Feed, Source
from twinstep.decoder.train.ledger import Ledger
from twinstep.decoder.train.metrics import Metrics
from twinstep.decoder.train.step import State

Hook = Callable[[int, State, Ledger], None]
"""Called after each step with its number, the state, and the ledger, in which it says
what it spends time on."""


class Protection(Protocol):
    """What the loop asks of a session; twinstep.Session satisfies it."""

    def restore(self, *, like: Any) -> tuple[Any, int]: ...

    def after_step(self, step: int, state: Any) -> None: ...

    def statistics(self) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What a loop runs with.

    `place` puts a whole batch where the step wants it; `hooks` run after each step."""

    step: Any
    source: Source
    steps: int
    session: Protection
    ledger: Ledger
    metrics: Metrics
    place: Callable[[Any], Any] = jax.device_put
    last_step: Callable[[], int] | None = None
    """Asked before each step for the number of the last one, where that may change; it
    must be the same on every rank, and a few steps ahead when it does."""
    hooks: Sequence[Hook] = field(default_factory=tuple)


def train(state: State, controls: Controls) -> State:
    """Returns the state after the last step.

    Args:
      state: the first one; where a session has a newer one, training goes on there.

    Raises: whatever a batch, a step or a hook raises."""
    session, ledger, metrics = controls.session, controls.ledger, controls.metrics
    with ledger.event("checkpoint_restore") as span:
        state, start = session.restore(like=state)
        span.step = start
    metrics.begin(start)
    compiled: Any = None
    feed = Feed(controls.source, start=start, stop=controls.steps, place=controls.place)
    with closing(feed), closing(metrics):
        for k in range(start, controls.steps):
            if controls.last_step is not None and k >= controls.last_step():
                break
            with ledger.event("data_wait") as waited:
                batch = feed.take()
            if compiled is None:
                with ledger.event("compile"):
                    compiled = controls.step.lower(state, batch).compile()
            with ledger.event("step", step=k + 1) as stepped:
                state, found = compiled(state, batch)
                numbers = {name: float(found[name]) for name in sorted(found)}
                stepped.kept = bool(numbers["finite"])
            with ledger.event("checkpoint_save", step=k + 1) as saved:
                session.after_step(k + 1, state)
            numbers |= {
                "tokens_per_s": numbers["tokens"] / max(1e-9, stepped.took_s),
                "step_s": stepped.took_s,
                "data_wait_s": waited.took_s,
                "after_step_s": saved.took_s,
            }
            metrics.add(k + 1, numbers)
            if metrics.is_due(k + 1):
                metrics.show(k + 1, numbers | _standing(controls, k + 1))
            for hook in controls.hooks:
                hook(k + 1, state, ledger)
    return state


def _standing(controls: Controls, step: int) -> dict[str, float]:
    """How the run stands, for the console."""
    summary = controls.ledger.summary()
    each_s = summary.goodput_s / max(1, summary.step)
    return {
        "goodput": summary.goodput,
        "copied": controls.session.statistics().captured,
        "left_s": each_s * (controls.steps - step),
    }
