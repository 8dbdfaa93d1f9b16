"""Speaks with the cloud operator, in a thread of its own.

An operator's call may take seconds (a scheduler, a cloud) and may fail: neither holds
up a decision, a vote or a write. What waits is bounded, one call for each thing to be
said; a call that failed is made again. Before each call the store is asked whether
this machine is still root, since a root that was paused must not give back a machine
that its successor trains with.

Left out: an end to a call that never returns. Its thread is left behind, and named.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, final, runtime_checkable

from twinstep.agent.kv import Compare
from twinstep.clock import monotonic_s
from twinstep.config import Timing

ENDED = "ended"
LOOK_S = 0.5
"""How often the operator is asked what became of requests."""


class Answer(Protocol):
    """What became of a request: a machine's name, or empty and the reason."""

    @property
    def machine(self) -> str: ...

    @property
    def reason(self) -> str: ...


class Given(Protocol):
    """A machine that was given, and how it is."""

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> str: ...

    @property
    def reason(self) -> str: ...


class Operator(Protocol):
    """The part of a cloud operator (cloud/operator.py) that a root uses."""

    def ask(self, request: str, *, reason: str) -> None: ...

    def answer(self, request: str) -> Answer | None: ...

    def give_back(self, machine: str, *, reason: str) -> None: ...

    def machines(self) -> Sequence[Given]: ...


@runtime_checkable
class Fenced(Protocol):
    """An operator that is asked through the key-value store, and can compare there."""

    fence: Sequence[Compare]


@dataclass(slots=True, kw_only=True)
class _Open:
    """A request under way."""

    machine: str = ""
    """Who was given for it; nobody yet when empty."""


@final
class Errands:
    """What a root says to its operator, and hears from it.

    `may()` asks whether this machine is root; `on_answer(request, machine, reason)` and
    `on_ended(machine, reason)` are called in the thread, once for each."""

    def __init__(
        self,
        operator: Operator,
        *,
        timing: Timing,
        may: Callable[[], bool],
        on_answer: Callable[[str, str, str], None],
        on_ended: Callable[[str, str], None],
        log: Callable[[str], None],
    ) -> None:
        self._operator, self._timing, self._may = operator, timing, may
        self._on_answer, self._on_ended, self._log = on_answer, on_ended, log
        self._changed = threading.Condition()
        self._calls: dict[str, Callable[[], None]] = {}
        self._open: dict[str, _Open] = {}
        self._ended = False
        self._thread: threading.Thread | None = None
        self._since: tuple[float, str] | None = None
        self._slow = self._failing = ""

    def ask(self, request: str, *, reason: str) -> None:
        def call() -> None:
            self._operator.ask(request, reason=reason)
            self._open.setdefault(request, _Open())

        self._push(f"request {request}", call)

    def give_back(self, machine: str, *, reason: str) -> None:
        call = partial(self._operator.give_back, machine, reason=reason)
        self._push(f"return of {machine}", call)

    def joined(self, machine: str) -> None:
        """The machine is here: nobody needs to look for it any more."""
        for request, known in list(self._open.items()):
            if known.machine == machine:
                self._open.pop(request, None)

    def forget(self) -> None:
        """This machine is no longer root: the next one says it all again."""
        with self._changed:
            self._calls.clear()
            self._open.clear()

    def tick(self) -> None:
        """Names a call that takes long."""
        since = self._since
        if since is None or since[1] == self._slow:
            return
        taken_s = monotonic_s() - since[0]
        if taken_s > self._timing.operator_s_max:
            self._slow = since[1]
            self._log(f"the cloud operator takes {taken_s:.0f} s and more: {since[1]}")

    def close(self, timeout_s: float) -> None:
        """What waits is said, if that is possible within `timeout_s`."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _push(self, what: str, call: Callable[[], None]) -> None:
        with self._changed:
            self._calls[what] = call
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="twinstep-operator", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        looked_s = 0.0
        while True:
            with self._changed:
                if not self._calls and not self._ended:
                    self._changed.wait(LOOK_S if self._open else None)
                if self._ended and not self._calls:
                    return
                what = next(iter(self._calls), "")
                call = self._calls.pop(what) if what else None
            if call is not None and not self._made(what, call):
                with self._changed:
                    if self._ended:
                        return
                    self._calls.setdefault(what, call)
                    self._changed.wait(LOOK_S)
            if self._open and monotonic_s() - looked_s > LOOK_S:
                looked_s = monotonic_s()
                self._made("its answers", self._look)

    def _made(self, what: str, call: Callable[[], None]) -> bool:
        """Makes a call, as root; False when it failed and is to be made again."""
        self._since = monotonic_s(), what
        try:
            if self._may():
                call()
            else:
                self._log(f"the operator was not told ({what}): another is root")
                self.forget()
        except Exception as error:  # an operator's own library may raise anything
            if self._failing != what:
                self._failing = what
                self._log(f"the cloud operator failed ({what}): {error!r}")
            return False
        finally:
            self._since = None
        return True

    def _look(self) -> None:
        """Hears what became of the requests, and of the machines given for them."""
        for request, known in list(self._open.items()):
            answer = None if known.machine else self._operator.answer(request)
            if answer is None:
                continue
            known.machine = answer.machine
            if not answer.machine:
                self._open.pop(request, None)
            self._on_answer(request, answer.machine, answer.reason)
        waited = {known.machine: r for r, known in list(self._open.items())}
        if not any(waited):
            return
        for machine in self._operator.machines():
            if machine.state == ENDED and machine.name in waited:
                self._open.pop(waited[machine.name], None)
                self._on_ended(machine.name, machine.reason)
