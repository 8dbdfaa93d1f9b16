"""What a machine knows of its steps and of the copies in them, for whoever asks.

The answer to a Question about traffic: the profile, what is planned to go when, and the
last steps as they were observed with the chunks that went in them. Plain data; times in
a step are seconds since it began.
"""

from __future__ import annotations

import msgspec

from twinstep.agent.messages import Message
from twinstep.agent.pacing import Pacing
from twinstep.agent.worker import Worker
from twinstep.schedule.record import Observed

STEPS_SHOWN = 4
"""The last steps that were observed."""
NO_SPAN = -1


class TimedSpan(msgspec.Struct, frozen=True, kw_only=True):
    """An idle span of the profile."""

    after: int
    """Operations of the step that have ended when it begins."""
    start_s: float
    mean_s: float
    min_s: float
    planned_bytes: int
    """Of copies, in the steps that the plan is for."""


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that went."""

    began_s: float
    ended_s: float
    size: int
    after: int
    """Names the span that it was let into; NO_SPAN for none."""


class ObservedStep(msgspec.Struct, frozen=True, kw_only=True):
    step: int
    length_s: float
    busy: list[tuple[float, float]]
    """Start and end of training's operations."""
    sent: list[Carried]


class Timeline(Message, frozen=True, kw_only=True, tag=True):
    """Steps and copies of one machine."""

    machine: str
    machine_rank: int
    mode: str
    profiling: bool
    """A profile is being made, the first or a new one."""
    step_s: float
    """Mean length of a step; 0 before there is a profile."""
    deviation: float
    """How far steps are from the profile, on average."""
    spans: list[TimedSpan]
    link_bytes_per_s: float
    startup_s: float
    copies_bytes: list[int]
    """What is sent for one step."""
    needs_s: float
    """How long the link carries that."""
    every: int
    """The spans of so many steps hold it; 0: none that is allowed does."""
    unfitted_bytes: int
    steps: list[ObservedStep]
    sent_bytes: int
    """Since there was a plan, without copies that make lost redundancy again."""
    in_span_bytes: int
    """Of those, let go as in a span."""
    judged_bytes: int
    """Of those, in steps that were observed to their end."""
    clear_bytes: int
    """Of those, what met no operation of training."""
    arrived_bytes: int = 0
    """Of copies that arrived since the agent began."""
    spared_bytes: int = 0
    """Of those, what their holders had already and was not sent."""


def timeline_of(pacing: Pacing, worker: Worker) -> Timeline:
    """Returns what there is to tell now."""
    plan, record = pacing.plan, pacing.record
    spans = () if plan is None else plan.profile.spans
    return Timeline(
        machine=worker.machine,
        machine_rank=worker.machine_rank,
        mode=pacing.settings.mode,
        profiling=pacing.profiling,
        step_s=plan.profile.step_s if plan else 0.0,
        deviation=plan.profile.deviation if plan else 0.0,
        spans=[
            TimedSpan(
                after=span.after,
                start_s=span.start_s,
                mean_s=span.mean_s,
                min_s=span.min_s,
                planned_bytes=plan.timetable.planned_bytes(index) if plan else 0,
            )
            for index, span in enumerate(spans)
        ],
        link_bytes_per_s=plan.link.bytes_per_s if plan else 0.0,
        startup_s=plan.link.startup_s if plan else 0.0,
        copies_bytes=list(plan.copies_bytes) if plan else [],
        needs_s=plan.needs_s if plan else 0.0,
        every=plan.timetable.every if plan else 1,
        unfitted_bytes=plan.timetable.unfitted_bytes if plan else 0,
        steps=[_step(one) for one in record.observed()[-STEPS_SHOWN:]],
        sent_bytes=record.sent_bytes,
        in_span_bytes=record.in_span_bytes,
        judged_bytes=record.judged_bytes,
        clear_bytes=record.clear_bytes,
        arrived_bytes=record.arrived_bytes,
        spared_bytes=record.spared_bytes,
    )


def _step(observed: Observed) -> ObservedStep:
    step = observed.step
    return ObservedStep(
        step=step.step,
        length_s=step.length_s,
        busy=list(step.busy),
        sent=[
            Carried(
                began_s=chunk.began_s - step.began_s,
                ended_s=chunk.ended_s - step.began_s,
                size=chunk.size,
                after=NO_SPAN if chunk.after is None else chunk.after,
            )
            for chunk in observed.sent
        ],
    )
