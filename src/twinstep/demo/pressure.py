"""Memory and disks that are full, on one machine.

**Memory.** All of a machine runs in a memory control group of its own from its start.
The blow sets the limit to what is used and lets one more process grow in there, as a
leak beside the training does, until the kernel kills something: a rank, the warm
process, the agent, whichever is largest. Then the limit is lifted.

**Disk.** A machine's folder and its output are on a small file system of its own. It is
filled, and a rank killed meanwhile, because an agent writes most when something
happens: the job must come back with every line lost.

Left out: a slow disk. Lines wait in a thread (agent/outlet.py, tried with a pipe that
nobody reads), and nothing else that an agent or a session waits for is on a disk.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from random import Random

from twinstep import inject
from twinstep.clock import monotonic_s
from twinstep.demo.faults import Blow, Scene, training
from twinstep.demo.hosts.disks import fill
from twinstep.errors import DeadlinePassed

FULL_S = (2.0, 4.0)
SLACK_BYTES = 4 << 20
"""Above what is used, so that the limit can be set at all."""
KILLED_S_MAX = 30.0
LOOK_S = 0.002
_PIECE_BYTES = 1 << 20
# Never the victim while anything else is left, and gone when its input ends.
_HOG = f"""
import os, select, sys
open("/proc/self/oom_score_adj", "w").write("-900")
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
held = []
while not select.select([0], [], [], {LOOK_S})[0]:
    held.append(bytearray(b"x") * {_PIECE_BYTES})
"""


def memory_limit(scene: Scene, random: Random) -> Blow:
    """A machine's memory is full, until the kernel has killed something of it."""
    machine = random.choice([each.machine for each in training(scene.status)])
    group = scene.ground.memory_of(machine)
    before, kills = group.members(), group.kills()
    limit_bytes = group.used_bytes() + SLACK_BYTES
    group.limit(limit_bytes)
    struck_s = scene.now_s()
    command = [sys.executable, "-I", "-S", "-c", _HOG, str(group.path)]
    hog = subprocess.Popen(command, stdin=subprocess.PIPE)
    until_s = monotonic_s() + KILLED_S_MAX
    try:
        while group.kills() == kills:
            if monotonic_s() > until_s:
                raise DeadlinePassed(
                    f"the kernel killed nothing of {machine} in {KILLED_S_MAX:g} s, "
                    f"with {limit_bytes / 1e6:.0f} MB allowed"
                )
            time.sleep(LOOK_S)
    finally:
        hog.kill()
        hog.communicate()
        with contextlib.suppress(FileNotFoundError):
            group.limit(None)
    left = group.members()
    gone = sorted({what for pid, what in before.items() if pid not in left})
    return Blow(
        who=machine,
        what=f"{machine} out of memory",
        detail=f"limit {limit_bytes / 1e6:.0f} MB; killed: {', '.join(gone) or '?'}",
        struck_s=struck_s,
    )


def full_disk(scene: Scene, random: Random) -> Blow:
    """A machine's disk is full for some seconds, in which a rank of it is killed."""
    machine = random.choice(training(scene.status))
    folder = scene.ground.disk_of(machine.machine)
    hog = fill(folder)
    lasts_s, struck_s = random.uniform(*FULL_S), scene.now_s()
    rank = random.choice(sorted(machine.ranks))

    def mend() -> None:
        with contextlib.suppress(OSError):  # the machine is gone with its disk
            hog.unlink()

    try:
        inject.kill_rank(scene.status, rank)
    except BaseException:
        mend()
        raise
    return Blow(
        who=machine.machine,
        what=f"{machine.machine}'s disk full",
        detail=f"for {lasts_s:.1f} s, and rank {rank} killed",
        struck_s=struck_s,
        lasts_s=lasts_s,
        mend=mend,
    )
