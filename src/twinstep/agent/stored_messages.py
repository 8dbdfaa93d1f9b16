"""What agents and the root say to each other about steps in storage (messages.py)."""

from __future__ import annotations

from twinstep.agent.rank_messages import Message
from twinstep.bounds import Bytes, Count, Name, Place, Seconds, Shard


class Store(Message, frozen=True, kw_only=True, tag=True):
    """All ranks are dead: write these copies of a step to storage (resizing.py); answer
    with Stored."""

    round: Count
    term: Count
    step: Count
    captured_in: Count
    machines: Shard
    """How many machines the step was captured on."""
    place: Shard
    """The machine rank that names what is written."""
    own: list[Shard]
    """Of these ranks, whose copies are on this machine."""
    index: Place
    """Which portion of the shared state is written here; -1: none."""
    parts: Shard
    """In how many portions that is written."""


class Stored(Message, frozen=True, kw_only=True, tag=True):
    """The machine's part of `step` is in storage for good; or it is not, and why."""

    machine: Name
    round: Count
    term: Count
    step: Count
    bytes: Bytes = 0
    seconds: Seconds = 0.0
    failed: str = ""
    bad: Place = -1
    """The shard whose copy here did not verify; -1: none."""


class StoredBad(Message, frozen=True, kw_only=True, tag=True):
    """A rank could not load `step` from storage."""

    machine: Name
    round: Count
    term: Count
    step: Count
    corrupt: bool
    """False when the storage could not be reached."""
    reason: str
