"""Decides when a machine is asked for again.

A machine that was asked for may never come: it died before it joined, or there was none
to be had. Then it is asked for once more under another name, so often and no more. The
names are the same whoever is root: a new root that walks through them gets the answers
that the old one got, and no second machine. A machine that comes back after another
was asked for in its place may be lost again: its old answers are spent then, or one
that has long had a place would be taken for the new one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twinstep.agent.actions import AskMachine, Log
from twinstep.agent.record import Plan

NAMES_MAX = 1024
"""Machines whose answered requests are remembered; more have to come back to be lost
twice before one is forgotten."""


@dataclass(slots=True, kw_only=True)
class Requests:
    """The machines that were asked for and have not joined yet.

    Invariant: at most one attempt for each lost machine is under way."""

    asks_max: int
    ask_again_s: float
    open: dict[str, int] = field(default_factory=dict[str, int])
    """Per lost machine the attempt under way."""
    given: dict[str, str] = field(default_factory=dict[str, str])
    """Per machine that was given and has not joined, the lost one it is for."""
    again_s: dict[str, float] = field(default_factory=dict[str, float])
    """Per lost machine for which there was none: when it is asked for again."""
    refused: set[str] = field(default_factory=set[str])
    """Lost machines for which there was none to be had, the last time either."""
    failed: set[str] = field(default_factory=set[str])
    """Machines that were given and are known never to join."""
    closed: dict[str, int] = field(default_factory=dict[str, int])
    """Per lost machine the attempt that brought another one."""
    spent: dict[str, int] = field(default_factory=dict[str, int])
    """Per machine that was back after another was asked for: the last such attempt."""

    def recall(self, plan: Plan) -> list[AskMachine]:
        """What the former root had under way is asked for again, by the same names."""
        self.closed, self.spent = dict(plan.closed), dict(plan.spent)
        asked = sorted(plan.asked.items())
        return [self._ask(lost, attempt) for lost, attempt in asked]

    def first(self, lost: str, reason: str) -> AskMachine | None:
        """A machine was lost; None where that was asked for already."""
        attempt = self.spent.get(lost, 0) + 1
        return None if lost in self.open else self._ask(lost, attempt, reason)

    def more(self, name: str) -> AskMachine:
        """A machine is wanted in place of none that was lost; whatever was given under
        this name before is not it."""
        assert name not in self.open, f"{name} is asked for already"
        attempt = self.closed.pop(name, 0) + 1
        _note(self.spent, name, attempt - 1)
        return self._ask(name, attempt, "the job lacks a machine")

    def _ask(self, lost: str, attempt: int, reason: str = "") -> AskMachine:
        self.open[lost] = attempt
        self.again_s.pop(lost, None)
        self.refused.discard(lost)
        reason = reason or f"{lost} was lost"
        return AskMachine(lost=lost, attempt=attempt, reason=reason)

    def joined(self, machine: str) -> bool:
        """A machine is here; returns whether it had been asked for."""
        self.failed.discard(machine)
        attempt = max(self.open.get(machine, 0), self.closed.pop(machine, 0))
        if attempt:
            _note(self.spent, machine, attempt)
        lost = self.given.pop(machine, None)
        if lost is None or lost not in self.open:
            return False
        # Who is back already may be lost for the second time.
        brought = self.spent if lost in self.spent else self.closed
        _note(brought, lost, self.open.pop(lost))
        return True

    def answered(
        self,
        lost: str,
        attempt: int,
        machine: str,
        reason: str,
        *,
        here: bool,
        now_s: float,
    ) -> list[AskMachine | Log]:
        """The operator gave a machine (that may be `here` already), or had none."""
        if self.open.get(lost) != attempt:
            return []
        if not machine:
            if self._is_last(lost):
                self.refused.add(lost)
            else:
                self.again_s[lost] = now_s + self.ask_again_s
            return []
        if machine in self.failed:
            return self._again(lost, f"{machine} was lost before it joined")
        self.given[machine] = lost
        if here:
            self.joined(machine)
        return []

    def ended(self, machine: str, reason: str) -> list[AskMachine | Log]:
        """A machine is gone that has no place and had not joined."""
        if machine in self.open:
            return []  # lost twice, in two ways; its successor may have its name
        self.failed.add(machine)
        lost = self.given.pop(machine, None)
        if lost is None or lost not in self.open:
            return []
        return self._again(lost, f"{machine} ended before it joined: {reason}")

    def due(self, now_s: float) -> list[AskMachine]:
        """Asks again where there was no machine for a while."""
        late = sorted(lost for lost, at_s in self.again_s.items() if at_s <= now_s)
        return [self._ask(lost, self.open[lost] + 1) for lost in late]

    def _again(self, lost: str, why: str) -> list[AskMachine | Log]:
        attempt = self.open[lost]
        if self._is_last(lost):
            text = f"{why}; that was attempt {attempt} to replace {lost}, the last one"
            return [Log(text=text)]
        return [Log(text=why), self._ask(lost, attempt + 1, f"{lost} was lost; {why}")]

    def _is_last(self, lost: str) -> bool:
        return self.open[lost] - self.spent.get(lost, 0) >= self.asks_max


def _note(attempts: dict[str, int], machine: str, attempt: int) -> None:
    """The newest NAMES_MAX machines are remembered."""
    attempts.pop(machine, None)
    attempts[machine] = attempt
    if len(attempts) > NAMES_MAX:
        del attempts[next(iter(attempts))]
