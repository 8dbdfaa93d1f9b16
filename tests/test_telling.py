"""No output that is full, closed or hung ends a job, or holds it up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trial import COMMAND

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
TALKS = """
import sys
for number in range(4000):
    print(number, "x" * 60)
print("an error", file=sys.stderr)
"""


@needs_full
def test_a_line_that_cannot_be_written_leaves_the_exit_status_alone() -> None:
    code = "from twinstep.telling import tell; tell('a'); tell('b', error=True)"
    with FULL.open("wb") as full:
        command = [sys.executable, "-c", code]
        assert subprocess.run(command, stdout=full, stderr=full).returncode == 0


def test_lines_are_told_in_order_with_those_of_print() -> None:
    code = "from twinstep.telling import tell; print('a'); tell('b'); print('c')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "a\nb\nc\n"


def run(tmp_path: Path, stdout: int) -> subprocess.Popen[bytes]:
    """A job of two machines whose ranks print more than a pipe holds."""
    script = tmp_path / "talks.py"
    script.write_text(TALKS)
    config = tmp_path / "config.toml"
    config.write_text("warm = false\n")
    command = [COMMAND, "run", "--machines", "2", "--job", str(tmp_path / "job")]
    command += ["--config", str(config), str(script)]
    return subprocess.Popen(command, stdout=stdout, stderr=stdout)


@needs_full
def test_a_job_whose_disk_is_full_ends_well(tmp_path: Path) -> None:
    with FULL.open("wb") as full:
        assert run(tmp_path, full.fileno()).wait(60) == 0


def test_a_job_whose_output_nobody_reads_ends_well(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    process = run(tmp_path, write_end)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as reader:
        # The pipe is full from its 64th kB on; the launcher itself would wait there.
        try:
            status = process.wait(30)
        except subprocess.TimeoutExpired:
            status = -1
            process.kill()
        said = reader.read()
    assert status == 0, said[-2000:]
