"""Real machines of a job that goes on with fewer, and with all again."""

from __future__ import annotations

import re
from pathlib import Path

from tests.joined import Joined, joined
from tests.trial import WORKLOADS, Trial, takes_long, trial

__all__ = ["joined", "trial"]
CONFIG = """\
machines = 3
min_machines = 2
preload = ["torch"]
[timing]
resize_after_s = 2.0
[storage]
path = "{path}"
every_s = 1000.0
"""


def starts(job: Joined) -> list[tuple[int, int, str]]:
    """(world, step, digest) of each start of a rank, by step."""
    text = "\n".join(job.out(name) for name in job.processes)
    found = re.findall(r"starts from (\d+) with (\d): (\w+)", text)
    return sorted((int(world), int(step), what) for step, world, what in found)


def made(folder: Path) -> set[tuple[int, str]]:
    lines = (folder / "made").read_text().splitlines()
    return {(int(step), what) for step, what in map(str.split, lines)}


@takes_long
def test_two_go_on_without_the_third_from_the_newest_step_and_three_again(
    joined: Joined, trial: Trial
) -> None:
    folder = trial.folder
    job = folder / "job.toml"
    job.write_text(CONFIG.format(path=folder / "stored"))
    joined.script = WORKLOADS / "fewer.py"
    joined.arguments = ("--keep", str(folder))
    joined.keep_store()
    for name in ("m0", "m1", "m2"):
        joined.join(name, "--config", str(job))

    def trains(machines: int, beyond: int = 0) -> int:
        status = joined.view().status()
        here = status is not None and status.phase == "training"
        if status is None or not here or status.places != machines:
            return 0
        return status.safe if status.safe > beyond else 0

    def reach(machines: int, beyond: int) -> int:
        what = f"{machines} that train beyond {beyond}"
        return trial.until(lambda: trains(machines, beyond), what, timeout_s=90.0)

    before = reach(3, 20)
    joined.kill("m1")
    fewer = reach(2, before + 20)
    joined.join("m3", "--config", str(job))
    reach(3, fewer + 20)
    (folder / "over").touch()
    for name in ("m0", "m2", "m3"):
        assert joined.wait(name) == 0, joined.out(name)
    known, seen = made(folder), starts(joined)
    on_two = [(step, what) for world, step, what in seen if world == 2]
    again = [(step, what) for world, step, what in seen if world == 3 and step]
    assert len(on_two) == 2 and min(on_two)[0] >= before - 1
    assert len(again) == 3 and min(again)[0] >= fewer
    assert set(on_two) | set(again) <= known, "what they start from is what was made"
    logs = "\n".join(joined.out(name) for name in joined.processes)
    assert "goes on with 2 machines instead of 3" in logs
    assert "goes on with 3 machines instead of 2" in logs
