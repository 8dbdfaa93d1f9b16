"""The policies that a plan compares, each with what it needs of a job's ways out.

    strawman       storage every 3 h (BLOOM), as GEMINI's baseline (section 7.1)
    highfreq       storage as often as its bandwidth lets it, the other baseline
    best interval  storage at Daly's interval, state staged in host memory first
    sharded        the same on storage that grows with the machines
    local disk     every machine's own disk, storage behind it
    gemini         as published: copies in memory every step, storage every 3 h
    twinstep       copies in memory every step, storage as often as it lets us

The first two and `gemini` write with torch.save as the paper did, 81 s for the 9.4 GB
of a rank, while training waits (baselines) or after the failure (`gemini`), and restart
as the paper measured it. The others copy tensors into host memory while training waits,
and write from there; they restart as quickly as twinstep does, though few systems do,
so that between those only where the state is kept makes a difference.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from twinstep.planner.failures import Failures
from twinstep.planner.job import Job
from twinstep.planner.policy import (
    Policy,
    Recovery,
    Tier,
    interval_best_s,
    interval_min_s,
)
from twinstep.planner.quantities import DAY_S, in_words_s

STRAWMAN_S = 3 * 3600.0
TORCH_SAVE_BYTES_PER_S = 9.375e9 / 81
"""Of a rank: 162 s for two replicas of 9.4 GB (GEMINI, section 7.3)."""
SEND_SHARE = 0.6
"""Of the network's speed, that sending reaches: 75 GB in 2.5 s at 400 Gbit/s (GEMINI,
Figure 8)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What recoveries cost that a plan cannot compute, in seconds. Measured where a
    soak was given (measured.py)."""

    detect_process_s: float = 0.08
    detect_machine_s: float = 1.2
    """Its lease lapses."""
    decide_s: float = 0.1
    """Until the root has chosen a step and who takes the place."""
    start_s: float = 1.5
    """From the decision until the first new step where ranks are warm."""
    connect_s: float = 30.0
    """What warm ranks do not save: collectives that connect over all machines, the
    first steps. An assumption, since it is the job's own; the paper's is 253 s."""
    standby_s: float = 0.1
    """What a standby machine takes longer than ranks of the same one."""
    replace_s: float = 330.0
    """4 to 7 min for a machine of a cloud (GEMINI, Figure 14)."""
    source: str = "defaults"


PUBLISHED = Recovery(
    detect_s={"process": 15.0, "machine": 15.0},
    replace_s=330.0,
    start_s=0.0,
    warm_up_s=253.0,
)
"""GEMINI, section 7.3 and Figure 14, with what it writes after a failure left out."""


def policies(job: Job, failures: Failures, costs: Costs) -> tuple[Policy, ...]:
    """Returns every policy for this job, those of the paper first."""
    return tuple(make(job, failures, costs) for make in MAKERS.values())


def strawman(job: Job, failures: Failures, costs: Costs) -> Policy:
    return _published(job, costs, name="strawman", interval_s=STRAWMAN_S)


def highfreq(job: Job, failures: Failures, costs: Costs) -> Policy:
    return _published(job, costs, name="highfreq", interval_s=0.0)


def _published(job: Job, costs: Costs, *, name: str, interval_s: float) -> Policy:
    """Storage every interval_s, or as often as it can; training waits for torch.save,
    which is a part of what a checkpoint takes (section 7.3)."""
    save_s = job.rank_bytes / TORCH_SAVE_BYTES_PER_S
    storage = _storage(job, interval_s=interval_s, save_s=save_s)
    return Policy(
        name=name,
        says=f"storage every {in_words_s(storage.interval_s)}",
        tiers=(storage,),
        slowdown=save_s / storage.interval_s,
        recovery=dataclasses.replace(PUBLISHED, replace_s=costs.replace_s),
    )


def best_interval(job: Job, failures: Failures, costs: Costs) -> Policy:
    speed = job.storage_bytes_per_s
    return _staged(job, failures, costs, name="best interval", bytes_per_s=speed)


def sharded(job: Job, failures: Failures, costs: Costs) -> Policy:
    speed = job.to_shards_bytes_per_s
    return _staged(job, failures, costs, name="sharded", bytes_per_s=speed)


def local_disk(job: Job, failures: Failures, costs: Costs) -> Policy:
    write_s = job.machine_bytes / job.disk_bytes_per_s
    stall_s = job.machine_bytes / job.to_host_bytes_per_s
    interval_s = _best(job, failures, stall_s=stall_s, write_s=write_s)
    disk = Tier(
        name="own disk",
        interval_s=interval_s,
        delay_s=stall_s + write_s,
        read_s={"process": write_s, "machine": write_s},
        copies=1,
    )
    storage = _storage(job, interval_s=0.0)
    return Policy(
        name="local disk",
        says=f"each machine's own disk every {in_words_s(interval_s)}, storage every "
        f"{in_words_s(storage.interval_s)}",
        tiers=(disk, storage),
        slowdown=stall_s / interval_s,
        recovery=_quick(costs),
    )


def gemini(job: Job, failures: Failures, costs: Costs) -> Policy:
    # Both of a machine's replicas, its own and a neighbour's, at once.
    save_s = (1 + job.sent_copies) * job.rank_bytes / TORCH_SAVE_BYTES_PER_S
    storage = _storage(job, interval_s=STRAWMAN_S)
    return Policy(
        name="gemini",
        says=f"{_memory_says(job)}, storage every {in_words_s(storage.interval_s)}",
        # Section 7.2 takes an iteration for t_ckpt.
        tiers=(memory(job, delay_s=every(job) * job.step_s), storage),
        recovery=dataclasses.replace(
            PUBLISHED, save_s=save_s, replace_s=costs.replace_s
        ),
        notes=_fit_note(job),
    )


def twinstep(job: Job, failures: Failures, costs: Costs) -> Policy:
    storage = _storage(job, interval_s=0.0)
    return Policy(
        name="twinstep",
        says=f"{_memory_says(job)}, storage every {in_words_s(storage.interval_s)}",
        tiers=(memory(job, delay_s=_until_safe_s(job)), storage),
        recovery=_quick(costs),
        notes=_fit_note(job),
    )


Maker = Callable[[Job, Failures, Costs], Policy]
MAKERS: Mapping[str, Maker] = {
    "strawman": strawman,
    "highfreq": highfreq,
    "best interval": best_interval,
    "sharded": sharded,
    "local disk": local_disk,
    "gemini": gemini,
    "twinstep": twinstep,
}


def send_s(job: Job) -> float:
    """Seconds of a machine's network that the copies of one step take."""
    sent = job.sent_copies * job.machine_bytes
    return sent / (SEND_SHARE * job.network_bytes_per_s)


def every(job: Job) -> int:
    """Steps between captures, so that copies fit into what a timetable plans with: mu
    of what training leaves idle; at most every_max, whether they fit or not."""
    planned_s = job.schedule.mu * job.idle_share * job.step_s
    if send_s(job) > planned_s * job.schedule.every_max:
        return job.schedule.every_max
    return max(1, math.ceil(send_s(job) / planned_s - 1e-9)) if send_s(job) else 1


def memory(job: Job, *, delay_s: float) -> Tier:
    """The copies in memory, as often as they fit."""
    read_s = job.machine_bytes / (SEND_SHARE * job.network_bytes_per_s)
    # A process's own machine has its state; back into the accelerators it is a copy.
    own_s = job.machine_bytes / job.to_host_bytes_per_s
    return Tier(
        name="memory",
        interval_s=every(job) * job.step_s,
        delay_s=delay_s,
        read_s={"process": own_s, "machine": read_s + own_s},
        copies=job.holders,
    )


def _until_safe_s(job: Job) -> float:
    """Copies go into the first idle spans of a step, and could be read as soon as the
    last piece is verified: after the part of the step whose spans hold them."""
    if not job.sent_copies:
        # Only captured, while the next step computes.
        return min(job.step_s, job.machine_bytes / job.to_host_bytes_per_s)
    interval_s = every(job) * job.step_s
    return min(interval_s, send_s(job) / max(job.idle_share, 1e-9))


def _quick(costs: Costs) -> Recovery:
    """A restart with warm ranks, and detection by leases."""
    return Recovery(
        detect_s={
            "process": costs.detect_process_s,
            "machine": costs.detect_machine_s,
        },
        decide_s=costs.decide_s,
        standby_s=costs.standby_s,
        replace_s=costs.replace_s,
        start_s=costs.start_s,
        warm_up_s=costs.connect_s,
    )


def _storage(job: Job, *, interval_s: float, save_s: float = 0.0) -> Tier:
    """Storage that all machines share, every interval_s or as often as it can."""
    write_s = job.state_bytes / job.storage_bytes_per_s
    least_s = interval_min_s(save_s + write_s, step_s=job.step_s)
    return Tier(
        name="storage",
        interval_s=max(interval_s, least_s),
        delay_s=save_s + write_s,
        read_s={"process": write_s, "machine": write_s},
    )


def _staged(
    job: Job, failures: Failures, costs: Costs, *, name: str, bytes_per_s: float
) -> Policy:
    """Storage at the interval that costs least; training waits for a copy into host
    memory only."""
    read_s = write_s = job.state_bytes / bytes_per_s
    if job.idle_share:
        # It, too, has only what training leaves of a machine's network.
        own_s = job.machine_bytes / job.network_bytes_per_s / job.idle_share
        write_s = max(write_s, own_s)
    stall_s = job.machine_bytes / job.to_host_bytes_per_s
    interval_s = _best(job, failures, stall_s=stall_s, write_s=write_s)
    storage = Tier(
        name="storage",
        interval_s=interval_s,
        delay_s=stall_s + write_s,
        read_s={"process": read_s, "machine": read_s},
    )
    return Policy(
        name=name,
        says=f"storage every {in_words_s(interval_s)}",
        tiers=(storage,),
        slowdown=stall_s / interval_s,
        recovery=_quick(costs),
    )


def _best(job: Job, failures: Failures, *, stall_s: float, write_s: float) -> float:
    """Daly's interval, in whole steps, and no shorter than a checkpoint takes."""
    per_day = failures.per_day(job.machines)
    between_s = DAY_S / per_day if per_day else 365 * DAY_S
    best_s = interval_best_s(stall_s, between_s=between_s)
    whole_s = max(1, round(best_s / job.step_s)) * job.step_s
    return max(whole_s, interval_min_s(stall_s + write_s, step_s=job.step_s))


def _memory_says(job: Job) -> str:
    return f"{job.holders} copies in memory every {in_words_s(job.step_s * every(job))}"


def _fit_note(job: Job) -> tuple[str, ...]:
    steps = every(job)
    if steps == 1:
        return ()
    return (
        f"copies need {in_words_s(send_s(job))} of the network and a step leaves "
        f"{in_words_s(job.idle_share * job.step_s)} idle: captured every {steps} steps",
    )
