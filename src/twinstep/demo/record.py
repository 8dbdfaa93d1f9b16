"""What came of each failure, and whether two runs ended in the same bits.

Plain values and the JSON that is made of them. A failure's times are counted from the
blow. "Lost" is what should not be: more than one step gone, a step that was safe, a
damaged copy that was not named, a job that did not end well, or a bit that differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from twinstep.agent.record import Recovery
from twinstep.demo.faults import STEPS_LOST_MAX, Blow

MOMENTS = (
    ("detected", "detected_s"),
    ("decided", "decided_s"),
    ("machine ready", "machine_ready_s"),
    ("ranks up", "ranks_up_s"),
    ("loaded", "loaded_s"),
    ("first step", "first_step_s"),
    ("redundant", "redundant_s"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One blow and the recovery from it. Times in seconds since the blow."""

    kind: str
    style: str
    who: str
    what: str
    detail: str
    at_step: int
    """The newest step when the blow fell."""
    struck_s: float
    """Since the start of the run."""
    detected_s: float
    resumed_s: float
    redundant_s: float
    source: str
    steps_lost: int
    restored_step: int
    settled: bool
    """The copies of the last steps had time to become safe before the blow."""
    moments: dict[str, float]
    recoveries: int = 1
    """How many it took; none where training went on."""
    aims: int = 1
    """How often it was aimed until its moment was met."""
    safe_before: int = 0
    """The newest step that was known to be safe before the blow."""
    cost_max: int = STEPS_LOST_MAX
    """Steps that a blow of its kind may cost where copies keep up."""
    reason: str = ""
    damaged: str = ""
    """The copy that was damaged on purpose, and must be named in `bad`."""
    bad: list[str] = field(default_factory=list[str])

    @property
    def lost(self) -> str:
        """What was lost that should not be, in words; empty if nothing."""
        if self.recoveries and self.restored_step < self.safe_before:
            return (
                f"{self.kind} of {self.who}: back at step {self.restored_step}, though "
                f"step {self.safe_before} was safe"
            )
        if self.settled and self.steps_lost > self.cost_max:
            return f"{self.kind} of {self.who} cost {self.steps_lost} steps"
        if self.damaged and not any(self.damaged in text for text in self.bad):
            return f"{self.damaged} was damaged, but not found to be bad"
        return ""


def failure_of(
    kind: str,
    blow: Blow,
    recoveries: Sequence[Recovery],
    *,
    style: str,
    began_s: float,
    at_step: int,
    settled: bool,
    safe_before: int = 0,
    cost_max: int = STEPS_LOST_MAX,
    clock_ahead_s: float = 0.0,
) -> Failure:
    """Returns what a blow led to; `recoveries` are those since, perhaps none. Their
    times are by a clock that is so much ahead of ours."""
    struck_s = blow.struck_s + clock_ahead_s
    facts: dict[str, Any] = {
        "kind": kind,
        "style": style,
        "who": blow.who,
        "what": blow.what,
        "detail": blow.detail,
        "at_step": at_step,
        "struck_s": round(blow.struck_s - began_s, 3),
        "settled": settled,
        "recoveries": len(recoveries),
        "aims": blow.aims,
        "safe_before": safe_before,
        "cost_max": cost_max,
    }
    if not recoveries:
        return Failure(
            **facts,
            detected_s=0.0,
            resumed_s=0.0,
            redundant_s=0.0,
            source="",
            steps_lost=0,
            restored_step=at_step,
            moments={},
        )
    first, last = recoveries[0], recoveries[-1]
    moments = {
        name: round(getattr(last, attribute) - struck_s, 3)
        for name, attribute in MOMENTS
        if getattr(last, attribute) > 0
    }
    moments["detected"] = round(first.detected_s - struck_s, 3)
    damaged = ""
    if blow.damaged is not None:
        damaged = f"{blow.damaged[0]}'s copy of shard {blow.damaged[1]}"
    return Failure(
        **facts,
        detected_s=moments["detected"],
        resumed_s=moments["first step"],
        redundant_s=moments.get("redundant", 0.0),
        source=last.source,
        steps_lost=max(0, max(each.reached for each in recoveries) - last.step),
        restored_step=last.step,
        moments=moments,
        reason=last.reason,
        damaged=damaged,
        bad=[text for each in recoveries for text in each.bad],
    )


Digests = dict[str, dict[str, dict[str, Any]]]
"""By rank, by name of a tensor or value: its size and digest."""


def read_digests(folder: Path) -> Digests:
    return {
        path.stem: json.loads(path.read_text())
        for path in sorted(folder.glob("rank*.json"))
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs' final states, part by part, on all ranks."""

    style: str
    parts: int
    size: int
    """Bytes that were compared."""
    differing: list[str]

    @property
    def identical(self) -> bool:
        return self.parts > 0 and not self.differing


def compare(style: str, left: Digests, right: Digests) -> Comparison:
    """Returns what differs; a part that only one run has differs."""
    differing: list[str] = []
    parts = size = 0
    for rank in sorted(left | right):
        mine, other = left.get(rank, {}), right.get(rank, {})
        for name in sorted(mine | other):
            parts += 1
            size += mine.get(name, {}).get("bytes", 0)
            if mine.get(name) != other.get(name):
                differing.append(f"{rank} {name}")
    return Comparison(style=style, parts=parts, size=size, differing=differing)


def report(
    failures: Sequence[Failure],
    comparisons: Sequence[Comparison],
    *,
    steps: int,
    timeline: Sequence[Mapping[str, Any]],
    **more: Any,
) -> dict[str, Any]:
    """Returns what `--json` writes, for the demo and the soak alike."""
    return {
        "failures": [asdict(failure) for failure in failures],
        "bit_identical": bool(comparisons) and all(c.identical for c in comparisons),
        "steps": steps,
        "timeline": list(timeline),
        "comparisons": [asdict(each) for each in comparisons],
        **more,
    }


def summary(failures: Sequence[Failure], *, kills: int) -> dict[str, Any]:
    """Returns the soak's sums: resumed runs, steps lost, times by kind."""
    lost = [failure.steps_lost for failure in failures]
    settled = [f.steps_lost for f in failures if f.settled]
    kinds = sorted({failure.kind for failure in failures})
    return {
        "kills": kills,
        "resumed": len(failures),
        "steps_lost_median": median(lost) if lost else None,
        "steps_lost_max": max(lost, default=None),
        "steps_lost_max_settled": max(settled, default=None),
        "recovery_s": {
            kind: _times([f.resumed_s for f in failures if f.kind == kind])
            for kind in kinds
        },
        "kinds": {
            kind: _of_kind([f for f in failures if f.kind == kind]) for kind in kinds
        },
    }


def _of_kind(failures: Sequence[Failure]) -> dict[str, Any]:
    """Returns how failures of one kind went; times in seconds since the blow, of those
    that led to a recovery."""
    came = [failure for failure in failures if failure.recoveries]
    return {
        "count": len(failures),
        "resumed": len(failures),
        "first_aim": sum(failure.aims == 1 for failure in failures),
        "aims_max": max((failure.aims for failure in failures), default=0),
        "recoveries": sum(failure.recoveries for failure in failures),
        "went_on": len(failures) - len(came),
        "steps_lost": {
            str(steps): sum(failure.steps_lost == steps for failure in failures)
            for steps in sorted({failure.steps_lost for failure in failures})
        },
        "steps_lost_max": max((f.steps_lost for f in failures), default=0),
        "decided_s": _times([f.moments["decided"] for f in came]) if came else None,
        "next_step_s": _times([f.resumed_s for f in came]) if came else None,
    }


def _times(times_s: Sequence[float]) -> dict[str, float]:
    return {
        "count": len(times_s),
        "median": round(median(times_s), 3),
        "max": round(max(times_s), 3),
    }
