"""The cloud of a simulated cluster: gives machines, late, dead or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twinstep.sim.world import World

Answered = Callable[[str, str, str], None]
"""(request, machine or empty, reason)."""


@dataclass(slots=True, kw_only=True, repr=False)
class SimOperator:
    """Answers each request once, however often it is made."""

    world: World
    takes_s: float
    refuses: bool = False
    stillborn: int = 0
    """So many of the next machines die before they join."""
    answers: dict[str, str] = field(default_factory=dict[str, str])

    def ask(self, request: str, answered: Answered) -> None:
        events = self.world.events
        events.after(events.around(self.takes_s), self._give, request, answered)

    def _give(self, request: str, answered: Answered) -> None:
        if request not in self.answers:
            refused = self.world.events.probe("operator: no machine", self.refuses)
            self.answers[request] = "" if refused else self.world.add_machine()
            name = self.answers[request]
            if name and self.stillborn > 0:
                self.stillborn -= 1
                self.world.kill_machine(name)
        name = self.answers[request]
        answered(request, name, "" if name else "there is no machine")
        if name and name not in self.world.agents:
            # Whoever asks anew looks at what became of it.
            self.world.events.after(self.takes_s, self.world.operator_sees, name)

    def give_back(self, machine: str) -> None:
        """A root has given a machine up; it is ended some time later."""
        self.world.give_up(machine)
        events = self.world.events
        events.after(events.around(self.takes_s), self.world.kill_machine, machine)
