"""The pulses of a machine's ranks: one page each, made anew for each round.

The page goes to the rank beside its Welcome; the agent keeps a view of it and reads it
without asking anybody. It is memory of the agent's: a rank that dies leaves it, and
whoever still reads the page of an earlier round keeps it mapped. A machine that has no
memory left for a page goes on without: its copies are not kept out of training's way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import msgspec

from twinstep.agent import messages as say
from twinstep.schedule.pulse import PULSE_BYTES
from twinstep.store.memory import Slot


@final
class Pulses:
    """Makes and keeps pages, in the agent's loop."""

    def __init__(self, *, log: Callable[[str], None]) -> None:
        self._log = log
        self._round = 0
        self._pages: dict[int, Slot] = {}
        self._views: dict[int, memoryview] = {}

    @property
    def views(self) -> dict[int, memoryview]:
        """The pages of the present round, by rank. A view stays readable when the
        round is over; nobody writes to it any more."""
        return dict(self._views)

    def beside(self, rank: int, welcome: say.Welcome) -> tuple[say.Welcome, list[int]]:
        """Returns the word of welcome that names the rank's page, and its descriptor;
        without a page, the word as it was."""
        if welcome.round != self._round:
            self.close()
            self._round = welcome.round
        if rank not in self._pages:
            try:
                page = Slot.create("twinstep-pulse", capacity_bytes=PULSE_BYTES)
            except OSError as error:
                self._log(f"rank {rank} has no pulse, there is no memory: {error}")
                return welcome, []
            self._pages[rank] = page
            self._views[rank] = memoryview(page.view)
        told = msgspec.structs.replace(welcome, pulse=True)
        return told, [self._pages[rank].fd]

    def close(self) -> None:
        """The pages are given up here; views that were handed out stay."""
        for page in self._pages.values():
            page.close()
        self._pages.clear()
        self._views.clear()
