"""Time, chance and what happens next, for a whole simulated cluster.

A heap of moments; of two at the same time the one that was planned first comes first.
What takes time is written as a generator: it yields a number of seconds to sleep, or a
Signal to wait for. All chance comes from one seeded generator, so that a seed is a run.

    def blink(lamp: Lamp) -> Process:
        while True:
            lamp.on()
            yield 0.5
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias, TypeVar

Result = TypeVar("Result")


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Signal:
    """Something that may change: who waits for it looks again whenever it is set."""

    events: Events
    waiting: list[Task] = field(default_factory=list["Task"])

    def set(self) -> None:
        waiting, self.waiting = self.waiting, []
        for task in waiting:
            self.events.after(0.0, task.resume)


Step: TypeAlias = Generator["float | Signal", None, Result]
"""Part of a process that returns something; called by `yield from`."""
Process: TypeAlias = Generator["float | Signal", None, None]


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Task:
    """A running process. `end` means that it is never resumed again.

    `asleep_s` tells for how long whoever it belongs to does nothing at all."""

    events: Events
    process: Process
    asleep_s: Callable[[], float] | None = None
    over: bool = False

    def resume(self) -> None:
        if self.over:
            return
        if self.asleep_s is not None and (wait_s := self.asleep_s()) > 0:
            self.events.after(wait_s, self.resume)
            return
        try:
            wants = next(self.process)
        except StopIteration:
            self.over = True
            return
        if isinstance(wants, Signal):
            wants.waiting.append(self)
        else:
            self.events.after(wants, self.resume)

    def end(self) -> None:
        if not self.over:
            self.over = True
            self.process.close()


@dataclass(slots=True, kw_only=True, repr=False)
class Events:
    """What is to happen, in order.

    Invariant: now_s never falls."""

    random: Random
    now_s: float = 0.0
    count: int = 0
    """How many moments have passed."""
    probes: Counter[str] = field(default_factory=Counter[str])
    _serial: int = 0
    _heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = field(
        default_factory=list[tuple[float, int, Callable[..., None], tuple[Any, ...]]]
    )

    def after(self, delay_s: float, work: Callable[..., None], *arguments: Any) -> None:
        """`work(*arguments)` is done in `delay_s`."""
        assert delay_s >= 0, f"{work} in the past"
        self._serial += 1
        moment = (self.now_s + delay_s, self._serial, work, arguments)
        heapq.heappush(self._heap, moment)

    def start(
        self, process: Process, asleep_s: Callable[[], float] | None = None
    ) -> Task:
        """The process begins at once, before this returns, unless it sleeps."""
        task = Task(events=self, process=process, asleep_s=asleep_s)
        task.resume()
        return task

    def signal(self) -> Signal:
        return Signal(events=self)

    def next(self) -> None:
        """The next moment passes."""
        self.now_s, _, work, arguments = heapq.heappop(self._heap)
        self.count += 1
        work(*arguments)

    def probe(self, name: str, reached: bool = True) -> bool:
        """Counts a rare branch, and returns `reached`, so that it can wrap an `if`."""
        self.probes[name] += reached
        return reached

    def around(self, typical_s: float) -> float:
        """A duration that is mostly near `typical_s`, and now and then many times
        it: what is always equally long hides every race."""
        spread = self.random.expovariate(1.0)
        return typical_s * (0.5 + spread + (self.random.random() < 0.01) * 8 * spread)
