"""Writes the timeline of each recovery while it happens.

A recovery is open from its cause to the first new step; failures in between belong to
it. The copies exist again some time after that, which is noted as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from twinstep.agent.actions import SaveRecovery
from twinstep.agent.messages import CopyBad
from twinstep.agent.record import Recovery
from twinstep.recovery.choice import Choice

BAD_MAX = 256
"""Bad copies that one recovery's record names, each cut to REASON_CHARS_MAX."""
REASON_CHARS_MAX = 400
ALSO_MAX = 64
"""Failures that one recovery's record names besides its cause; the rest is counted."""


@dataclass(slots=True, kw_only=True)
class Chronicle:
    """The recoveries of a job, of which the last may be open."""

    count: int = 0
    last: Recovery | None = None

    @property
    def open(self) -> Recovery | None:
        """The recovery under way."""
        return self.last if self.last is not None and not self.last.done else None

    def failed(
        self,
        kind: str,
        who: str,
        reason: str,
        *,
        now_s: float,
        round: int,
        reached: int,
    ) -> None:
        """Something failed: a recovery begins, or goes on with one failure more."""
        record = self.open
        if record is None:
            self.count += 1
            self.last = Recovery(
                number=self.count,
                round=round,
                kind=kind,
                who=who,
                reason=reason,
                detected_s=now_s,
                reached=reached,
            )
            return
        if len(record.also) < ALSO_MAX:
            record.also.append(f"{kind} {who}: {reason}"[:REASON_CHARS_MAX])
        else:
            record.also_unnamed += 1
        if kind in ("machine", "root") and record.kind == "rank":
            # Survivors fail in their collective before the machine's lease lapses.
            record.kind, record.who, record.reason = kind, who, reason

    def moment(self, name: str, now_s: float) -> list[SaveRecovery]:
        """The open recovery has come to `name`, a field of Recovery."""
        record = self.open
        if record is None:
            return []
        setattr(record, name, now_s)
        return self.saved()

    def decided(self, choice: Choice, *, reached: int, now_s: float) -> int:
        """Every place is taken, and the step to go back to is known; returns how far
        the job had come, or 0 at a first start."""
        record = self.open
        if record is None:
            return 0
        record.reached = max(record.reached, reached)
        record.machine_ready_s = record.decided_s = now_s
        record.step = choice.step
        record.bad += choice.differing
        return record.reached

    def redundant(self, now_s: float) -> list[SaveRecovery]:
        """Every copy exists again."""
        if self.last is None or self.last.redundant_s:
            return []
        self.last.redundant_s = now_s
        return self.saved()

    def read_from(self, sources: Iterable[str]) -> None:
        """Shards were read from there."""
        record = self.open
        if record is not None:
            for source in sources:
                record.sources[source] = record.sources.get(source, 0) + 1

    def copy_bad(self, bad: CopyBad) -> str:
        """A copy was found to be bad, or not to be had; returns that in words."""
        what = "bad" if bad.corrupt else "not to be had"
        text = (
            f"{bad.holder}'s copy of shard {bad.shard} at step {bad.step} is {what}: "
            f"{bad.reason[:REASON_CHARS_MAX]} (found by {bad.machine})"
        )
        known = self.last.bad if self.last is not None else []
        if bad.corrupt and len(known) < BAD_MAX and text not in known:
            known.append(text)
        return text

    def stored_bad(self, reason: str) -> None:
        """A step in storage could not be loaded."""
        if self.last is not None and len(self.last.bad) < BAD_MAX:
            self.last.bad.append(reason[:REASON_CHARS_MAX])

    def saved(self) -> list[SaveRecovery]:
        """What keeps the last record in the store."""
        if self.last is None:
            return []
        raw = msgspec.json.encode(self.last)
        return [SaveRecovery(number=self.last.number, record=raw)]
