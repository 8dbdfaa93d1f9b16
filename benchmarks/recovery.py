"""How long a killed rank, or a lost machine, keeps training from its next step.

    python -m benchmarks.recovery [--json FILE]

Two ranks with 256 MB of state each train; then, again and again, one is killed with
SIGKILL, or a machine (agent and rank at once). The time runs from the signal to the
first step that the new processes have made, by the clock of this computer; the phases
are from the timeline that the root keeps. Beside it, in the same run, the same script
under torchrun: with torch.save into shared memory at every step, and with no state.
In both, all processes are new after a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import jobs
from twinstep import inject
from twinstep.agent.record import Recovery
from twinstep.agent.status import Status

SCRIPT = Path(__file__).with_name("lost.py")
RANK_S_MAX = 1.0  # and what loading takes
DECISION_S_MAX = 2.0
START_S_MAX = 180.0
BACK_S_MAX = 120.0
PHASES = ("detected", "decided", "machine_ready", "ranks_up", "loaded", "first_step")
SHARED_MEMORY = Path("/dev/shm")
# With torch 2.13 and one store for all attempts, restarted gloo ranks find the dead
# ones' addresses in it and fail; a store for each attempt is what makes them start.
TORCHRUN_SETTINGS = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


class Steps:
    """What the ranks have written down: when, who, and which step."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "steps"
        self.stop = folder / "stop"

    def arguments(self, megabytes: float) -> list[str]:
        words = ["--megabytes", str(megabytes), "--steps-file", str(self.file)]
        return [*words, "--stop-file", str(self.stop)]

    def of(self, rank: int) -> list[tuple[float, int, int]]:
        file = self.file.with_suffix(f".{rank}")
        if not file.exists():
            return []
        lines = file.read_text().splitlines()
        words = [line.split() for line in lines if line.count(" ") == 2]
        return [(float(at), int(pid), int(step)) for at, pid, step in words]

    def made(self, count: int, after_s: float, *, rank: int = 0) -> bool | None:
        """Whether so many steps were made after an instant."""
        return sum(at > after_s for at, _, _ in self.of(rank)) >= count or None

    def back(self, killed_s: float, former: set[int], *, rank: int = 0) -> float | None:
        """Seconds from the signal to the first step of a new process."""
        for at_s, pid, _ in self.of(rank):
            if at_s > killed_s and pid not in former:
                return at_s - killed_s
        return None

    def pids(self) -> set[int]:
        return {pid for rank in (0, 1) for _, pid, _ in self.of(rank)}


def measure_twinstep(*, kind: str, kills: int, megabytes: float) -> dict[str, Any]:
    """Kills a rank, or a machine, so often; returns seconds of each, by phase."""
    of_machine = kind == "machine"
    shape: dict[str, int] = {"machines": 1, "ranks_per_machine": 2, "copies": 1}
    if of_machine:
        shape = {"machines": 2, "copies": 2, "standbys": kills}
    with tempfile.TemporaryDirectory(prefix="twinstep-bench-") as name:
        steps = Steps(Path(name))
        arguments = steps.arguments(megabytes)
        job = jobs.Job(Path(name) / "job", SCRIPT, arguments, **shape)
        try:
            results: list[dict[str, float]] = []
            for _ in range(kills):
                _wait_until_ready(job, steps)
                injure = _kill_machine if of_machine else _kill_rank
                results.append(_kill(job, steps, injure))
            steps.stop.touch()
            job.wait_end(limit_s=BACK_S_MAX)
        finally:
            job.close()
    return summary(results)


def _wait_until_ready(job: jobs.Job, steps: Steps) -> None:
    """Steps are made and kept, all copies exist, and the standby is warm."""

    def ready(view: Any) -> bool | None:
        status: Status | None = view.status()
        known: list[Recovery] = view.recoveries()
        if status is None or (known and not known[-1].redundant_s):
            return None
        newest = known[-1].first_step_s if known else 0.0
        return (status.safe > 0 and steps.made(4, newest)) or None

    job.wait("copies of a step", ready, limit_s=START_S_MAX)
    since_s = time.time()
    job.wait("three steps more", lambda _: steps.made(3, since_s), limit_s=START_S_MAX)


def _kill_rank(status: Status) -> None:
    inject.kill_rank(status, 1)


def _kill_machine(status: Status) -> None:
    name = next(m.machine for m in status.machines if m.machine_rank == 1)
    if name == status.root:  # so that each time it is the same that happens
        name = next(m.machine for m in status.machines if m.machine_rank == 0)
    inject.kill_machine(status, name)


def _kill(
    job: jobs.Job, steps: Steps, injure: Callable[[Status], None]
) -> dict[str, float]:
    former = steps.pids()
    status = job.wait("its status", lambda view: view.status(), limit_s=BACK_S_MAX)
    number = job.wait(
        "its recoveries", lambda view: [len(view.recoveries())], limit_s=BACK_S_MAX
    )[0]
    killed_s = time.time()
    injure(status)
    back_s = job.wait(
        "a new step", lambda _: steps.back(killed_s, former), limit_s=BACK_S_MAX
    )

    def recovered(view: Any) -> Recovery | None:
        known: list[Recovery] = view.recoveries()
        return known[number] if len(known) > number and known[number].done else None

    record = job.wait("the recovery's record", recovered, limit_s=BACK_S_MAX)
    result = {"back": back_s, "steps_lost": float(record.steps_lost)}
    for phase in PHASES:
        at_s = getattr(record, f"{phase}_s")
        result[phase] = at_s - killed_s if at_s else 0.0
    # Of the new processes' time, what loading took: from being up to being loaded.
    result["load"] = max(0.0, result["loaded"] - result["ranks_up"])
    return result


def measure_torchrun(*, kills: int, megabytes: float, saves: bool) -> dict[str, Any]:
    """The same with torchrun: kill -9 of one rank to the first step of the new."""
    with (
        tempfile.TemporaryDirectory(prefix="twinstep-bench-") as name,
        tempfile.TemporaryDirectory(prefix="saves-", dir=SHARED_MEMORY) as saved,
    ):
        steps, log = Steps(Path(name)), Path(name) / "log"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", "2", "--max-restarts", str(kills)]
        command += [str(SCRIPT), *steps.arguments(megabytes), "--torchrun"]
        command += ["--saves", saved] if saves else []
        environment = dict(os.environ) | TORCHRUN_SETTINGS
        process = jobs.start(command, log, environment=environment)
        try:
            results: list[dict[str, float]] = []
            since_s = time.time()
            for _ in range(kills):
                _await(process, log, "steps", lambda at=since_s: steps.made(4, at))
                former = steps.pids()
                pid, killed_s = steps.of(1)[-1][1], time.time()
                os.kill(pid, signal.SIGKILL)
                back_s = _await(
                    process,
                    log,
                    "a new step",
                    lambda at=killed_s, old=former: steps.back(at, old),
                )
                results.append({"back": back_s})
                since_s = time.time()
            steps.stop.touch()
            jobs.wait_end(process, log, limit_s=BACK_S_MAX)
        finally:
            jobs.end(process)
    return summary(results)


def _await(process: Any, log: Path, what: str, look: Callable[[], Any]) -> Any:
    return jobs.wait(what, look, process, log, limit_s=BACK_S_MAX)


def summary(results: list[dict[str, float]]) -> dict[str, Any]:
    """Median and maximum of each phase, and each kill's own."""
    return {
        "median_s": {k: statistics.median(r[k] for r in results) for k in results[0]},
        "max_s": {k: max(r[k] for r in results) for k in results[0]},
        "kills": results,
    }


def measure(*, kills: int = 5, megabytes: float = 256.0) -> dict[str, Any]:
    return {
        "megabytes": megabytes,
        "rank": measure_twinstep(kind="rank", kills=kills, megabytes=megabytes),
        "machine": measure_twinstep(kind="machine", kills=kills, megabytes=megabytes),
        "torchrun": measure_torchrun(kills=kills, megabytes=megabytes, saves=True),
        "torchrun_bare": measure_torchrun(
            kills=kills, megabytes=megabytes, saves=False
        ),
    }


def describe(name: str, found: dict[str, Any]) -> str:
    median, worst = found["median_s"], found["max_s"]
    text = f"{name}: {len(found['kills'])} kills, back after {median['back']:.2f} s"
    text += f" (at most {worst['back']:.2f})"
    if "detected" in median:
        phases = ", ".join(f"{p} {median[p]:.2f}" for p in PHASES if worst[p])
        text += f"; {phases}; steps lost at most {worst['steps_lost']:.0f}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=256.0)
    options = parser.parse_args()
    found = measure(kills=options.kills, megabytes=options.megabytes)
    for name in ("rank", "machine", "torchrun", "torchrun_bare"):
        print(describe(name, found[name]))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
