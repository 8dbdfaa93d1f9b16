"""Decides, before each piece of a copy, whether it may have the network now.

A timetable of clock times would be wrong as soon as a step is late. So a span is known
by what is observed: it begins when as many operations of the step have ended as the
profile says and `lead` of its usual length is past, since an operation that is over
here may still be under way elsewhere; it lasts `mu` of that length. A piece goes when
it will be off the link before that, behind what was let go before it:

    operations   ███n███                                    ███n+1███
    span after n        ├ lead ┼──────── mu * mean ────────┤
    pieces                     [ 1 ][ 2 ]   ▲ now: piece 3 goes if it ends here ┤
    link                             free ──┘

It waits while training uses the network, whatever the profile says; nothing here ever
holds training back. What did not fit into the spans of the steps that were planned goes
into the end of a step, after its last operation, which the paper (GEMINI, SOSP 2023,
section 5.3, doi 10.1145/3600006.3613145) takes for endless; here it, too, waits while
the network is busy, so that a collective meets no more than what is on its way.

Protection comes first. Without a profile, or where nobody tells of traffic, copies go
at once. A copy that is `hold_s_max` later than planned takes any moment without
traffic, and after twice that goes in any: a step that is never safe costs more than a
slow one.

Left out: taking back what is on its way, and threads: one caller at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from twinstep.schedule.profile import Profile, Seen, Span
from twinstep.schedule.pulse import Beat
from twinstep.schedule.timetable import Link, Timetable
from twinstep.schedule_settings import Schedule

PATIENCE = 0.5
"""Of the time until the next span began in the step before, so much is waited before
another look: a few looks find its beginning, where a look every millisecond would cost
processors that compute, and a step that is early loses half of what it is early by."""
TICK_S = 1e-6
"""The shortest wait: a clock of float seconds would not advance by much less."""


class Moment(NamedTuple):
    """What training does with a machine's link at this moment."""

    step: int
    ended: int
    """Operations of this step that are over."""
    busy: bool
    since_s: float
    """When the last of them ended; when the step began, before the first."""
    began_s: float = -math.inf
    """When the step began; minus infinity where that is not known."""


class Go(NamedTuple):
    """A piece may go, of at most so many bytes: whole chunks, or the copy's end."""

    bytes_max: int
    span: int | None
    """Operations after which the span comes that it goes into; None: into no span."""


class Wait(NamedTuple):
    """Nothing may go. Ask again after `seconds`."""

    seconds: float
    reason: str


def moment(beats: Iterable[Beat]) -> Moment | None:
    """Returns what the ranks of a machine do together; None when none of them tells.

    A step is the machine's when one of its ranks has begun it, as `profile.merge` has
    it. Of a rank that is still in the step before only counts whether it is busy."""
    fed = [beat for beat in beats if beat.fed]
    if not fed:
        return None
    step = max(beat.step for beat in fed)
    here = [beat for beat in fed if beat.step == step]
    began_ns = min(beat.began_ns for beat in here)
    changed_ns = [beat.changed_ns for beat in here if beat.started]
    return Moment(
        step=step,
        ended=sum(beat.ended for beat in here),
        busy=any(beat.busy for beat in fed),
        since_s=max(changed_ns, default=began_ns) / 1e9,
        began_s=began_ns / 1e9,
    )


@dataclass(slots=True, kw_only=True)
class Gate:
    """The gate of a machine's link. All its copies ask here."""

    settings: Schedule
    link: Link
    _profile: Profile | None = None
    _spans: dict[int, Span] = field(default_factory=dict[int, Span])
    _due_s: float = 0.0
    # What a copy takes as planned.
    _overflows: bool = False
    # Not all fits into the spans.
    _free_s: float = -math.inf
    # When the link will have carried what was let go.
    _filled: tuple[int, int] | None = None
    # Step and span of the last piece of the mode `naive`.
    _last: Seen | None = None
    # The newest step that was like those of the profile.

    def follow(self, profile: Profile, timetable: Timetable) -> None:
        """From now on these hold."""
        self._profile = profile
        self._spans = {span.after: span for span in profile.spans}
        self._due_s = timetable.steps * profile.step_s
        self._overflows = timetable.unfitted_bytes > 0

    def saw(self, step: Seen) -> None:
        """A step is over. Profiles are made while copies still go at once and make
        operations longer, so when a span begins is better known from the last step."""
        if self._profile is None or len(step.busy) != self._profile.operations:
            return
        self._last = step

    def ask(
        self,
        now: Moment | None,
        *,
        wanted_bytes: int,
        held_s: float,
        now_s: float,
        queued_bytes: int = 0,
    ) -> Go | Wait:
        """Returns whether a piece may go now; one that may counts as sent.

        Args:
          now: what training does; None where nobody tells.
          wanted_bytes: what is left of the copy, from a chunk's beginning.
          held_s: how long ago the copy might have begun to go.
          queued_bytes: what the kernel has of pieces and was not acknowledged yet. A
            send buffer takes a piece long before the link does."""
        assert wanted_bytes > 0, wanted_bytes
        if self.settings.mode == "off" or now is None or self._profile is None:
            return Go(wanted_bytes, None)
        queue_s = queued_bytes / self.link.bytes_per_s
        free_s = max(self._free_s, now_s + queue_s)
        ahead_s = free_s - now_s - self._ahead_s_max
        if ahead_s > 0:
            return Wait(
                max(ahead_s, TICK_S), "the link is still busy with the pieces before"
            )
        late_s = held_s - self._due_s
        if late_s > 2 * self.settings.hold_s_max:
            return self._go(self._piece(wanted_bytes), None, now_s)
        patient = late_s <= self.settings.hold_s_max
        wait_s = self._next_look_s(now, now_s) if patient else self.settings.poll_s
        if now.busy:
            return Wait(wait_s, "training uses the network")
        span = self._spans.get(now.ended)
        size = 0
        if span is not None and self.settings.mode == "naive":
            size = self._fill(now, wanted_bytes)
        elif span is not None:
            # A step without operations is under way nowhere.
            lead = self.settings.lead if self._profile.operations else 0.0
            begins_s = now.since_s + lead * span.mean_s
            if patient and now_s < begins_s:
                return Wait(
                    max(begins_s - now_s, TICK_S),
                    f"operation {now.ended} may be under way elsewhere",
                )
            ends_s = begins_s + self.settings.mu * span.mean_s
            room_s = ends_s - max(now_s, free_s)
            size = self.link.fits_bytes(room_s, wanted_bytes)
        if span is not None and size > 0:
            return self._go(size, span.after, now_s)
        if not patient or self._open(now, self._profile):
            return self._go(self._piece(wanted_bytes), None, now_s)
        return Wait(
            wait_s,
            f"no span is known after operation {now.ended}"
            if span is None
            else f"the span after operation {now.ended} has no room left",
        )

    @property
    def _ahead_s_max(self) -> float:
        """With p pieces on their way, as many less one may be before a new one."""
        pieces = self.link.buffers if self.settings.pipeline else 1
        return (pieces - 1) * self.link.takes_s(self.link.piece_bytes)

    def _open(self, now: Moment, profile: Profile) -> bool:
        """Whether this is a moment for what has no span: any, where steps have no
        traffic, or no two are alike; else the end of a step, if the spans overflow."""
        if profile.operations == 0:
            return True
        spans = self.settings.mode == "spans"
        return spans and self._overflows and now.ended >= profile.operations

    def _next_look_s(self, now: Moment, now_s: float) -> float:
        """How long to wait for the next span: part of the time until it began in the
        last step; poll_s once that is near, or where it cannot be known."""
        profile, last, poll_s = self._profile, self._last, self.settings.poll_s
        if profile is None or not profile.spans or last is None:
            return poll_s
        if self._overflows and now.ended + 1 >= profile.operations:
            return poll_s  # The end of a step is open, and has no span.
        ended_s = [0.0, *sorted(end_s for _, end_s in last.busy)]
        ahead = (ended_s[s.after] for s in profile.spans if s.after > now.ended)
        next_s = next(ahead, last.length_s + ended_s[profile.spans[0].after])
        # Where it is not known when the step began, this is minus infinity.
        return max(poll_s, PATIENCE * (now.began_s + next_s - now_s))

    def _piece(self, wanted_bytes: int) -> int:
        return min(wanted_bytes, self.link.piece_bytes)

    def _fill(self, now: Moment, wanted_bytes: int) -> int:
        """One piece as large as all buffers, once in a span, however long that is."""
        if self._filled == (now.step, now.ended):
            return 0
        self._filled = (now.step, now.ended)
        return min(wanted_bytes, self.link.whole_chunks(self.link.buffer_bytes))

    def _go(self, size: int, span: int | None, now_s: float) -> Go:
        self._free_s = max(now_s, self._free_s) + self.link.takes_s(size)
        return Go(size, span)
