"""Memory and disks of a machine's own that run out: groups in both layouts, a disk."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.needs import needs_hosts
from twinstep.demo.ground import Work
from twinstep.demo.hosts.disks import LOG, fill
from twinstep.demo.hosts.ground import Hosts
from twinstep.demo.hosts.groups import MemoryGroup, new_group
from twinstep.errors import UsageError

LIMIT = 400 << 20
ASKS = """
from twinstep.errors import DoesNotFit
from twinstep.store.memory import available_bytes, reserve
print(available_bytes())
try:
    reserve({0: 100 << 20})
except DoesNotFit as error:
    print(error)
"""


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    try:
        made = new_group(f"twinstep-test-{os.getpid()}")
    except UsageError as error:
        pytest.skip(str(error))
    yield made
    made.close()
    assert not made.path.exists()


def test_a_reservation_over_the_groups_limit_is_refused_with_the_sum(group) -> None:
    group.limit(LIMIT)
    command = group.inside([sys.executable, "-c", ASKS])
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    available, refusal = done.stdout.splitlines()
    assert 0 < int(available) < LIMIT
    assert "2 slots x (shard 0: 104.86 MB) = 209.72 MB" in refusal
    assert "268.44 MB are left for the rest" in refusal


def test_who_takes_more_than_the_group_may_is_killed_and_counted(group) -> None:
    group.limit(64 << 20)
    hog = "held = bytearray(b'x') * (200 << 20)"
    done = subprocess.run(group.inside([sys.executable, "-I", "-S", "-c", hog]))
    assert done.returncode == -9
    assert group.kills() == 1 and group.members() == {}
    group.limit(None)
    done = subprocess.run(group.inside([sys.executable, "-I", "-S", "-c", hog]))
    assert done.returncode == 0


def test_version_2_is_read_and_written_by_its_own_names(tmp_path: Path) -> None:
    group = MemoryGroup(path=tmp_path)
    (tmp_path / "memory.current").write_text("4096\n")
    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert (group.used_bytes(), group.kills()) == (4096, 2)
    group.limit(None)
    assert (tmp_path / "memory.max").read_text() == "max"
    group.limit(100)
    assert (tmp_path / "memory.max").read_text() == "100"


def test_without_a_controller_it_is_said_why(tmp_path: Path) -> None:
    """Groups of version 2 without memory, as beside those of version 1."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/job\n")
    mount = tmp_path / "sys/fs/cgroup"
    (mount / "job").mkdir(parents=True)
    for folder in (mount, mount / "job"):
        (folder / "cgroup.procs").touch()
    with pytest.raises(UsageError, match="children have no memory controller"):
        new_group("mine", root=tmp_path)
    assert not (mount / "job/mine").exists()


@needs_hosts
def test_no_group_is_left_of_machines_that_still_ran(
    group: MemoryGroup, tmp_path: Path
) -> None:
    script = tmp_path / "waits.py"
    script.write_text("import time; time.sleep(1000)")
    work = Work(command=[str(script)], machines=2, standbys=0, copies=2)
    hosts = Hosts(replacements=1, own={"memory"})
    with (tmp_path / "log").open("wb") as log:
        hosts.start(work, tmp_path, log)
        groups = [hosts.memory_of(name) for name in ("m00", "m01")]
        until_s = time.monotonic() + 20
        while not all(each.members() for each in groups):
            assert time.monotonic() < until_s, groups
            time.sleep(0.02)
        hosts.close(limit_s=10)
    assert not any(each.path.exists() for each in groups)


def test_a_filled_disk_takes_no_byte_more(tmp_path: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted: {done.stderr.strip()}")
    try:
        with (tmp_path / LOG).open("ab", buffering=0) as log:
            log.write(b"a line\n")
            hog = fill(tmp_path)
            with pytest.raises(OSError, match="No space left"):
                log.write(b"b")
            hog.unlink()
            assert log.write(b"b") == 1
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
