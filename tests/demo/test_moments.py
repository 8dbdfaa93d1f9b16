"""A victim is caught in the middle of a copy, or is left in peace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.demo import records
from twinstep.demo.faults import Missed, Scene
from twinstep.demo.ground import Loopback
from twinstep.demo.moments import AIMS, blow_of, caught
from twinstep.demo.victims import Victim
from twinstep.errors import UsageError

SIZE = 1 << 20
WRITER = f"""
import mmap, os, sys, time
memory = mmap.mmap(int(sys.argv[1]), {SIZE})
copy = 0
while True:
    copy += 1
    for at in range(0, {SIZE}, 4096):
        memory[at : at + 4096] = bytes([copy % 250]) * 4096
        if at % 65536 == 0:
            time.sleep(float(sys.argv[2]))
    time.sleep(0.01)
"""


@contextmanager
def writer(pause_s: float) -> Iterator[tuple[Victim, Path]]:
    """A process that fills a slot again and again, slowly or at once."""
    descriptor = os.memfd_create("twinstep-0-0")
    os.ftruncate(descriptor, SIZE)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(descriptor), str(pause_s)],
        pass_fds=[descriptor],
    )
    try:
        victim = Victim(who="writer", machine="m00", process=process.pid)
        yield victim, Path(f"/proc/self/fd/{descriptor}")
    finally:
        process.kill()
        process.wait()
        os.close(descriptor)


def state(victim: Victim) -> str:
    raw = Path(f"/proc/{victim.process}/stat").read_text()
    return raw.rpartition(")")[2].split()[0]


def test_a_writer_is_caught_in_the_middle_of_a_copy() -> None:
    with writer(0.002) as (victim, path):
        with caught(victim, [path], within_s=20) as catch:
            assert 0 < catch.share < 1
            assert catch.aims >= 1
            assert state(victim) == "T"
        victim.let_go()
        assert state(victim) != "T"


def test_who_does_not_write_is_hit_while_the_writer_stands_still() -> None:
    with writer(0.002) as (writes, path):
        process = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"]
        )
        try:
            victim = Victim(who="agent", machine="m01", process=process.pid)
            with caught(victim, [path], writer=writes, within_s=20) as catch:
                assert 0 < catch.share < 1
                assert state(writes) == state(victim) == "T"
            assert state(writes) != "T" and state(victim) == "T"
        finally:
            process.kill()
            process.wait()


def test_where_nothing_is_written_the_aim_is_missed() -> None:
    with writer(0.0) as (victim, path):
        os.kill(victim.process, signal.SIGSTOP)
        nothing = pytest.raises(Missed, match="writer: 0 aims in 0.1 s")
        with nothing, caught(victim, [path], within_s=0.1):
            pytest.fail("there was nothing to catch")


def test_a_victim_that_is_gone_is_named() -> None:
    with writer(0.0) as (victim, _):
        os.kill(victim.process, signal.SIGKILL)
        os.waitpid(victim.process, 0)
        with pytest.raises(UsageError, match="writer is gone"):
            victim.stop()
        victim.let_go()


def test_a_pause_is_mended_and_a_stopped_rank_stays() -> None:
    scene = Scene(status=records.status(), ground=Loopback(), now_s=lambda: 7.0)
    with writer(0.0) as (victim, _):
        victim.stop()
        paused = blow_of(
            scene, victim, Random(1), kill=False, detail="sending", struck_s=7.0
        )
        assert paused.mend is not None and paused.lasts_s > 0
        paused.mend()
        assert state(victim) != "T"
        rank = Victim(who="rank 0", machine="m00", process=1, is_rank=True)
        stopped = blow_of(
            scene, rank, Random(1), kill=False, detail="sending", struck_s=7.0
        )
        assert stopped.mend is None


def test_where_there_is_no_rank_nobody_is_aimed_at() -> None:
    idle = [m for m in records.status().machines if m.machine_rank < 0]
    for choose in AIMS.values():
        with pytest.raises(UsageError, match="no root trains now"):
            choose(records.status(machines=idle), "root", Random(1))
