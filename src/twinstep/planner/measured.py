"""What recoveries cost, as a soak measured them on real processes.

`twinstep soak --json FILE` writes each failure with its moments, in seconds from the
blow. Taken are the medians of killed ranks and of killed machines: until noticed, until
the root had decided, and from there until the first new step, of which reading is a
part that a plan computes from bytes instead.
"""

from __future__ import annotations

import dataclasses
from statistics import median

import msgspec

from twinstep.errors import ConfigError
from twinstep.planner.policies import Costs

PROCESS_KINDS = ("kill-rank",)
MACHINE_KINDS = ("kill-machine", "kill-root")
BLOWS_MIN = 3
"""Of each cause, so that a median says something."""


class _Failure(msgspec.Struct, frozen=True):
    kind: str
    recoveries: int
    moments: dict[str, float]


class _Soak(msgspec.Struct, frozen=True):
    failures: list[_Failure]


def costs_of(text: bytes, costs: Costs, *, option: str) -> Costs:
    """Returns `costs` with what a soak's file measured in them.

    Raises: ConfigError for a file that a soak did not write, or that has too few."""
    try:
        soak = msgspec.json.decode(text, type=_Soak)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"{option} is no file that `twinstep soak --json` wrote: {error}"
        ) from error
    needed = {"detected", "decided", "first step"}
    came = [f for f in soak.failures if f.recoveries and needed <= set(f.moments)]
    process = [f.moments for f in came if f.kind in PROCESS_KINDS]
    machine = [f.moments for f in came if f.kind in MACHINE_KINDS]
    for name, found in (("killed ranks", process), ("killed machines", machine)):
        if len(found) < BLOWS_MIN:
            raise ConfigError(
                f"{option} has {len(found)} {name} that were recovered from; at least "
                f"{BLOWS_MIN} are needed: `twinstep soak --kills 20 --json FILE`"
            )
    start_s = median(_start_s(moments) for moments in process)
    return dataclasses.replace(
        costs,
        detect_process_s=median(moments["detected"] for moments in process),
        detect_machine_s=median(moments["detected"] for moments in machine),
        decide_s=median(m["decided"] - m["detected"] for m in [*process, *machine]),
        start_s=start_s,
        standby_s=max(0.0, median(_start_s(m) for m in machine) - start_s),
        source=f"{option}: {len(process)} killed ranks, {len(machine)} killed machines",
    )


def _start_s(moments: dict[str, float]) -> float:
    """From the decision until the first new step, without reading."""
    ranks_up = moments.get("ranks up", moments["decided"])
    reading = max(0.0, moments.get("loaded", ranks_up) - ranks_up)
    return moments["first step"] - moments["decided"] - reading
