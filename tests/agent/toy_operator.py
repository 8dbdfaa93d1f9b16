"""The toy's cloud operator: one machine for each request, whoever makes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from twinstep.agent import actions as do

if TYPE_CHECKING:
    from tests.agent.toy import Toy


@dataclass
class ToyOperator:
    given: dict[str, str] = field(default_factory=dict)
    """Per request the machine that was given for it."""

    def give(self, toy: Toy, term: int, ask: do.AskMachine) -> None:
        if ask.request not in self.given:
            self.given[ask.request] = f"m{toy.names:02d}"
            toy.add_machine()
        toy.push(self.answers, toy, term, ask)

    def answers(self, toy: Toy, term: int, ask: do.AskMachine) -> None:
        """The root hears who was given and, if that one is dead by now, that too."""
        at, name = toy.roots.get(term), self.given[ask.request]
        if at is None:
            return
        requests, here = at.root.requests, name in at.root.roster.joined
        told = requests.answered(
            ask.lost, ask.attempt, name, "", here=here, now_s=toy.now_s
        )
        if name not in toy.machines and not here:
            told += requests.ended(name, "killed")
        toy.act(term, list(told))
