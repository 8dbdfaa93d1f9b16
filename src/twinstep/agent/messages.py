"""What ranks, agents and the root say to each other, as typed plain data.

Every message carries the round it belongs to, and those between agents and the root
the term as well: a receiver refuses what is older than it knows. The simulator
delivers these same objects; sockets carry them as msgpack.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from twinstep.agent.rank_messages import (
    Admit as Admit,
    Arrive as Arrive,
    BadCopy as BadCopy,
    BadStored as BadStored,
    Capture as Capture,
    Captured as Captured,
    Fail as Fail,
    FromRank as FromRank,
    Hello as Hello,
    Hopeless as Hopeless,
    Layout as Layout,
    Leaving as Leaving,
    Message as Message,
    Reached as Reached,
    Restored as Restored,
    Skipped as Skipped,
    SlotInfo as SlotInfo,
    Slots as Slots,
    StoredAt as StoredAt,
    ToRank as ToRank,
    Unshare as Unshare,
    Welcome as Welcome,
)
from twinstep.agent.stored_messages import (
    Store as Store,
    Stored as Stored,
    StoredBad as StoredBad,
)
from twinstep.bounds import (
    Bytes,
    Count,
    Digest,
    Host,
    Name,
    Place,
    Port,
    Process,
    Seconds,
    Shard,
    Status,
)
from twinstep.values import Grid

# Agent to root.


class Opening(Message, frozen=True, kw_only=True, tag=True):
    """The first word on a connection from an agent to the root."""

    job: str
    machine: Name


class Question(Message, frozen=True, kw_only=True, tag=True):
    """The first and only word of somebody who wants to know what a machine holds."""

    job: str
    traffic: bool = False
    """Its steps and the copies in them (timeline.py) are asked for instead."""


class CopyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A whole copy that an agent holds, with the digest of its chunks' digests."""

    shard: Shard
    step: Count
    captured_in: Count
    """The round that captured it. After a roll-back the same step number comes
    again: copies of two rounds never make one step."""
    digest: Digest
    size: Bytes


class Join(Message, frozen=True, kw_only=True, tag=True):
    """A machine's agent is here; `machine_rank` is -1 until it is given one."""

    machine: Name
    host: Host
    port: Port
    group: Process
    """The process group of the machine, for those who injure it on purpose."""
    round: Count
    term: Count
    machine_rank: Place
    standby: bool
    ended: bool = False
    """Its ranks of this round were ended because it was cut off."""


class Inventory(Message, frozen=True, kw_only=True, tag=True):
    """The machine's ranks are dead, and these are the copies it holds."""

    machine: Name
    round: Count
    term: Count
    copies: list[CopyInfo]
    sizes: dict[Shard, Bytes]
    """Bytes of each shard it has slots for."""
    reached: Count
    """The last step that a rank of the machine stood at."""
    master_port: Port
    """A port that is free on this machine, should rank 0 run here."""
    place: Place = -1
    """The machine rank that another launcher gave the ranks that wait here; -1 while
    none wait, and where the agents start the ranks."""
    resized_in: Count = 0
    """The copies are of the number of machines that began in this round."""


class Held(Message, frozen=True, kw_only=True, tag=True):
    """The answer to Question: the copies on a machine, while it goes on."""

    machine: Name
    round: Count
    term: Count
    machine_rank: Place
    keep: Count
    """The newest step that all machines were told to keep."""
    reached: Count
    copies: list[CopyInfo]


class Report(Message, frozen=True, kw_only=True, tag=True):
    """All ranks of the machine stand at `step`."""

    machine: Name
    round: Count
    term: Count
    step: Count
    safe: list[Count]
    in_flight: bool
    digests: dict[Count, list[Digest]]
    """Per step held, digests of the shared shards: equal on all machines."""


class Laid(Message, frozen=True, kw_only=True, tag=True):
    """All ranks of the machine have said how large their state is."""

    machine: Name
    round: Count
    term: Count
    sizes: dict[Shard, Bytes]
    shared_digests: list[Digest]


class RankEnded(Message, frozen=True, kw_only=True, tag=True):
    """A rank's process is gone. `status` is its exit status, or minus the signal."""

    machine: Name
    round: Count
    term: Count
    rank: Shard
    status: Status
    step: Count
    tail: list[str]


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank was seen doing."""

    state: str
    """Of its process, as /proc has it: R, S, D, T, Z; X when it is gone."""
    step: Count = 0
    """The last step it reached."""
    cpu_s: Seconds = 0.0
    """Processor time it has used so far, all its threads."""
    doing: str = "unseen"
    """A word of stacks.Doing."""
    call: str = ""
    place: str = ""
    digest: int = 0
    """Of its main thread's frames: equal while it stands at one place. 0: unseen."""


class Looked(Message, frozen=True, kw_only=True, tag=True):
    """What each rank of the machine is doing."""

    machine: Name
    round: Count
    term: Count
    ranks: dict[Shard, Sight]


class Loaded(Message, frozen=True, kw_only=True, tag=True):
    """All ranks of the machine have loaded `step`; `sources` says from where."""

    machine: Name
    round: Count
    term: Count
    step: Count
    sources: dict[Shard, str]
    seconds: Seconds


class RanksUp(Message, frozen=True, kw_only=True, tag=True):
    """All ranks of the machine have a session."""

    machine: Name
    round: Count
    term: Count
    pids: dict[Shard, Process]


class CopyBad(Message, frozen=True, kw_only=True, tag=True):
    """`holder`'s copy did not verify. When no source is left `last` is true."""

    machine: Name
    round: Count
    term: Count
    shard: Shard
    step: Count
    holder: Name
    corrupt: bool
    """False when the holder could not be reached, or had no copy."""
    last: bool
    reason: str


class Condition(Message, frozen=True, kw_only=True, tag=True):
    """How the machine is, by its own probes; said when it changes, in any round."""

    machine: Name
    round: Count
    term: Count
    failing: str
    """What failed several times in a row, in words; empty when nothing has."""
    warnings: list[str]


class Profiled(Message, frozen=True, kw_only=True, tag=True):
    """How the machine's steps leave its link to copies, as it plans with."""

    machine: Name
    round: Count
    term: Count
    step_s: Seconds
    idle_s: Seconds
    """In a step, together, in spans that are worth using."""
    needs_s: Seconds
    """How long the link carries the copies of one step."""
    every: Count
    """The spans of so many steps hold the copies of one; 0: none that is allowed does.
    """
    unfitted_bytes: Bytes
    """What did not fit into the spans of that many steps."""


class Unable(Message, frozen=True, kw_only=True, tag=True):
    """The machine cannot go on as the job is set up (memory does not fit, ...)."""

    machine: Name
    round: Count
    term: Count
    reason: str


# Root to agent.


class Stop(Message, frozen=True, kw_only=True, tag=True):
    """Round `round` begins by ending the ranks; answer with an Inventory."""

    round: Count
    term: Count
    reason: str


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that trains, by machine rank in Begin.members."""

    machine: Name
    host: Host
    port: Port


class Begin(Message, frozen=True, kw_only=True, tag=True):
    """Train with these members from `step`; load each shard from its sources.

    `holders[machine_rank]` are the machine ranks that hold its shards, owner first.
    `sources[shard]` are the machines with a good copy at `step`, and `good` names
    those whose copy needs no re-making."""

    round: Count
    term: Count
    step: Count
    captured_in: Count
    members: list[Member]
    holders: list[list[Shard]]
    sources: dict[Shard, list[Name]]
    sizes: dict[Shard, Bytes]
    shared: bool
    master_port: Port
    may_share: bool
    """False once state said to be the same on all ranks was found to differ."""
    stored: bool = False
    """The step is read from storage by the ranks themselves; there are no sources."""
    resized_in: Count = 0
    """The round in which so many machines began to train; 0: from the start. Copies of
    another number of machines are worth nothing: their shards are others."""

    def grid(self, ranks_per_machine: int) -> Grid:
        """The machines and ranks of this round."""
        machines = len(self.members)
        return Grid(machines=machines, ranks_per_machine=ranks_per_machine)


class Reserve(Message, frozen=True, kw_only=True, tag=True):
    """Every rank's state has been measured: hold these shards, this large."""

    round: Count
    term: Count
    sizes: dict[Shard, Bytes]
    shared: bool


class Answer(Message, frozen=True, kw_only=True, tag=True):
    """The vote on `step`: what all keep, and whether a step is captured."""

    round: Count
    term: Count
    step: Count
    keep: Count
    capture: bool
    at: Count
    """The step that is captured: `step` or, where answers come late, one ahead."""
    store: Count = 0
    """The step that is written to storage, which all keep now; 0: none."""
    again: bool = False
    """Copies of an earlier step are on their way. Once they have arrived, `step` may
    yet be captured, if all still stand at it."""


class LookAtRanks(Message, frozen=True, kw_only=True, tag=True):
    """No step for too long: say what your ranks are doing."""

    round: Count
    term: Count
    threads: bool = False
    """The ranks are about to be ended: save the stacks of all their threads."""


class Finish(Message, frozen=True, kw_only=True, tag=True):
    """The job is over; end the ranks and yourselves."""

    round: Count
    term: Count
    status: Status
    reason: str


ToRoot: TypeAlias = (
    Join
    | Inventory
    | Report
    | Laid
    | RankEnded
    | Looked
    | Loaded
    | RanksUp
    | CopyBad
    | Stored
    | StoredBad
    | Condition
    | Profiled
    | Unable
)
FromRoot: TypeAlias = Stop | Store | Begin | Reserve | Answer | LookAtRanks | Finish
