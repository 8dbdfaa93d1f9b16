"""Memory control groups: one for all that runs on a machine, as a container has.

Both layouts are known. Version 2 needs a group above that gives its children the memory
controller.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from twinstep.clock import monotonic_s
from twinstep.errors import UsageError

MOUNTS = ("sys/fs/cgroup/memory", "sys/fs/cgroup", "sys/fs/cgroup/unified")
LEAVE_S_MAX = 5.0
LOOK_S = 0.02
_ENTER = 'echo 0 > "$1/cgroup.procs" && shift && exec "$@"'


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryGroup:
    """A memory control group."""

    path: Path

    @property
    def _first(self) -> bool:
        """Whether it is of version 1."""
        return (self.path / "memory.limit_in_bytes").exists()

    def used_bytes(self) -> int:
        name = "memory.usage_in_bytes" if self._first else "memory.current"
        return int((self.path / name).read_text())

    def limit(self, count: int | None) -> None:
        """At most so many bytes from now on; None for no limit.

        Raises: OSError when more is used and cannot be given up (version 1)."""
        none = "-1" if self._first else "max"
        name = "memory.limit_in_bytes" if self._first else "memory.max"
        (self.path / name).write_text(none if count is None else str(count))

    def kills(self) -> int:
        """How many processes of it the kernel has killed for memory."""
        name = "memory.oom_control" if self._first else "memory.events"
        found = re.search(r"^oom_kill (\d+)$", (self.path / name).read_text(), re.M)
        return int(found[1]) if found else 0

    def members(self) -> dict[int, str]:
        """The processes in it, and what each is."""
        found: dict[int, str] = {}
        for pid in map(int, (self.path / "cgroup.procs").read_text().split()):
            with contextlib.suppress(OSError):  # it has ended in between
                found[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
        return found

    def inside(self, command: Sequence[str]) -> list[str]:
        """Returns a command that runs `command` in the group."""
        return ["sh", "-c", _ENTER, "sh", str(self.path), *command]

    def close(self) -> None:
        """The group is gone, if nobody stays in it."""
        until_s = monotonic_s() + LEAVE_S_MAX
        while monotonic_s() < until_s:
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(LOOK_S)  # they are ending
            else:
                return


def new_group(name: str, *, root: Path = Path("/")) -> MemoryGroup:
    """Returns a new group below this process's own. Raises: UsageError saying why there
    can be none."""
    refused: list[str] = []
    for above in _above(root):
        path = above / name
        try:
            path.mkdir()
        except OSError as error:
            refused.append(f"{above}: {error.strerror}")
            continue
        group = MemoryGroup(path=path)
        try:
            group.used_bytes()
        except (OSError, ValueError):
            path.rmdir()
            refused.append(f"{above}: its children have no memory controller")
            continue
        return group
    raise UsageError(
        "a full memory limit needs a memory control group, version 1 or 2, that may be "
        f"made here, and there is none: {'; '.join(refused) or 'none is mounted'}"
    )


def _above(root: Path) -> Iterator[Path]:
    """The groups that this process is in, nearest first, in each layout."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        for mount in MOUNTS[:1] if controllers else MOUNTS[1:]:
            group = root / mount / own.lstrip("/")
            while group != (root / mount).parent:
                if (group / "cgroup.procs").exists():
                    yield group
                group = group.parent
