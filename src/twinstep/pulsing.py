"""A rank's own pulse: its agent's page, on which steps and collectives are told.

The session tells of steps, the adapter of collectives, from whatever thread they end
in. Without an agent, or without a page, nothing is told, and the adapter is not asked
to watch. Nothing here ends training: what goes wrong is said once, and the rank goes
on without a pulse.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import final

from twinstep import clock
from twinstep.adapters.state import StateAdapter
from twinstep.errors import ProtocolError
from twinstep.schedule.pulse import Pulse
from twinstep.store.memory import Slot, adopt


@final
class OwnPulse:
    """This rank's page, once it has come. Used in the training thread."""

    def __init__(self, complain: Callable[[str], None]) -> None:
        self._complain = complain
        self._page: Slot | None = None
        self._pulse: Pulse | None = None
        self._unwatch: Callable[[], None] | None = None

    def adopt(self, descriptor: int) -> None:
        """The page behind the descriptor, which is owned from now on, is this rank's.
        The same page may come again, beside a second welcome."""
        if self._page is not None:
            os.close(descriptor)
            return
        try:
            self._page = adopt(descriptor)
            self._pulse = Pulse(self._page.view, threading.RLock())
        except (OSError, ProtocolError) as error:
            if self._page is None:
                os.close(descriptor)
            self._complain(f"its collectives are not told to its agent: {error}")

    def step_begins(self, step: int, adapter: StateAdapter) -> None:
        """Training goes on from `step`; `adapter` watches from the first one on."""
        if self._pulse is None:
            return
        self._pulse.step_begins(step, clock.monotonic_ns())
        if self._unwatch is None:
            self._unwatch = adapter.watch(self._pulse, self._complain)

    def close(self) -> None:
        """Nothing is told any more. Safe to repeat."""
        if self._unwatch is not None:
            self._unwatch()
        self._pulse = self._unwatch = None
        if self._page is not None:
            self._page.close()  # a collective that ends late keeps it mapped
