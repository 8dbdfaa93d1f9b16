"""Holds copies in host memory that is all reserved at the start, or refused.

A slot is a memfd: memory with a file descriptor. The descriptor can be handed to
another process over a Unix socket, the memory lives as long as any process holds it,
and nothing is left behind when all of them are killed. A slot is sealed against being
shrunk, so a process that reads it cannot be killed (SIGBUS) by one that cuts it.

Every page is touched before the first step: a first touch costs 5 to 10 times what a
warm copy does, and a reservation that was never touched is only a hope. What would
not fit is refused before anything is allocated, with the sum.

Left out: what is in a slot, and which of two slots may be overwritten (`agent/`).
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from twinstep.errors import DoesNotFit, ProtocolError
from twinstep.store.slots import SLOTS, SLOTS_MAX

MARGIN_BYTES = 256 * 1024 * 1024
"""Left free for the agent, the sockets' buffers and whatever else runs."""

_TOUCH_BYTES = 8 << 20  # some 10 ms
_MADV_POPULATE_WRITE = 23  # Linux 5.14; not in Python's mmap
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Slot:
    """Host memory for one copy of one shard, shared by descriptor."""

    def __init__(self, fd: int, *, size: int) -> None:
        """Maps `fd`, and owns it from now on."""
        self.fd = fd
        self.size = size
        self._mapping = mmap.mmap(fd, size)
        _try_huge(self._mapping)
        _touch(self._mapping)
        self.view = memoryview(self._mapping)

    @classmethod
    def create(cls, name: str, *, capacity_bytes: int) -> Slot:
        """Returns a new slot of at least `capacity_bytes`, all of it in memory.

        `name` is what /proc shows. Raises: OSError when the kernel has no such
        memory."""
        size = slot_bytes(capacity_bytes)
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(fd, size=size)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Gives the memory up here; a view taken from `view` keeps it mapped."""
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        # Somebody may still read. The mapping then goes with the last view of it.
        with contextlib.suppress(BufferError):
            self.view.release()
            self._mapping.close()


def adopt(fd: int) -> Slot:
    """Returns the slot behind a descriptor that another process has sent.

    The slot owns `fd`; where this raises, `fd` is still the caller's.

    Raises: ProtocolError when it could shrink while it is read, or is empty."""
    try:
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    except OSError:
        sealed = 0
    size = os.fstat(fd).st_size
    if not sealed or size == 0:
        raise ProtocolError(
            f"descriptor {fd} ({size} bytes) is no slot: it "
            + ("is empty" if sealed else "is not sealed against shrinking")
        )
    return Slot(fd, size=size)


class Reservation:
    """All slots that a machine holds. Nothing grows after it was made."""

    def __init__(self, slots: Mapping[tuple[int, int], Slot]) -> None:
        self._slots = dict(slots)

    def slot(self, shard: int, slot: int) -> Slot:
        return self._slots[shard, slot]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def reserved_bytes(self) -> int:
        return sum(slot.size for slot in self._slots.values())

    def close(self) -> None:
        for slot in self._slots.values():
            slot.close()


def slot_bytes(capacity_bytes: int) -> int:
    """What a slot for `capacity_bytes` takes: whole pages, at least one."""
    page = mmap.PAGESIZE
    return max(1, -(-capacity_bytes // page)) * page


def reserve(
    capacities: Mapping[int, int],
    *,
    spare: Collection[int] = (),
    third: bool = False,
    available: int | None = None,
    margin_bytes: int = MARGIN_BYTES,
) -> Reservation:
    """Returns two touched slots for each shard in `capacities` (shard: bytes), and
    three for those in `spare`; with `third` only the third of each.

    `available` is what may be used, in bytes; without it, what the computer has.

    Raises: DoesNotFit with the sum, before anything is allocated."""
    room = available_bytes() if available is None else available
    numbers = {
        shard: range(SLOTS, SLOTS_MAX)
        if third
        else range(SLOTS_MAX if shard in spare else SLOTS)
        for shard in capacities
    }
    counts = {shard: len(slots) for shard, slots in numbers.items()}
    needed = sum(counts[s] * slot_bytes(size) for s, size in capacities.items())
    if needed + margin_bytes > room:
        raise DoesNotFit(_arithmetic(capacities, counts, room, margin_bytes))
    slots: dict[tuple[int, int], Slot] = {}
    try:
        for shard, capacity_bytes in capacities.items():
            for slot in numbers[shard]:
                slots[shard, slot] = Slot.create(
                    f"twinstep-{shard}-{slot}", capacity_bytes=capacity_bytes
                )
    except OSError as error:
        Reservation(slots).close()
        what = _arithmetic(capacities, counts, room, margin_bytes)
        raise DoesNotFit(f"{what} (the kernel said: {error})") from error
    reservation = Reservation(slots)
    assert reservation.reserved_bytes == needed, (reservation.reserved_bytes, needed)
    return reservation


def _arithmetic(
    capacities: Mapping[int, int],
    counts: Mapping[int, int],
    room: int,
    margin_bytes: int,
) -> str:
    sums: list[str] = []
    for slots in sorted(set(counts.values())):
        sizes = {s: c for s, c in capacities.items() if counts[s] == slots}
        terms = [f"shard {s}: {_size(slot_bytes(c))}" for s, c in sizes.items()]
        if len(terms) > 8:
            terms = [*terms[:7], f"{len(terms) - 7} more"]
        sums.append(f"{slots} slots x ({' + '.join(terms)})")
    needed = sum(counts[s] * slot_bytes(size) for s, size in capacities.items())
    return (
        f"{' + '.join(sums)} = {_size(needed)}, and "
        f"{_size(margin_bytes)} are left for the rest, but {_size(room)} are "
        "available; lower copies, train on more machines, or give this one more memory"
    )


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count} B"


def available_bytes(*, root: Path = Path("/")) -> int:
    """Returns how many bytes this process may still take.

    The least of what the computer has available and what each control group above
    the process has left (version 1 or 2); file cache counts as free in both."""
    left = [_meminfo(root / "proc/meminfo")]
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for mount in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
                left += _groups_left(
                    root / mount, path, "memory.max", "memory.current", "inactive_file"
                )
        elif "memory" in controllers.split(","):
            left += _groups_left(
                root / "sys/fs/cgroup/memory",
                path,
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
    return max(0, min(left))


def _groups_left(
    mount: Path, path: str, limit: str, usage: str, cache: str
) -> Iterator[int]:
    """What each group from `path` up to the mount has left.

    In a container the path may be the host's and not exist here; the mount itself is
    then the container's group."""
    group = PurePosixPath(path.lstrip("/"))
    for name in (group, *group.parents):
        at = mount / name
        most, used = _number(at / limit), _number(at / usage)
        if most is None or used is None:
            continue
        yield most - used + _field(at / "memory.stat", cache)


def _meminfo(path: Path) -> int:
    return _field(path, "MemAvailable:") * 1024


def _field(path: Path, name: str) -> int:
    for line in _lines(path):
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    return 0


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _try_huge(mapping: mmap.mmap) -> None:
    # A kernel without huge pages refuses; only speed is lost.
    with contextlib.suppress(OSError):
        mapping.madvise(mmap.MADV_HUGEPAGE)


def _touch(mapping: mmap.mmap) -> None:
    """Makes every page present and mapped here; contents stay as they are.

    In steps, because Python holds its lock during madvise: an agent that reserves
    10 GB must renew its lease meanwhile."""
    size = len(mapping)
    try:
        for at in range(0, size, _TOUCH_BYTES):
            mapping.madvise(_MADV_POPULATE_WRITE, at, min(_TOUCH_BYTES, size - at))
    except OSError as error:
        if error.errno != 22:  # EINVAL: an older kernel
            raise
        for at in range(0, len(mapping), mmap.PAGESIZE):
            mapping[at] = mapping[at]
