"""Holds Begin back until the plan is in the store.

The next root knows a round's machines from the plan alone. If a round began before its
plan was saved and its root was lost then, nobody would know that a job had begun, and
whose machine is missing: it would not be asked for. So a root says Begin once the plan
of that round, or a newer one, is written. Copies, votes and everything else wait for no
store.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twinstep.agent import messages as say


@dataclass(slots=True, kw_only=True)
class Begins:
    """The words of one reign that wait for its plan. Of the newest round only."""

    unsaved: int = 0
    """Plans that were to be saved and are not known to be."""
    waiting: list[tuple[str, say.Begin]] = field(
        default_factory=list[tuple[str, say.Begin]]
    )

    def saves(self) -> None:
        """A plan is about to be saved."""
        self.unsaved += 1

    def holds(self, machine: str, message: say.FromRoot) -> bool:
        """Whether `machine` must not be told this yet."""
        if not self.unsaved or not isinstance(message, say.Begin):
            return False
        self.waiting = [one for one in self.waiting if one[1] is message]
        self.waiting.append((machine, message))
        return True

    def saved(self) -> list[tuple[str, say.Begin]]:
        """A plan is in the store, or a newer one instead; returns who is told now."""
        self.unsaved -= 1
        if self.unsaved:
            return []
        told, self.waiting = self.waiting, []
        return told
