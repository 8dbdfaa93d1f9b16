"""Decides when a machine is asked for again.

A machine that was asked for may never come: it died before it joined, or there was none
to be had. Then it is asked for once more under another name, so often and no more. The
names are the same whoever is root: a new root that walks through them gets the answers
that the old one got, and no second machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from twinstep.agent.actions import AskMachine, Log


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
    failed: set[str] = field(default_factory=set[str])
    """Machines that were given and are known never to join."""

    def recall(self, asked: Mapping[str, int]) -> list[AskMachine]:
        """What the former root had under way is asked for again, by the same names."""
        return [self._ask(lost, attempt) for lost, attempt in sorted(asked.items())]

    def first(self, lost: str, reason: str) -> AskMachine | None:
        """A machine was lost; None where that was asked for already."""
        return None if lost in self.open else self._ask(lost, 1, reason)

    def _ask(self, lost: str, attempt: int, reason: str = "") -> AskMachine:
        self.open[lost] = attempt
        self.again_s.pop(lost, None)
        reason = reason or f"{lost} was lost"
        return AskMachine(lost=lost, attempt=attempt, reason=reason)

    def joined(self, machine: str) -> bool:
        """A machine is here; returns whether it had been asked for."""
        self.failed.discard(machine)
        lost = self.given.pop(machine, None)
        return lost is not None and self.open.pop(lost, 0) > 0

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
            if attempt < self.asks_max:
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
        if attempt >= self.asks_max:
            text = f"{why}; that was attempt {attempt} to replace {lost}, the last one"
            return [Log(text=text)]
        return [Log(text=why), self._ask(lost, attempt + 1, f"{lost} was lost; {why}")]
