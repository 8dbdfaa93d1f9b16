"""Lines are written where that is possible, and nobody waits where it is not."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinstep.agent.outlet import PIECE_BYTES_MAX, Outlet

WAIT_S = 20.0


def test_lines_come_in_order_and_in_whole_pieces() -> None:
    read_end, write_end = os.pipe()
    outlet = Outlet(write_end)
    said = [f"{number} {'x' * (number % 200)}" for number in range(500)]
    said.append("y" * 3 * PIECE_BYTES_MAX)
    for line in said:
        outlet.write(line)
    with os.fdopen(read_end) as reader:
        assert [reader.readline().rstrip("\n") for _ in said] == said
        outlet.close()
        os.close(write_end)
        assert reader.read() == ""


def test_a_reader_that_does_not_read_holds_up_nobody_and_hears_what_it_missed() -> None:
    read_end, write_end = os.pipe()
    outlet = Outlet(write_end, waiting_bytes_max=100_000)
    for number in range(10_000):  # 1 MB, and a pipe takes 64 kB
        outlet.write(f"{number:099d}")
    found: list[int] = []
    missing = 0
    with os.fdopen(read_end) as reader:
        while len(found) < 1000:  # 100 kB less wait now, so that there is room
            found.append(int(reader.readline()))
        outlet.write("at last")
        while (line := reader.readline()) != "at last\n":
            if line.startswith("twinstep:"):
                assert "are missing here: nobody took" in line
                missing += int(line.split()[1])
            else:
                found.append(int(line))
    assert found == sorted(found) and missing > 0
    assert missing + len(found) == 10_000
    outlet.close()
    os.close(write_end)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_full_disk_loses_lines_and_says_so_when_it_has_room(small_disk: Path) -> None:
    log, hog = small_disk / "log", small_disk / "hog"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    outlet = Outlet(descriptor)
    outlet.write("before")
    until(lambda: log.read_text() == "before\n")
    with pytest.raises(OSError, match="space"):
        hog.write_bytes(bytes(1 << 20))
    said = [f"line {number} {'x' * 50}" for number in range(200)]
    for line in said:
        outlet.write(line)
    until(lambda: log.stat().st_size == 4096)  # the page that was begun is full
    hog.unlink()
    outlet.write("after")
    outlet.close()
    os.close(descriptor)
    found = log.read_text().splitlines()
    assert found[0] == "before" and found[-1] == "after"
    # The room came back while some of the lines still waited, perhaps.
    (notice,) = (line for line in found if line.startswith("twinstep:"))
    assert notice.endswith("are missing here: No space left on device"), notice
    lost = int(notice.split()[1])
    whole = [line for line in found if line in said]
    assert whole == [line for line in said if line in whole]
    assert lost > 0 and lost + len(whole) >= 200


def test_a_closed_pipe_ends_nothing() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    outlet = Outlet(write_end)
    for _ in range(100):
        outlet.write("nobody hears")
    outlet.close()
    os.close(write_end)


def until(true) -> None:
    until_s = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < until_s
        time.sleep(0.01)
