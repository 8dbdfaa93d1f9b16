"""Injures a running job, one planned blow after the other, and takes down the rest.

Before a blow the job must be ready: it trains, some steps have passed, the newest
steps are safe and every copy exists again. A blow that comes `soon` waits for nothing
but the first new step, and is never one that takes a machine: with two copies, no
second machine may be lost before redundancy is restored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from twinstep.agent.status import Status
from twinstep.clock import now_s
from twinstep.demo.faults import Blow, Missed, Scene
from twinstep.demo.job import RunningJob, Sight
from twinstep.demo.kinds import FAULTS
from twinstep.demo.record import Failure, failure_of
from twinstep.errors import UsageError

SAFE_BEHIND_MAX = 2
"""The newest safe step is so close to the newest step when copies keep up: one is
being made, and the root tells of it a step later."""

AFTER_S = 2.0
"""What a blow that has been mended may still bring about comes within this time: a
lease that was not renewed meanwhile lapses."""

ATTEMPTS_MAX = 8
"""How often a blow is tried whose victim is gone, or whose moment is over, before it
is given up."""

LOOK_AGAIN_S = 0.5
"""Before another attempt: what a status says is up to so old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A blow to come."""

    kind: str
    after_steps: int
    """New steps before it."""
    moment_s: float
    """It falls so long after the job was seen to be ready: at any point of a step."""
    soon: bool = False
    """As early as after the first new step, whether or not anything is safe."""


def is_training(sight: Sight) -> bool:
    """The last recovery is over, and the status is of the time after it."""
    status = sight.status
    if status is None or status.phase != "training" or status.step == 0:
        return False
    if len(status.machines) == 0 or not any(m.ranks for m in status.machines):
        return False
    if not sight.recoveries:
        return True
    last = sight.recoveries[-1]
    return last.done and status.at_s > last.first_step_s


def is_settled(sight: Sight) -> bool:
    """Every copy exists, and those of the newest steps are safe."""
    status = sight.status
    if status is None or not is_training(sight):
        return False
    redundant = not sight.recoveries or sight.recoveries[-1].redundant_s > 0
    return redundant and 0 < status.step - SAFE_BEHIND_MAX <= status.safe


def is_ready(sight: Sight, planned: Planned, from_step: int) -> bool:
    """Whether the planned blow may fall, when training went on at `from_step`."""
    if planned.soon:
        return is_training(sight)
    stored = sight.status.stored if sight.status is not None else 0
    if FAULTS[planned.kind].loses_memory and stored <= from_step:
        return False  # nothing newer than the last blow is in storage yet
    return is_settled(sight) and sight.step >= from_step + planned.after_steps


def strike(job: RunningJob, planned: Planned, random: Random) -> Failure:
    """One blow has fallen, and the job has made a new step since.

    Raises: DeadlinePassed naming what did not come; Missed when the blow never fell;
    UsageError when it cannot be mended."""
    for attempt in range(1, ATTEMPTS_MAX + 1):
        sight = _await_ready(job, planned)
        assert sight.status is not None
        settled, before = is_settled(sight), len(sight.recoveries)
        time.sleep(planned.moment_s)
        at_step = job.look_at_losses()[-1].step
        scene = Scene(
            status=job.ground.outside(sight.status), ground=job.ground, now_s=now_s
        )
        try:
            blow = FAULTS[planned.kind].strike(scene, random)
        except (Missed, UsageError) as error:
            # The moment is over, or the victim gone: another round has begun.
            if attempt == ATTEMPTS_MAX:
                raise Missed(f"{ATTEMPTS_MAX} attempts: {error}") from error
            time.sleep(LOOK_AGAIN_S)
            continue
        blow = replace(blow, aims=blow.aims + attempt - 1)
        return _outcome(
            job,
            planned,
            blow,
            before,
            settled=settled,
            safe=_lasting(sight.status, planned),
            at_step=at_step,
        )
    raise AssertionError("the last attempt returns or raises")


def _lasting(status: Status, planned: Planned) -> int:
    """The step that must outlive the blow."""
    return status.stored if FAULTS[planned.kind].loses_memory else status.safe


def _await_ready(job: RunningJob, planned: Planned) -> Sight:
    """Returns the first sight in which the blow may fall."""
    recoveries = job.look().recoveries
    from_step = recoveries[-1].step if recoveries else 0
    return job.wait(
        f"step {from_step + planned.after_steps} and safe copies, so that a "
        f"{planned.kind} may come",
        lambda sight: is_ready(sight, planned, from_step),
        limit_s=job.plan.steps_s_max,
    )


def _outcome(
    job: RunningJob,
    planned: Planned,
    blow: Blow,
    before: int,
    *,
    settled: bool,
    safe: int,
    at_step: int,
) -> Failure:
    fault = FAULTS[planned.kind]
    _mend(job, planned, blow)

    def over(sight: Sight) -> bool:
        new = sight.recoveries[before:]
        if not new and not fault.recovers:
            return is_settled(sight)
        return bool(new) and new[-1].done and is_training(sight)

    sight = job.wait(
        f"a recovery from {planned.kind} of {blow.who}",
        over,
        limit_s=job.plan.recover_s_max,
    )
    if fault.takes_machine:
        sight = job.wait(
            f"every copy again after {planned.kind} of {blow.who}",
            is_settled,
            limit_s=job.plan.recover_s_max,
        )
    assert sight.status is not None
    return failure_of(
        planned.kind,
        blow,
        sight.recoveries[before:],
        style=job.plan.style,
        began_s=job.began_s,
        at_step=at_step,
        settled=settled and fault.recovers and not fault.loses_memory,
        safe_before=safe,
        cost_max=fault.cost_max,
        clock_ahead_s=job.ground.clock_ahead_s(sight.status.root),
    )


def _mend(job: RunningJob, planned: Planned, blow: Blow) -> None:
    """A blow that lasts has lasted, and is mended whatever happens meanwhile; after
    that, steps have been made."""
    if blow.mend is None:
        return
    try:
        job.wait(
            f"the end of {planned.kind} of {blow.who}",
            lambda sight: sight.at_s >= blow.struck_s + blow.lasts_s,
            limit_s=blow.lasts_s + job.plan.steps_s_max,
        )
    finally:
        blow.mend()
    mended_s = now_s()
    job.wait(
        f"steps after {planned.kind} of {blow.who}",
        lambda sight: sight.at_s > mended_s + AFTER_S and is_training(sight),
        limit_s=job.plan.recover_s_max,
    )


def injure(
    job: RunningJob,
    plan: Sequence[Planned],
    random: Random,
    tell: Callable[[Failure], None],
) -> list[str]:
    """Every planned blow has fallen, or met no moment to fall in; the job trains again.
    Returns the blows that did not fall, and why."""
    missed: list[str] = []
    for planned in plan:
        assert not (planned.soon and FAULTS[planned.kind].takes_machine)
        try:
            failure = strike(job, planned, random)
        except Missed as error:
            missed.append(f"{planned.kind}: {error}")
            continue
        tell(failure)
    return missed
