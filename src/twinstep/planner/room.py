"""What a job's copies take of each machine: memory, and the network.

    memory     2 slots x copies x the machine's state, and the buffers; a machine that
               was replaced reads straight into slots, so a restore takes no more
    network    (copies - 1) x the machine's state for each captured step, out and in

What training itself holds more than once (replicas) counts as copies: less is sent, and
less is held for others.

Memory is reserved at start (agent/room.py), so what is refused here would be refused
there, after machines were waited for.
"""

from __future__ import annotations

from dataclasses import dataclass

from twinstep.errors import DoesNotFit
from twinstep.planner.job import Job
from twinstep.planner.policies import SEND_SHARE, every, send_s
from twinstep.planner.quantities import in_words_bytes, in_words_s, in_words_speed
from twinstep.store.slots import SLOTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Of each machine. Bytes and seconds."""

    state_bytes: float
    slots_bytes: float
    """Reserved for copies: its own and its neighbours'."""
    buffers_bytes: float
    restore_bytes: float
    """What a restore takes beside the slots: it reads where the bytes are to be."""
    memory_bytes: float
    """That copies may take; 0: not known."""
    sent_bytes: float
    """For each captured step."""
    send_s: float
    idle_s: float
    """Of a step."""
    every: int
    """Steps between captures, so that copies fit."""

    @property
    def reserved_bytes(self) -> float:
        return self.slots_bytes + self.buffers_bytes + self.restore_bytes

    @property
    def fits(self) -> bool:
        return not self.memory_bytes or self.reserved_bytes <= self.memory_bytes


def room_of(job: Job) -> Room:
    """Returns what the copies of a job take of each machine."""
    return Room(
        state_bytes=job.machine_bytes,
        slots_bytes=SLOTS * (1 + job.sent_copies) * job.machine_bytes,
        buffers_bytes=job.schedule.buffer_bytes,
        restore_bytes=0.0,
        memory_bytes=job.memory_bytes,
        sent_bytes=job.sent_copies * job.machine_bytes,
        send_s=send_s(job),
        idle_s=job.idle_share * job.step_s,
        every=every(job),
    )


def check(room: Room, job: Job) -> None:
    """Raises: DoesNotFit with the arithmetic, and the ways out."""
    held = 1 + job.sent_copies
    if not room.fits:
        fitting = int(
            (room.memory_bytes - room.buffers_bytes) / (SLOTS * room.state_bytes)
        )
        # Of those that fit, one is the machine's own; replicas are sent to nobody.
        copies = fitting - 1 + job.replicas
        way = (
            f"use copies = {copies}, or more machines"
            if fitting >= 1
            else "use more machines: not even a machine's own state fits"
        )
        raise DoesNotFit(
            f"{SLOTS} slots x {held} copies x {in_words_bytes(room.state_bytes)} "
            f"and {in_words_bytes(room.buffers_bytes)} of buffers are "
            f"{in_words_bytes(room.reserved_bytes)} a machine; "
            f"{in_words_bytes(room.memory_bytes)} may be used; {way}"
        )


def in_words(room: Room, job: Job) -> list[str]:
    """Returns sentences with the arithmetic in them."""
    speed = SEND_SHARE * job.network_bytes_per_s
    of = f" of {in_words_bytes(room.memory_bytes)}" if room.memory_bytes else ""
    lines = [
        f"state: {job.parameters:.4g} parameters x {job.bytes_per_parameter:g} B = "
        f"{in_words_bytes(job.state_bytes)}, {in_words_bytes(room.state_bytes)} on "
        "each machine",
        f"memory: {SLOTS} slots x {1 + job.sent_copies} copies x "
        f"{in_words_bytes(room.state_bytes)} + {in_words_bytes(room.buffers_bytes)} of "
        f"buffers = {in_words_bytes(room.reserved_bytes)}{of} on each machine; a "
        "restore takes nothing beside it; "
        f"{in_words_bytes(room.state_bytes)} more where steps are written to storage",
    ]
    if not room.sent_bytes:
        why = "training holds the copies itself" if job.replicas > 1 else "one copy"
        return [*lines, f"network: {why}, nothing is sent"]
    fits = "they fit into every step"
    planned_s = job.schedule.mu * room.idle_s
    if room.send_s > room.every * planned_s:
        fits = (
            f"they do not fit into every_max ({room.every}) steps, and make training "
            "wait for the network"
        )
    elif room.every > 1:
        fits = f"they fit into {room.every} steps, so one step in {room.every} is kept"
    return [
        *lines,
        f"network: {in_words_bytes(room.sent_bytes)} at {SEND_SHARE:.0%} of "
        f"{in_words_speed(job.network_bytes_per_s)} ({in_words_speed(speed)}) = "
        f"{in_words_s(room.send_s)}, and a step of {in_words_s(job.step_s)} leaves "
        f"{in_words_s(room.idle_s)} idle, of which {job.schedule.mu:.0%} is planned "
        f"with: {fits}",
    ]
