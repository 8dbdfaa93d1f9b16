"""Settings of detection: how long anybody waits, and what is watched.

A part of config.py, which says where settings come from.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from twinstep.errors import ConfigError
from twinstep.values import check_numbers

PROBES = ("disk", "memory", "errors", "nvidia")
LEAST = {
    "stack_rounds_max": 1,
    "stack_bytes_max": 1,
    "looks_min": 1,
    "strikes_max": 1,
    "failures_max": 1,
    "disk_bytes_min": 0,
    "memory_left_bytes_min": 0,
}
"""The smallest value of each whole number in Health."""
DERIVED = {
    "renew_s": 1 / 5,
    "tick_s": 1 / 15,
    "call_s_max": 4 / 3,
    "retake_s": 1 / 6,
    "campaign_s": 2.0,
}
"""Settings of Timing that follow from silence_s_max where they are not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long anybody waits for anybody. All in seconds."""

    silence_s_max: float = 1.5
    """A machine whose lease was not renewed for so long is lost. A lost machine
    must be decided upon within 2 s, which leaves half a second for the decision.
    The one setting of detection: those below that are 0 follow from it."""
    renew_s: float = 0.0
    """A lease is renewed so often. 0: five times within silence_s_max."""
    tick_s: float = 0.0
    """How often decisions look at the time. 0: a fifteenth of silence_s_max."""
    call_s_max: float = 0.0
    """One call to the key-value store. 0: 4/3 of silence_s_max."""
    retake_s: float = 0.0
    """A machine whose lease is gone while its connection to the root is open (or while
    a new root has none yet) may take its seat again for so long before it is lost:
    stores have ended leases that were renewed. 0: a sixth of silence_s_max, which is
    half of what that leaves for the decision."""
    campaign_s: float = 0.0
    """A standby stands for root only after the machines that train had so long to.
    0: twice silence_s_max."""
    stop_s_max: float = 0.0
    """Killed ranks are gone, and inventories here, within this time. 0: four times
    silence_s_max, and at least 10."""
    hang_s_min: float = 10.0
    """No step for so long, at least, before the ranks are looked at; one that a
    signal has stopped is then ended."""
    hang_s_max: float = 600.0
    """No step for so long is a hang although no rank is stopped: an evaluation or a
    save between two steps must not take longer."""
    hang_steps: float = 10.0
    """The ranks are looked at after this many median step times without a step (if
    that is longer than hang_s_min)."""
    deadlock_s_min: float = 60.0
    """No step for so long, at least, before a deadlock that the stacks of all ranks
    prove is ended; hang_s_max where they prove nothing."""
    first_step_s_max: float = 900.0
    """The first step of a round compiles and warms up; so long it may take, while no
    rank is stopped."""
    connect_s_max: float = 5.0
    """One connection attempt, handshake included."""
    transfer_s_max: float = 60.0
    """One chunk, sent or received, or the verdict on a copy."""
    machine_s_max: float = 600.0
    """A replacement machine joins within this time after it was asked for."""
    resize_after_s: float = 30.0
    """So long a place is vacant before a job with min_machines goes on without, unless
    the operator has said before that there is no machine; and so long a machine is here
    before such a job grows by it again."""
    store_start_s_max: float = 10.0
    """The key-value store answers a machine that starts within this time."""
    store_s_max: float = 600.0
    """The key-value store may be away for so long before the agents give up and end.
    Meanwhile training goes on, and what a root decides waits to be written."""
    operator_s_max: float = 60.0
    """A call to the cloud operator that takes longer is named in the log. Nothing
    else waits for it."""
    ask_again_s: float = 30.0
    """After the operator had no machine, it is asked again this much later."""
    return_s_max: float = 60.0
    """Under another launcher (torchrun, srun, mpirun): once no rank is left on a
    machine, and no launcher to start one, its agent keeps the memory for so long."""

    def __post_init__(self) -> None:
        check_numbers(self, part="timing")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.default == 0.0:
                if value < 0:
                    raise ConfigError(
                        f"timing.{field.name} is {value}; it must be > 0, or 0 to "
                        "follow from silence_s_max"
                    )
            elif not value > 0:
                raise ConfigError(f"timing.{field.name} is {value}; it must be > 0")
        for name, share in DERIVED.items():
            if not getattr(self, name):
                object.__setattr__(self, name, round(share * self.silence_s_max, 6))
        if not self.stop_s_max:
            object.__setattr__(self, "stop_s_max", max(10.0, 4 * self.silence_s_max))
        self._check_relations()

    def _check_relations(self) -> None:
        """What makes one wait depend on another."""
        healthy = "or a healthy machine misses its renewal"
        for name, bound, part, why in (
            ("tick_s", self.silence_s_max / 4, "a quarter of", healthy),
            ("renew_s", self.silence_s_max / 3, "a third of", healthy),
        ):
            if getattr(self, name) > bound:
                raise ConfigError(
                    f"timing.{name} ({getattr(self, name)}) must be at most {part} "
                    f"timing.silence_s_max ({self.silence_s_max}), {why}; lower "
                    f"{name} (0 lets it follow) or raise silence_s_max"
                )
        for name, least, why in (
            ("campaign_s", "silence_s_max", "standbys stand for root too early"),
            ("stop_s_max", "silence_s_max", "a lost machine is taken for a slow one"),
            ("hang_s_max", "hang_s_min", "nobody is looked at before it is a hang"),
            ("deadlock_s_min", "hang_s_min", "nobody is looked at before it is one"),
            ("first_step_s_max", "hang_s_min", "nobody is looked at before"),
        ):
            if getattr(self, name) < getattr(self, least):
                raise ConfigError(
                    f"timing.{name} ({getattr(self, name)}) is less than "
                    f"timing.{least} ({getattr(self, least)}): {why}; raise {name} "
                    f"or lower {least}"
                )

    @property
    def look_s(self) -> float:
        """While no step comes, the ranks are looked at so often."""
        return max(self.tick_s, self.hang_s_min / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is watched of ranks and machines beyond their lives."""

    stacks: bool = True
    """While no step comes, ask ranks for their stacks (by a real-time signal that
    Python's faulthandler answers) and save them in the job's folder."""
    stack_rounds_max: int = 8
    """Rounds whose stacks are kept; those of older ones are deleted."""
    stack_bytes_max: int = 256 * 1024
    """Of one rank's stacks, as much is read and saved."""
    strikes_max: int = 3
    """A machine whose ranks have died by themselves so often within strikes_s, as no
    other's have, is replaced, if another machine is to be had."""
    strikes_s: float = 600.0
    """The time within which a machine's strikes are counted."""
    replace: bool = True
    """Replace a machine whose probes fail; else that is only said."""
    probes: tuple[str, ...] = ("disk", "memory", "errors", "nvidia")
    """The probes that look at a machine, of those that twinstep has; plug-ins always
    do, and `command` if it is given."""
    command: tuple[str, ...] = ()
    """A program of yours that looks at its machine: it exits with 0 when all is well,
    1 for a warning, 2 when the machine fails; its first line says what. In its
    environment TWINSTEP_MACHINE is the machine's name."""
    check_s: float = 30.0
    """Each probe looks so often."""
    check_s_max: float = 10.0
    """A probe answers within this time, or that is a warning; a program is ended."""
    failures_max: int = 3
    """A machine fails when a probe says so this many times in a row."""
    disk_bytes_min: int = 64 * 1024 * 1024
    """The disk of the job's folder is full when less is free; a warning is given at
    ten times that."""
    memory_left_bytes_min: int = 256 * 1024 * 1024
    """A machine's memory is low when less is left, by its control groups too: a
    warning, and a failure at a quarter of that."""
    celsius_max: float = 90.0
    """A warning is given when a GPU is hotter."""
    looks_min: int = 3
    """A deadlock is proven when all ranks have stood at the same lines, and used no
    processor, for so many looks in a row."""
    port: int = 0
    """Each agent answers GET /healthz and /readyz at this port of its host, for a
    prober such as a kubelet; 0: it does not."""

    def __post_init__(self) -> None:
        check_numbers(self, part="health")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value < least:
                raise ConfigError(
                    f"health.{name} is {value}; it must be at least {least}"
                )
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"health.port is {self.port}; a port, or 0 for none")
        for name in ("strikes_s", "check_s", "check_s_max", "celsius_max"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"health.{name} is {value}; it must be > 0")
        unknown = [name for name in self.probes if name not in PROBES]
        if unknown:
            raise ConfigError(
                f"health.probes names {', '.join(unknown)}; known are "
                f"{', '.join(PROBES)}; a program of your own goes into health.command"
            )
