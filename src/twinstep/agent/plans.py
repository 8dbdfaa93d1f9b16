"""What a root writes down for the next one, and tells all when a round begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from twinstep.agent import messages as say, resizing
from twinstep.agent.ballot import Verdict
from twinstep.agent.record import Plan
from twinstep.recovery.choice import Choice

if TYPE_CHECKING:
    from twinstep.agent.root import Root


def plan_of(root: Root) -> Plan:
    """What the next root needs to know that it cannot ask the agents."""
    return Plan(
        round=root.round,
        members=list(root.roster.members),
        vacated=dict(root.roster.vacated),
        sizes=dict(root.layouts.sizes),
        shared=root.layouts.shared,
        may_share=root.layouts.may_share,
        recoveries=root.chronicle.count,
        fruitless=root.suspicion.guard.fruitless,
        asked=dict(root.requests.open),
        closed=dict(root.requests.closed),
        spent=dict(root.requests.spent),
        strikes=list(root.suspicion.strikes.known),
        struck=dict(root.roster.struck),
        seats=root.resizing.kept(),
        resized_in=root.resizing.since,
    )


def read_plan(raw: bytes | None, *, machines: int) -> tuple[Plan | None, str]:
    """Returns the plan, and what is wrong with it: what cannot be a plan of this job is
    as good as none."""
    if raw is None:
        return None, ""
    try:
        plan = msgspec.msgpack.decode(raw, type=Plan)
    except (ValueError, RecursionError) as error:
        return None, f"cannot be read: {error}"
    seats = plan.seats or range(machines)
    known = sorted(set(seats)) == list(seats) and all(s < machines for s in seats)
    if len(plan.members) not in (0, len(seats)) or not known:
        return None, f"has {len(plan.members)} machines: not ours"
    return plan, ""


def answer_of(root: Root, verdict: Verdict, begin: say.Begin) -> say.Answer:
    """What all members are told of a step that all have reported."""
    return say.Answer(
        round=root.round,
        term=root.term,
        step=verdict.step,
        keep=verdict.keep,
        capture=verdict.capture,
        at=verdict.at,
        store=root.draining.order(verdict.keep, root.now_s, begin),
        again=verdict.in_flight and not verdict.capture,
    )


def begin_of(root: Root, choice: Choice, *, master_port: int) -> say.Begin:
    """The round that all members are about to train in, from the step chosen."""
    return say.Begin(
        round=root.round,
        term=root.term,
        step=choice.step,
        captured_in=choice.captured_in,
        members=root.roster.addresses(),
        holders=root.holders,
        sources=choice.sources,
        sizes=dict(root.layouts.sizes),
        shared=root.layouts.shared,
        may_share=root.layouts.may_share,
        master_port=master_port,
        stored=choice.step > 0 and not choice.sources,
        resized_in=root.resizing.since,
    )


def recall(root: Root, plan: Plan) -> None:
    """The root knows what its predecessor has written down, but for who is there."""
    root.round = plan.round
    resizing.recall(root, plan)
    root.layouts.recall(plan)
    root.chronicle.count = plan.recoveries
    root.suspicion.guard.fruitless = plan.fruitless
    root.suspicion.strikes.known = list(plan.strikes)
