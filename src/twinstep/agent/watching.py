"""Watches the machine's network interface, where ranks do not tell of their traffic.

A rank whose framework has no hooks (schedule/pulse.py: not `fed`) tells only when its
steps begin. Then the interface's counters, sampled every millisecond, show what
training does: afterwards, for the profile, and as it happens, for the gate. Sampling
goes on from the first such step until the ranks tell or the agent ends; it costs one
or two parts in a hundred of a core, which counters.py measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

from twinstep.agent.counters import Counters, interface_of
from twinstep.errors import ConfigError
from twinstep.schedule.bursts import Bursts
from twinstep.schedule.gate import Moment
from twinstep.schedule.profile import Seen, from_counters
from twinstep.schedule.pulse import Beat, StepSeen
from twinstep.schedule_settings import Schedule

LOOPBACK = "lo"
MARGIN_S = 0.1
"""So much longer than a step is looked at, as its first sample is from before it."""


@final
class Watching:
    """One machine's. The caller holds a lock around each call."""

    def __init__(
        self, settings: Schedule, host: str, own_bytes: Callable[[], int]
    ) -> None:
        """`host` is the address at which other machines reach this one; `own_bytes`
        tells what copies have moved so far."""
        self._settings, self._host, self._own_bytes = settings, host, own_bytes
        self._counters: Counters | None = None
        self._bursts = Bursts(
            quiet_bytes_per_s=settings.quiet_bytes_per_s,
            span_s_min=settings.span_s_min,
        )
        self.failure = ""
        """Why there is nothing to be seen; empty when there is."""

    def start(self) -> None:
        """The interface is sampled from now on."""
        if self._counters is not None or self.failure:
            return
        try:
            name = interface_of(self._host)
        except ConfigError as error:
            self.failure = str(error)
            return
        if name == LOOPBACK:
            self.failure = "copies do not leave this computer"
            return
        self._counters = Counters(name, self._own_bytes)
        self._counters.start()

    def stop(self) -> None:
        if self._counters is not None:
            self._counters.stop()
            self._counters = None

    def seen(self, over: StepSeen) -> Seen | None:
        """Returns a step that is over as the counters saw it; None before they did."""
        counters = self._counters
        if counters is None:
            return None
        began_s, ended_s = over.began_ns / 1e9, over.ended_ns / 1e9
        samples = counters.since(began_s - MARGIN_S)
        if not samples or samples[0].at_s > began_s:
            return None  # sampling began later
        return from_counters(
            samples,
            step=over.step,
            began_s=began_s,
            ended_s=ended_s,
            quiet_bytes_per_s=self._settings.quiet_bytes_per_s,
            span_s_min=self._settings.span_s_min,
        )

    def moment(self, beats: Sequence[Beat], now_s: float) -> Moment | None:
        """Returns what training does now; None where that cannot be seen."""
        counters = self._counters
        if counters is None or not beats:
            return None
        step = max(beat.step for beat in beats)
        if step != self._bursts.step:
            began_ns = min(beat.began_ns for beat in beats if beat.step == step)
            self._bursts.begins(step, began_ns / 1e9)
        for sample in counters.since(self._bursts.taken_s):
            self._bursts.take(sample)
        return self._bursts.moment(now_s)
