"""Settings of the traffic of copies: a part of a job's config, as config.py says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from twinstep.errors import ConfigError
from twinstep.values import check_numbers

MODES = ("spans", "naive", "off")
LEAST = {
    "profile_steps": 2,
    "lead": 0,
    "startup_s": 0,
    "link_bytes_per_s": 0,
    "buffers": 1,
    "drift_steps": 1,
    "every_max": 1,
    "withhold_every": 0,
    "samples_min": 2,
    "priority": 0,
    "dscp": 0,
}
"""The smallest value that is allowed; every other number is above 0."""
MOST = {"mu": 1, "priority": 6, "dscp": 63}
"""The largest, where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When copies use the network that training uses, and what that may cost it.

    Numbers of the paper (sections 5.3, 5.4 and 7.4) where it has them."""

    mode: str = "spans"
    """spans: in the idle spans of a step, as planned; naive: one piece as large as all
    buffers in each span; off: at once. The last two are for comparison."""
    profile_steps: int = 20
    """A profile is made of so many steps."""
    span_s_min: float = 0.010
    """A shorter idle span is not used: to find its end costs more than it carries."""
    mu: float = 0.8
    """The share of a span that is planned with. What is left after `lead` is for spans
    that are shorter than the profile says."""
    lead: float = 0.1
    """The share of a span that is let pass before the first piece: an operation that is
    over here may still be under way on another machine, whose end would come late."""
    startup_s: float = 0.0
    """What a piece takes beside its bytes. 0: measured."""
    link_bytes_per_s: float = 0.0
    """What the machine's link carries. 0: measured."""
    buffer_bytes: int = 128 * 1024 * 1024
    """All buffers together: no more of the copies is on its way at once."""
    buffers: int = 4
    """Pieces that may be on their way at once, each as large as a buffer at most."""
    piece_s_max: float = 0.005
    """No piece takes the link longer, if it is more than a chunk: so long a collective
    that comes early shares the link with each piece on its way."""
    pipeline: bool = True
    """Several pieces are on their way at once; without, one: for comparison."""
    poll_s: float = 0.001
    """So often is looked whether a piece may go, once the next span is near."""
    hold_s_max: float = 30.0
    """A copy so much later than planned goes in any moment without traffic, and after
    twice that at once: a wrong profile must not leave a step unprotected."""
    drift_max: float = 0.10
    """A step whose spans differ by more from the profile, beyond their own spread,
    counts as drift. The paper saw less in all its jobs."""
    drift_steps: int = 5
    """So many more steps that drift than that do not, and a new profile is made."""
    quiet_bytes_per_s: float = 1e6
    """A network interface that carries less, without copies, is idle: leases, logs."""
    overhead_max: float = 0.01
    """By so much may copies lengthen the mean step; above it, fewer steps are
    captured."""
    every_max: int = 64
    """At least every so many steps one is captured, whatever it costs."""
    withhold_every: int = 20
    """One capture in so many is left out, to see what steps take without. 0: none is,
    and overhead_max means nothing."""
    samples_min: int = 16
    """The overhead is judged from so many steps without traffic, or more."""
    samples_max: int = 256
    """Of more steps without traffic the oldest are forgotten."""
    priority: int = 2
    """SO_PRIORITY of connections that carry copies, 0 to 6; 2 is the kernel's bulk
    class, which its queues (pfifo_fast) serve last. 0: as all others."""
    dscp: int = 0
    """Class that the network's switches see, 0 to 63; 1 is lower effort (RFC 8622).
    0: none."""
    congestion: str = ""
    """TCP congestion control of connections that carry copies, where the kernel has it
    ("lp"); empty: the kernel's default."""

    def __post_init__(self) -> None:
        check_numbers(self, part="schedule")
        if self.mode not in MODES:
            raise ConfigError(
                f"schedule.mode is {self.mode!r}; use one of {', '.join(MODES)}"
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str | bool):
                continue
            least = LEAST.get(field.name)
            if least is None and not value > 0:
                raise ConfigError(f"schedule.{field.name} is {value}; it must be > 0")
            if least is not None and not value >= least:
                raise ConfigError(
                    f"schedule.{field.name} is {value}; it must be at least {least}"
                )
        for name, most in MOST.items():
            if getattr(self, name) > most:
                raise ConfigError(
                    f"schedule.{name} is {getattr(self, name)}; it must be at most "
                    f"{most}"
                )
        if self.lead + self.mu > 1:
            raise ConfigError(
                f"schedule.lead ({self.lead}) and schedule.mu ({self.mu}) are more "
                "than a whole span; together at most 1 is allowed"
            )
        if self.withhold_every == 1:
            raise ConfigError(
                "schedule.withhold_every is 1, and nothing would ever be captured; "
                "use 2 or more, or 0 to leave out none"
            )
        if self.samples_max < self.samples_min:
            raise ConfigError(
                f"schedule.samples_max ({self.samples_max}) is less than "
                f"schedule.samples_min ({self.samples_min}): nothing would ever be "
                f"judged; raise samples_max or lower samples_min"
            )
