"""What writing steps to storage costs a training that computes with all cores.

    python -m benchmarks.draining [--json FILE] [--folder FOLDER] [--quick]

Each job is a real one of `twinstep run`: two machines of one rank and one thread, DDP,
every step protected, with benchmarks/draining_loop.py as its script; all compute the
same batch. Each machine writes half of every stored step.

    none        without storage
    full        --storage, as often as the disk allows: the next as one is written
    half        the same with bandwidth_max at half of what `full` reached at first
    foreground  `full` with background = false: the writing competes for the cores

All kinds come once in each round, in an order drawn anew. `step` and `mean` are those
of a job against those of `none` in the same round. Drained bytes and processor seconds
are what the agents say of the parts of counted steps; the seconds are those of the
writing threads (checksums, write, fsync), not of the kernel's threads.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.jobs import Job
from benchmarks.steps import spread

SCRIPT = Path(__file__).with_name("draining_loop.py")
KINDS = ("none", "full", "half", "foreground")
MACHINES = 2
WARM_UP = 3
LIMIT_S = 400.0
FREE_BYTES_MIN = 4_000_000_000
"""What the disk keeps for everybody else."""
PART = re.compile(
    r"wrote its part of step (\d+) to storage: ([\d.]+) MB in ([\d.]+) s, ([\d.]+) s"
)
WHOLE = re.compile(r"step (\d+) is in storage \(")
TROUBLE = re.compile(r"is not written to storage: (?!the round ended)(.*)")


def run(
    kind: str,
    folder: Path,
    *,
    megabytes: float,
    tensors: int,
    steps: int,
    step_s: float,
    rows: int,
    bandwidth_max: int,
) -> dict[str, Any]:
    """Returns what a job's rank 0 found, and what its agents said of storage."""
    name, storage = Path(tempfile.mkdtemp(prefix="twinstep-bench-")), folder / "storage"
    result = name / "result"
    arguments = ["--megabytes", str(megabytes), "--tensors", str(tensors)]
    arguments += ["--rows", str(rows), "--step-s", str(step_s)]
    arguments += ["--warm-up", str(WARM_UP), "--steps", str(steps)]
    job = Job(
        name / "job",
        SCRIPT,
        [*arguments, "--result", str(result)],
        machines=MACHINES,
        copies=MACHINES,
        options=[] if kind == "none" else ["--storage", str(storage)],
        settings=settings_of(kind, bandwidth_max),
    )
    try:
        job.wait_end(limit_s=LIMIT_S)
        found = json.loads(result.read_text())
        found |= told(job.log.read_text(errors="replace"), took_s=found["took_s"])
    finally:
        job.close()
        shutil.rmtree(name, ignore_errors=True)
        shutil.rmtree(storage, ignore_errors=True)
    return found


def settings_of(kind: str, bandwidth_max: int) -> str:
    match kind:
        case "half":
            return f"[storage]\nbandwidth_max = {bandwidth_max}\n"
        case "foreground":
            return "[storage]\nbackground = false\n"
        case _:
            return ""


def told(log: str, *, took_s: float) -> dict[str, Any]:
    """Returns what the agents said of the counted steps, in all and a second."""
    parts = [
        tuple(float(number) for number in match.groups())
        for match in PART.finditer(log)
        if int(match[1]) >= WARM_UP
    ]
    whole = [int(step) for step in WHOLE.findall(log) if int(step) >= WARM_UP]
    size = sum(megabytes for _, megabytes, _, _ in parts) * 1e6
    cpu_s = sum(cpu_s for *_, cpu_s in parts)
    return {
        "stored": len(whole),
        "drained_bytes": size,
        "drained_bytes_per_s": size / took_s,
        "writing_bytes_per_s": statistics.median(
            megabytes * 1e6 / max(wall_s, 1e-3) for _, megabytes, wall_s, _ in parts
        )
        if parts
        else 0.0,
        "cpu_s": cpu_s,
        "cores_share": cpu_s / took_s / (os.cpu_count() or 1),
        "cpu_s_per_gb": cpu_s / size * 1e9 if size else 0.0,
        "trouble": TROUBLE.findall(log),
    }


def measure(
    *,
    megabytes: float,
    tensors: int,
    steps: int,
    step_s: float,
    rounds: int,
    folder: Path,
    tell: Callable[[str], None],
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Returns all jobs, and their summary by kind."""
    same = {"megabytes": megabytes, "tensors": tensors, "steps": steps}
    rows, bandwidth_max = 0, 0
    found: list[dict[str, dict[str, Any]]] = []
    loads: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bench-draining-", dir=folder) as name:
        for number in range(rounds):
            # `half` needs to know what `full` reached, and all the batch of the first.
            draw = random.Random(number)
            order = draw.sample(KINDS, len(KINDS)) if number else list(KINDS)
            jobs: dict[str, dict[str, Any]] = {}
            for kind in order:
                tell(f"round {number + 1} of {rounds}: {kind}")
                loads.append(os.getloadavg()[0])
                jobs[kind] = run(
                    kind,
                    Path(name),
                    **same,
                    step_s=step_s,
                    rows=rows,
                    bandwidth_max=bandwidth_max,
                )
                rows = jobs[kind]["rows"]
                note(line(jobs[kind], f"round {number + 1}, {kind}", loads[-1]))
                if kind == "full" and not bandwidth_max:
                    bandwidth_max = max(1, int(jobs[kind]["writing_bytes_per_s"] / 2))
            found.append(jobs)
    first = found[0]["none"]
    return {
        "bytes": first["bytes"],
        "tensors": first["tensors"],
        "machines": MACHINES,
        "rows": rows,
        "steps": steps,
        "bandwidth_max": bandwidth_max,
        "load_before": loads,
        "kinds": summary(found),
        "rounds": found,
    }


def summary(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    def compared(kind: str, of: Callable[[list[float]], float]) -> dict[str, float]:
        each = [
            of(jobs[kind]["steps_s"]) / of(jobs["none"]["steps_s"]) for jobs in rounds
        ]
        return spread(each)

    found: dict[str, Any] = {}
    for kind in KINDS:
        jobs = [one[kind] for one in rounds]
        steps_s = [s for job in jobs for s in job["steps_s"]]
        found[kind] = {
            "step_s": statistics.median(steps_s),
            "spread_s": spread(steps_s)["high"] - spread(steps_s)["low"],
            "step_ratio": compared(kind, statistics.median),
            "mean_ratio": compared(kind, statistics.fmean),
            "captured": sum(job["captured"] for job in jobs),
            "told": len(steps_s),
            "stored": sum(job["stored"] for job in jobs),
            "trouble": [text for job in jobs for text in job["trouble"]],
        } | {
            key: statistics.median(job[key] for job in jobs)
            for key in (
                "drained_bytes_per_s",
                "writing_bytes_per_s",
                "cores_share",
                "cpu_s_per_gb",
            )
        }
    return found


def line(job: dict[str, Any], title: str, load: float) -> str:
    steps_s = job["steps_s"]
    return (
        f"{title}: median step {statistics.median(steps_s):.3f} s, mean "
        f"{statistics.fmean(steps_s):.3f} s; {job['stored']} stored, "
        f"{job['cores_share']:.1%} of the cores; load before {load:.1f}"
    )


def table(found: dict[str, Any]) -> Table:
    title = (
        f"{found['bytes'] / 1e6:.0f} MB in {found['tensors']} tensors, "
        f"{len(found['rounds'])} jobs of {found['steps']} steps each; load average "
        f"{min(found['load_before']):.1f} to {max(found['load_before']):.1f}"
    )
    names = ("", "step, s", "median", "mean", "captured", "stored", "MB/s", "of cores")
    drawn = Table(*names, title=title)
    for kind, one in found["kinds"].items():
        step, mean = one["step_ratio"], one["mean_ratio"]
        drawn.add_row(
            kind,
            f"{one['step_s']:.3f}",
            f"{percent(step['median'])} ({percent(step['low'])} to "
            f"{percent(step['high'])})",
            f"{percent(mean['median'])} ({percent(mean['low'])} to "
            f"{percent(mean['high'])})",
            f"{one['captured']} of {one['told']}",
            str(one["stored"]),
            f"{one['drained_bytes_per_s'] / 1e6:.0f}",
            f"{one['cores_share']:.1%}",
        )
    return drawn


def percent(ratio: float) -> str:
    return f"{ratio - 1:+.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk")
    parser.add_argument("--megabytes", type=float, default=256.0)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--step-s", type=float, default=0.55)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small; means nothing")
    options = parser.parse_args()
    if options.quick:
        options.megabytes, options.rounds = 2.0, 1
        options.steps, options.step_s = 10, 0.05
    free = shutil.disk_usage(options.folder).free
    if free < options.megabytes * 1e6 * 3 + FREE_BYTES_MIN:
        raise SystemExit(
            f"{options.folder} has {free / 1e9:.1f} GB left; three steps of "
            f"{options.megabytes:.0f} MB and {FREE_BYTES_MIN / 1e9:.0f} GB for others "
            "are needed: choose another --folder, or smaller --megabytes"
        )
    console = Console()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        found = measure(
            megabytes=options.megabytes,
            tensors=12 if options.quick else 200,
            steps=options.steps,
            step_s=options.step_s,
            rounds=options.rounds,
            folder=options.folder.resolve(),
            tell=lambda text: progress.update(task, description=text),
            note=console.print,
        )
    console.print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
