"""Injures a job that runs on this computer, as the world would: with real signals.

Nothing in an agent helps: there is no endpoint that a stranger could use. A rank is
killed or stopped by its process, a machine by its process group (agent and ranks at
once), and a copy is damaged by writing into the agent's memory from outside, through
/proc, without its knowledge.
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from twinstep.agent.status import MachineStatus, Status
from twinstep.errors import UsageError

SLOT = re.compile(r"/memfd:twinstep-(\d+)-\d+\b")
"""What a slot's descriptor links to; a rank has other memory of such a name, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Injury:
    """What was done, to whom."""

    kind: str
    who: str
    detail: str
    flips: tuple[tuple[Path, int, int], ...] = ()
    """Where a bit was flipped: a file, a place in it, and the byte as it is since."""

    def lasts(self) -> bool:
        """Whether every bit that was flipped still is, as far as can be seen: a step
        that was on its way may have been written over it."""
        for path, at, byte in self.flips:
            try:
                with open(path, "rb", buffering=0) as memory:
                    memory.seek(at)
                    if memory.read(1) != bytes([byte]):
                        return False
            except OSError:
                continue  # its machine is gone
        return True


def kill_rank(status: Status, rank: int) -> Injury:
    """SIGKILL for one rank's process."""
    _signal_rank(status, rank, signal.SIGKILL)
    return Injury(kind="kill-rank", who=f"rank {rank}", detail="SIGKILL")


def stop_rank(status: Status, rank: int) -> Injury:
    """SIGSTOP for one rank's process: it lives, and does nothing."""
    _signal_rank(status, rank, signal.SIGSTOP)
    return Injury(kind="stop-rank", who=f"rank {rank}", detail="SIGSTOP")


def kill_machine(status: Status, machine: str) -> Injury:
    """SIGKILL for a machine's agent and all its ranks at once: its memory is lost."""
    found = find_machine(status, machine)
    group = live_group(found)
    detail = f"SIGKILL to process group {group}"
    if _hosts_guests(group):  # each rank has a group of its launcher's making
        for rank in found.ranks:
            _signal_rank(status, rank, signal.SIGKILL)
        detail += f" and to ranks {', '.join(map(str, sorted(found.ranks)))}"
    os.killpg(group, signal.SIGKILL)
    return Injury(kind="kill-machine", who=found.machine, detail=detail)


def corrupt_copy(
    status: Status, machine: str, *, shard: int, offset: int = -1
) -> Injury:
    """Flips a bit of one byte in both slots of a shard in a machine's memory.

    Args:
      offset: where in the slots, in bytes; negative counts from their end.

    Raises: UsageError when the machine holds no copy of the shard."""
    found = find_machine(status, machine)
    group = live_group(found)
    agent = group if all_slots(group) else _child(group)
    slots = slots_of(agent, shard)
    if not slots:
        held = sorted({shard for shard, _ in all_slots(agent)})
        raise UsageError(
            f"{found.machine} holds no slot of shard {shard}; it has shards {held}"
        )
    flips: list[tuple[Path, int, int]] = []
    for path in slots:
        with open(path, "r+b", buffering=0) as memory:
            size = memory.seek(0, os.SEEK_END)
            at = offset if offset >= 0 else status.sizes[shard] + offset
            if not 0 <= at < size:
                raise UsageError(f"offset {offset} is outside of a slot of {size}")
            memory.seek(at)
            byte = memory.read(1)[0]
            memory.seek(at)
            memory.write(bytes([byte ^ 0x10]))
            flips.append((path, at, byte ^ 0x10))
    detail = f"one bit of shard {shard} flipped in {len(slots)} slots"
    return Injury(
        kind="corrupt-copy", who=found.machine, detail=detail, flips=tuple(flips)
    )


def find_machine(status: Status, machine: str) -> MachineStatus:
    """Returns a machine by name ("m02"), by machine rank ("2"), or as "root".

    Raises: UsageError naming those that are there."""
    for found in status.machines:
        if machine in (found.machine, str(found.machine_rank)):
            return found
        if machine == "root" and found.machine == status.root:
            return found
    names = ", ".join(found.machine for found in status.machines)
    raise UsageError(f"there is no machine {machine!r}; there are: {names}")


def _signal_rank(status: Status, rank: int, number: int) -> None:
    """Sends a signal to a rank's process, if it still is that: what the root says is
    up to half a second old, and the number may be somebody else's by now."""
    places = {r: found for found in status.machines for r in found.ranks}
    if rank not in places:
        raise UsageError(f"rank {rank} does not run now; running: {sorted(places)}")
    pid, group = places[rank].ranks[rank], places[rank].group
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        raise UsageError(f"rank {rank} (process {pid}) is gone: {error}") from error
    try:
        if os.getpgid(pid) != group and not _hosts_guests(group):
            raise UsageError(f"process {pid} is not rank {rank} any more; try again")
        signal.pidfd_send_signal(descriptor, number)
    except OSError as error:
        raise UsageError(f"rank {rank} (process {pid}): {error}") from error
    finally:
        os.close(descriptor)


def live_group(found: MachineStatus) -> int:
    """Returns the process group of a machine; its leader is the agent.

    Raises: UsageError when no agent of that name lives any more."""
    words = _words(found.group)
    agents = (b"twinstep.cloud.start", b"twinstep.guesthouse")
    # On a host of its own (demo/hosts) the group is led by who has made the host.
    agent = any(name in words for name in (*agents, b"join"))
    if not agent or found.machine.encode() not in words:
        raise UsageError(
            f"{found.machine} (process group {found.group}) is gone; look again with "
            "`twinstep status`"
        )
    return found.group


def _hosts_guests(agent: int) -> bool:
    """Whether an agent that lives leaves it to another launcher to start its ranks."""
    return b"twinstep.guesthouse" in _words(agent)


def _child(pid: int) -> int:
    """The first child of a process, or itself: on a host of its own the leader of the
    group has made the host, and its child is the agent."""
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    except (OSError, IndexError):
        return pid


def _words(pid: int) -> list[bytes]:
    """The command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def all_slots(pid: int) -> list[tuple[int, Path]]:
    """(shard, path) of each slot that the process `pid` has open; none if it is
    gone."""
    slots: list[tuple[int, Path]] = []
    try:
        paths = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return []
    for path in paths:
        try:
            target = os.readlink(path)
        except OSError:
            continue  # closed in between
        if found := SLOT.match(target):
            slots.append((int(found.group(1)), path))
    return slots


def slots_of(pid: int, shard: int) -> list[Path]:
    """Returns the slots of a shard that the process `pid` holds, as files: one path
    each. An agent has every slot open twice, once for its map, and a bit that is
    flipped twice is as it was."""
    paths = [path for found, path in all_slots(pid) if found == shard]
    return list({path.stat().st_ino: path for path in paths}.values())
