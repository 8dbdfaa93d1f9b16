"""What the root keeps in the store: its plan, and the timeline of each recovery.

A new root reads these and continues; `twinstep status` shows them.
"""

from __future__ import annotations

import msgspec

from twinstep.bounds import Bytes, Count, Seconds, Shard


class Strike(msgspec.Struct, frozen=True, kw_only=True):
    """A rank of a machine ended by itself, as the first of its round."""

    machine: str
    at_s: Seconds
    sign: str
    """How, in words that are equal for equal causes."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the next root needs to know that it cannot ask the agents."""

    round: Count
    members: list[str]
    vacated: dict[Shard, str]
    """Per vacant machine rank the machine that was lost there."""
    sizes: dict[Shard, Bytes]
    shared: bool
    may_share: bool
    recoveries: Count
    fruitless: Shard
    asked: dict[str, Count] = {}
    """Per lost machine for which another was asked for and has not joined yet, how
    many times that was done."""
    closed: dict[str, Count] = {}
    """Per lost machine the request that brought another one."""
    spent: dict[str, Count] = {}
    """Per machine that came back after that: its last request, whose answer is old."""
    strikes: list[Strike] = []
    struck: dict[str, str] = {}
    """Machines that are to be replaced, and why."""
    seats: list[Shard] = []
    """Where fewer machines train than the job has: which of its machine ranks each of
    the members has the place of. Empty: all."""
    resized_in: Count = 0
    """The round in which so many began to train."""


class Recovery(msgspec.Struct, kw_only=True):
    """One recovery, from its cause to the first new step. Times are seconds since
    the epoch by the root's clock; 0 means not yet."""

    number: int
    round: int
    kind: str
    """rank, hang, machine, root, copy: what failed; resize: nothing did, more machines
    train from then on."""
    who: str
    reason: str
    detected_s: float
    decided_s: float = 0.0
    machine_ready_s: float = 0.0
    ranks_up_s: float = 0.0
    loaded_s: float = 0.0
    first_step_s: float = 0.0
    redundant_s: float = 0.0
    """Every copy exists again."""
    reached: int = 0
    """The last step that anybody is known to have reached before."""
    step: int = 0
    """The step that the round started from."""
    sources: dict[str, int] = {}
    """How many shards were read from where."""
    bad: list[str] = []
    """Copies that were found to be bad, and by whom."""
    also: list[str] = []
    """Failures that came while this recovery was under way, the first of them."""
    also_unnamed: int = 0
    """How many more came."""

    @property
    def steps_lost(self) -> int:
        return max(0, self.reached - self.step)

    @property
    def done(self) -> bool:
        return self.first_step_s > 0

    @property
    def source(self) -> str:
        """The farthest place that a shard was read from, in words."""
        if not self.sources:
            return "start" if self.step == 0 else ""
        remote = sorted(name for name in self.sources if name != "own memory")
        return ", ".join(remote) if remote else "own memory"
