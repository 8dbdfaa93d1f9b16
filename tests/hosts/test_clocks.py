"""A wrong clock is wrong everywhere in Python, and time still passes alike."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from twinstep.demo.hosts.clocks import make_clock, set_clock

LOOK = """
import sys, time
from twinstep.clock import monotonic_s, now_s, wall_s
for line in sys.stdin:
    time.sleep(0.01)
    print(wall_s(), time.time_ns() / 1e9, now_s(), monotonic_s(), flush=True)
"""


def test_the_clock_is_shifted_at_the_start_and_later(tmp_path: Path) -> None:
    folder = tmp_path / "clock"
    make_clock(folder, 3600.0)
    path = ":".join([str(folder), *sys.path])
    with subprocess.Popen(
        ["env", f"PYTHONPATH={path}", sys.executable, "-c", LOOK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def look() -> list[float]:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            words = process.stdout.readline().split()
            return [float(word) for word in words]

        wall_s, also_s, ours_s, monotonic_s = look()
        for told_s in (wall_s, also_s, ours_s):
            assert abs(told_s - time.time() - 3600) < 60
        assert abs(monotonic_s - time.monotonic()) < 60
        set_clock(folder, -3600.0)
        until_s = time.monotonic() + 10
        while look()[0] > time.time():
            assert time.monotonic() < until_s
        wall_s, _, ours_s, _ = look()
        assert abs(wall_s - time.time() + 3600) < 60
        assert abs(ours_s - time.time() - 3600) < 60, "ours never steps"
        process.stdin.close()
