"""One run of the demo's training from start to end, injured or not, and its record."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from twinstep.clock import now_s
from twinstep.demo.drive import Planned, injure
from twinstep.demo.ground import Ground, Loopback
from twinstep.demo.job import Loss, Plan, RunningJob
from twinstep.demo.record import MOMENTS, Digests, Failure, read_digests
from twinstep.demo.show import Screen
from twinstep.errors import TwinstepError

STEPS_AHEAD = 40
"""A run is stopped so many steps ahead: ranks are never more than one step apart."""


class TrialFailed(TwinstepError):
    """A run did not go as it should; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run left behind."""

    style: str
    name: str
    steps: int
    took_s: float
    began_s: float
    losses: list[Loss]
    failures: list[Failure]
    missed: list[str]
    """Blows that never fell, and why."""
    digests: Digests
    timeline: list[dict[str, Any]]


def train(
    plan: Plan,
    folder: Path,
    screen: Screen,
    *,
    blows: Sequence[Planned] = (),
    seed: int = 0,
    ground: Ground | None = None,
    end_s_max: float = 300.0,
) -> Run:
    """Returns the record of a run that has ended well, and left no process.

    Raises: DeadlinePassed or TrialFailed saying why it did not."""
    name = "injured" if blows else "undisturbed"
    screen.begins(f"{plan.style}, {name}", plan)
    failures: list[Failure] = []
    missed: list[str] = []

    def tell(failure: Failure) -> None:
        failures.append(failure)
        screen.failure(failure)

    job = RunningJob(plan, folder, screen.look, ground=ground or Loopback())
    with closing(job):
        job.wait("a first step", lambda s: s.step > 0, limit_s=plan.start_s_max)
        if blows:
            missed = injure(job, blows, Random(seed), tell)
            if plan.stoppable:
                job.stop_at(job.look().step + STEPS_AHEAD)
        status = job.wait_end(limit_s=end_s_max)
        if status:
            raise TrialFailed(
                f"{plan.style}, {name}: the job ended with status {status}; "
                f"its output is in {job.log_file}"
            )
    took_s = now_s() - job.began_s
    losses = job.look_at_losses()
    assert losses, "a run that has ended well has made a step"
    screen.ends(took_s)
    return Run(
        style=plan.style,
        name=name,
        steps=losses[-1].step,
        took_s=round(took_s, 3),
        began_s=job.began_s,
        losses=losses,
        failures=failures,
        missed=missed,
        digests=read_digests(job.digests_folder),
        timeline=timeline(plan.style, name, failures, took_s),
    )


def timeline(
    style: str, name: str, failures: Sequence[Failure], took_s: float
) -> list[dict[str, Any]]:
    """Returns what happened in a run, in order; seconds since its start."""
    order = [moment for moment, _ in MOMENTS]
    events: list[tuple[float, str]] = [(0.0, "start")]
    for failure in failures:
        events.append((failure.struck_s, f"{failure.kind}: {failure.who}"))
        events += [
            (failure.struck_s + failure.moments[moment], f"{failure.kind}: {moment}")
            for moment in order
            if moment in failure.moments
        ]
    events.append((took_s, "end"))
    return [
        {"at_s": round(at_s, 3), "style": style, "run": name, "event": event}
        for at_s, event in sorted(events, key=lambda event: event[0])
    ]
