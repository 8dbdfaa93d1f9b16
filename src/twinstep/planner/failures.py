"""What fails how often, and how likely the loss of machines loses all holders.

Machines fail for themselves, at a rate that is the same for each and does not depend on
age (a Poisson process): of N machines, N times as often. Domains (racks, cubes of
chips) fail as a whole, and take all their machines at once. What is known of a real
cluster can be given as a trace instead.

While j machines are gone whose copies are not made again yet, and no shard is lost, one
more machine completes a set of holders with the probability 1 - S(j + 1) / S(j), where
S(k) is the share of all choices of k machines that lose nothing: exact, since every
choice is as likely. S is that of the mixed placement (GEMINI, Algorithm 1), for any
number of machines without building it.

Left out: failures that come in bursts without a common domain (give a trace), and
machines that fail when they are new.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import msgspec

from twinstep.errors import ConfigError
from twinstep.placement.survival import ring_loss_free
from twinstep.planner.policy import Cause
from twinstep.planner.quantities import DAY_S

DOWN_MAX = 64
"""Machines gone at once that are told apart; with more, as with so many."""
TRACE_EVENTS_MAX = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """What fails together, all domains of one kind being alike."""

    name: str
    machines: int
    """In each."""
    per_day: float
    """Failures of each domain as a whole."""
    apart: bool = True
    """Whether placement keeps the holders of a shard in separate domains."""

    def __post_init__(self) -> None:
        if self.machines < 1 or not 0 <= self.per_day < math.inf:
            raise ConfigError(
                f"domain {self.name}: machines ({self.machines}) must be at least 1, "
                f"and per_day ({self.per_day:.6g}) at least 0"
            )


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A failure of a trace, as it is written in its file."""

    at_s: float
    """Since the trace began."""
    cause: Cause = "machine"
    machines: int = 1
    """That were lost at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """How often a machine's processes, a machine and a domain fail, each a day."""

    process_per_machine_day: float = 0.0
    machine_per_machine_day: float = 0.0
    domains: tuple[Domain, ...] = ()

    def __post_init__(self) -> None:
        for name in ("process_per_machine_day", "machine_per_machine_day"):
            value = getattr(self, name)
            if not 0 <= value < 1e6:
                raise ConfigError(f"{name} is {value:.6g}; at least 0, below 1e6")

    def rates_per_s(self, machines: int) -> list[tuple[Cause, int, bool, float]]:
        """Per kind of failure of a job with so many machines: its cause, how many
        machines it takes, whether holders are apart, and how often it comes."""
        kinds: list[tuple[Cause, int, bool, float]] = [
            ("process", 0, True, self.process_per_machine_day * machines / DAY_S),
            ("machine", 1, True, self.machine_per_machine_day * machines / DAY_S),
        ]
        for domain in self.domains:
            count = machines / domain.machines
            lost = min(domain.machines, machines)
            kinds.append(
                ("machine", lost, domain.apart, domain.per_day * count / DAY_S)
            )
        return [kind for kind in kinds if kind[3] > 0]

    def per_day(self, machines: int) -> float:
        return sum(kind[3] for kind in self.rates_per_s(machines)) * DAY_S


def read_trace(text: bytes, *, option: str) -> tuple[Event, ...]:
    """Returns the failures of a file with one JSON object a line, in order of time:
    {"at_s": 5400, "cause": "machine", "machines": 1}.

    Raises: ConfigError naming the line."""
    events: list[Event] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            event = msgspec.json.decode(line, type=Event)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{option}, line {number}: {error}") from error
        least_s = events[-1].at_s if events else 0.0
        if not least_s <= event.at_s < math.inf or event.machines < 1:
            raise ConfigError(
                f"{option}, line {number}: at_s ({event.at_s:.6g}) must be at least "
                f"that of the line before ({least_s:.6g}), and machines "
                f"({event.machines}) at least 1"
            )
        events.append(event)
        if len(events) > TRACE_EVENTS_MAX:
            raise ConfigError(f"{option} has more than {TRACE_EVENTS_MAX} failures")
    if not events:
        raise ConfigError(f"{option} has no failure in it")
    return tuple(events)


def loss_free(machines: int, *, copies: int, lost_max: int = DOWN_MAX) -> list[float]:
    """S(0), S(1), ... S(lost_max): the share of choices of so many machines that lose
    no shard, under the mixed placement."""
    tail = copies + machines % copies if machines % copies else 0
    grouped = machines - tail
    groups = grouped // copies
    most = min(lost_max, machines)
    in_groups = [
        sum(
            (-1) ** j
            * math.comb(groups, j)
            * math.comb(grouped - j * copies, k - j * copies)
            for j in range(min(groups, k // copies) + 1)
        )
        for k in range(min(most, grouped) + 1)
    ]
    in_tail = [1]
    if tail:
        in_tail = [
            ring_loss_free(tail, copies=copies, lost=k)
            for k in range(min(most, tail) + 1)
        ]
    shares: list[float] = []
    for k in range(most + 1):
        ways = sum(
            in_groups[k - j] * free
            for j, free in enumerate(in_tail)
            if 0 <= k - j < len(in_groups)
        )
        shares.append(float(Fraction(ways, math.comb(machines, k))))
    return shares


def chance_lost(
    shares: Sequence[float], *, down: int, more: int, apart: bool = True
) -> float:
    """The probability that `more` machines, lost at once while `down` are gone, lose
    all holders of a shard. `shares` as loss_free gives them."""
    if more == 0:
        return 0.0
    if len(shares) > 1 and shares[1] == 0:
        return 1.0  # one copy
    if more > 1 and not apart:
        return 1.0  # a whole set of holders is in the domain
    if more > 1 and down == 0:
        return 0.0
    last = len(shares) - 1
    before = shares[min(down, last)]
    after = shares[min(down + more, last)]
    return 1 - after / before if before > 0 else 1.0
