"""What ranks and agents say to each other, as typed plain data.

Every message carries the round it belongs to; an agent refuses those of another one.
Over a Unix socket, where file descriptors of slots travel beside Welcome and Slots,
and that of the rank's pulse beside Welcome.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from twinstep.bounds import Bytes, Count, Digest, Place, Process, Seconds, Shard


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A message; its class name is its tag on the wire."""


# Rank to agent, over a Unix socket.


class Arrive(Message, frozen=True, kw_only=True, tag=True):
    """A rank that another launcher started is here, and asks to train.

    It has no round yet. `machine_rank` is what the launcher gave its machine."""

    rank: Shard
    local_rank: Shard
    ranks_per_machine: Shard
    world_size: Shard
    machine_rank: Place
    round: Count = 0


class Hello(Message, frozen=True, kw_only=True, tag=True):
    """The session of `rank` is up, and wants to know where to start."""

    rank: Shard
    round: Count
    pid: Process


class Layout(Message, frozen=True, kw_only=True, tag=True):
    """The rank's state has this many bytes: please reserve slots.

    `shared_bytes` is this rank's range of the shared region, `shared_digest` the
    digest of the whole region, by which the root sees that it is the same on all."""

    rank: Shard
    round: Count
    own_bytes: Bytes
    shared_bytes: Bytes
    shared_digest: Digest


class Reached(Message, frozen=True, kw_only=True, tag=True):
    """The rank stands at `step`: the update is done."""

    rank: Shard
    round: Count
    step: Count


class Captured(Message, frozen=True, kw_only=True, tag=True):
    """The slots named by the answer for `step` hold the rank's state at it."""

    rank: Shard
    round: Count
    step: Count
    digests: dict[Shard, bytes] = {}
    """Per shard those of its chunks, where the rank took them while it copied."""


class Skipped(Message, frozen=True, kw_only=True, tag=True):
    """The answer for `step` came too late, or could not be followed: nothing was
    written."""

    rank: Shard
    round: Count
    step: Count
    reason: str = ""


class Restored(Message, frozen=True, kw_only=True, tag=True):
    """The rank's live state is that of `step`, all bytes verified."""

    rank: Shard
    round: Count
    step: Count
    seconds: Seconds


class BadCopy(Message, frozen=True, kw_only=True, tag=True):
    """Chunk `chunk` of the copy the rank was given has a wrong checksum."""

    rank: Shard
    round: Count
    shard: Shard
    step: Count
    chunk: Count
    source: str
    """As Welcome named it, so that a copy that came since is not blamed."""


class BadStored(Message, frozen=True, kw_only=True, tag=True):
    """The step in storage that the rank was told to load cannot be loaded."""

    rank: Shard
    round: Count
    step: Count
    corrupt: bool
    """False when the storage could not be reached."""
    reason: str


class Leaving(Message, frozen=True, kw_only=True, tag=True):
    """The session is closed on purpose; the rank is about to end well."""

    rank: Shard
    round: Count
    step: Count


class Hopeless(Message, frozen=True, kw_only=True, tag=True):
    """The script asked for what cannot be done: another round would end as this one.

    Said on a connection of its own, as there may be no session yet."""

    rank: Shard
    round: Count
    reason: str


# Agent to rank. File descriptors of slots travel beside Welcome and Slots.


class Admit(Message, frozen=True, kw_only=True, tag=True):
    """A rank that has arrived trains in this round."""

    round: Count


class SlotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A slot whose file descriptor comes with the message, in this order."""

    shard: Shard
    slot: Shard
    size: Bytes
    digests: bytes = b""
    """Digests of the copy to restore from; empty in a slot to write to."""
    source: str = ""
    """Where the copy came from, in words."""


class StoredAt(msgspec.Struct, frozen=True, kw_only=True):
    """The storage that holds a step."""

    path: str
    options: dict[str, str]
    """May be secret: said over a Unix socket only, and left out of what is shown."""
    world_size: Shard
    """Of this job: the step may have been written by another number of ranks."""
    away_s_max: Seconds
    """So long storage that cannot be reached is tried again."""

    def __repr__(self) -> str:
        return f"StoredAt(path={self.path!r}, world_size={self.world_size})"


class Welcome(Message, frozen=True, kw_only=True, tag=True):
    """Start at `step`, from these slots or from storage; at 0, with nothing to load."""

    round: Count
    step: Count
    may_share: bool
    chunk_bytes: Bytes
    slots: list[SlotInfo]
    stored: StoredAt | None = None
    """At step 0 a checkpoint of somebody else's to start from, if there is one."""
    pulse: bool = False
    """The last descriptor, after those of the slots, is the rank's pulse."""


class Slots(Message, frozen=True, kw_only=True, tag=True):
    """Both slots of the rank's own shard, then both of its shared range."""

    round: Count
    chunk_bytes: Bytes
    slots: list[SlotInfo]


class Unshare(Message, frozen=True, kw_only=True, tag=True):
    """State said to be the same on all ranks is not: lay all of it out as own."""

    round: Count
    reason: str


class Capture(Message, frozen=True, kw_only=True, tag=True):
    """Write the state at `step`, now or when the rank stands there, into these slots;
    or do not."""

    round: Count
    step: Count
    capture: bool
    keep: Count
    own_slot: Shard = 0
    shared_slot: Shard = 0
    again: bool = False
    """Not now; another word on the same step may follow."""


class Fail(Message, frozen=True, kw_only=True, tag=True):
    """The job cannot go on as it was set up; the text says why and the way out."""

    round: Count
    reason: str


FromRank: TypeAlias = (
    Arrive
    | Hello
    | Layout
    | Reached
    | Captured
    | Skipped
    | Restored
    | BadCopy
    | BadStored
    | Leaving
    | Hopeless
)
ToRank: TypeAlias = Admit | Welcome | Slots | Unshare | Capture | Fail
