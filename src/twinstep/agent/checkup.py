"""Lets each probe of a machine look every few seconds, in a thread of its own.

A probe that waits for a hung disk keeps its own thread, and nobody else; it is said to
be late once, and looks again when it has come back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from twinstep.agent.probes import Probe
from twinstep.agent.wellbeing import Finding, Wellbeing, warning
from twinstep.clock import monotonic_s
from twinstep.config import Health


class Checkup:
    """The probes of a machine at work, and what they found.

    `post` runs a function in the agent's loop; there `on_change(failing, warnings)` is
    called when there is something new to tell."""

    def __init__(
        self,
        probes: Sequence[Probe],
        health: Health,
        *,
        post: Callable[[Callable[[], None]], None],
        on_change: Callable[[str, list[str]], None],
    ) -> None:
        self._health, self._post, self._on_change = health, post, on_change
        self._wellbeing = Wellbeing(failures_max=health.failures_max)
        self._began_s: dict[str, float] = {}
        """Per probe that looks now, since when."""
        self._ended = threading.Event()
        for probe in probes:
            threading.Thread(
                target=self._run,
                args=(probe,),
                name=f"twinstep-probe-{probe.name}",
                daemon=True,  # it may wait for a disk for ever
            ).start()

    def _run(self, probe: Probe) -> None:
        while not self._ended.is_set():
            self._began_s[probe.name] = monotonic_s()
            try:
                finding = probe.check()
            except Exception as error:
                finding = warning(f"{type(error).__name__}: {error}")
            self._began_s.pop(probe.name, None)
            if not self._ended.is_set():
                self._post(lambda finding=finding: self._take(probe.name, finding))
            self._ended.wait(self._health.check_s)

    def _take(self, name: str, finding: Finding) -> None:
        if self._wellbeing.take(name, finding):
            self._tell()

    def tick(self) -> None:
        """Notices probes that have not answered in time."""
        now_s, after_s = monotonic_s(), self._health.check_s_max
        for name, began_s in list(self._began_s.items()):
            late = now_s - began_s > 1.5 * after_s  # a program is ended before
            if late and self._wellbeing.late(name, after_s):
                self._tell()

    def _tell(self) -> None:
        self._on_change(self._wellbeing.failing, self._wellbeing.warnings)

    def close(self) -> None:
        """No probe looks again."""
        self._ended.set()
