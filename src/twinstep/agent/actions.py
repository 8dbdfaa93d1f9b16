"""What the decisions of an agent ask for; agent/process.py carries it out.

The simulator carries out the same objects with a heap and a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from twinstep.agent.messages import Begin, FromRoot, Member, ToRank, ToRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class TellRank:
    """Send to a rank, with the file descriptors of `slots` (shard, slot)."""

    rank: int
    message: ToRank
    slots: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TellRoot:
    message: ToRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRanks:
    """Start the machine's ranks for this round."""

    begin: Begin
    machine_rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRanks:
    """End the machine's ranks and transfers; say `quiet(round)` when all are gone."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveSlots:
    """Reserve two slots for each shard of this size; say `reserved` or `unable`."""

    round: int
    sizes: dict[int, int]
    spare: frozenset[int] = frozenset()
    """Of these shards three."""
    third: bool = False
    """Only the third of each: two are here since before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSlots:
    """The machine no longer holds these shards."""

    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HashCopy:
    """Compute the digests of a copy; say `hashed`."""

    round: int
    shard: int
    slot: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShipCopy:
    """Send a copy to a holder; say `hashed` (when asked to), then `acknowledged` or
    `ship_failed`. Digests that are empty are computed while sending."""

    round: int
    shard: int
    slot: int
    step: int
    captured_in: int
    keep: int
    digests: bytes
    target_rank: int
    target: Member
    replace: bool
    """The holder's copy was found to be bad: it must take this one instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchCopy:
    """Read a copy from a source into a slot; say `fetched` or `fetch_failed`."""

    round: int
    shard: int
    slot: int
    step: int
    captured_in: int
    source: Member


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCopies:
    """Write the machine's part of a step to storage; say `stored`. The slots stay as
    they are until then, or until the round ends."""

    round: int
    term: int
    step: int
    captured_in: int
    machines: int
    """On how many the step was captured."""
    machine_rank: int
    """Names the part."""
    own: tuple[int, ...]
    """The ranks whose own shards are in it."""
    index: int
    parts: int
    """Which portion of the shared state is in it, of how many; -1: none."""
    slots: dict[int, int]
    """Per shard the slot that holds it."""
    digests: dict[int, bytes]
    still: bool = False
    """No rank lives meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAtRanks:
    """See what the ranks are doing, and save their stacks; say `looked`."""

    round: int
    threads: bool
    """Of all threads, and not only the main one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One line for the event log."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """End this agent."""

    status: int
    reason: str


WorkerAction: TypeAlias = (
    TellRank
    | TellRoot
    | StartRanks
    | StopRanks
    | ReserveSlots
    | ReleaseSlots
    | HashCopy
    | ShipCopy
    | FetchCopy
    | StoreCopies
    | LookAtRanks
    | Log
    | Leave
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TellAgent:
    machine: str
    message: FromRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class AskMachine:
    """Ask the cloud operator for a machine in place of `lost`. Asking twice under one
    name is asking once; a further attempt has another name."""

    lost: str
    reason: str
    attempt: int = 1

    @property
    def request(self) -> str:
        """The name of the request, the same for every root that makes it."""
        again = f".{self.attempt}" if self.attempt > 1 else ""
        return f"for-{self.lost}{again}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveBack:
    """Tell the cloud operator that a machine is of no use any more."""

    machine: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavePlan:
    """Keep in the store what the next root needs."""

    plan: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRecovery:
    """Keep the timeline of a recovery in the store."""

    number: int
    record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LookInStorage:
    """Find out which steps the storage holds; say `looked` (draining.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeWhole:
    """All machines have written their part of a step: make it one, and remove what
    is of no use any more; say `made`."""

    step: int
    parts: tuple[str, ...]
    """How the names of each machine's files start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TidyStorage:
    """A step was given up: remove what of it and of older ones is of no use, so that
    the next finds room."""

    newest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveResult:
    """The job is over: tell whoever started it."""

    status: int
    reason: str


RootAction: TypeAlias = (
    TellAgent
    | AskMachine
    | GiveBack
    | SavePlan
    | SaveRecovery
    | LookInStorage
    | MakeWhole
    | TidyStorage
    | SaveResult
    | Log
)
