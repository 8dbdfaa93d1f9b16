"""How long samples of a plan take, and how much memory, by the number of machines.

    python -m benchmarks.plan [--json FILE]

90 days of 1,000 samples, lost machines at 1.5 % of them a day and standbys for them,
under all policies and under twinstep's alone. Each is a process of its own, on one
core; its peak of memory includes the interpreter and numpy.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from twinstep.planner.failures import Failures
from twinstep.planner.job import Job
from twinstep.planner.policies import Costs, policies
from twinstep.planner.sampling import sample

MACHINES = (1_000, 10_000, 100_000)
DAYS, SAMPLES = 90.0, 1000
PER_DAY = 0.015


def measure(machines: int, only: str, *, days: float, samples: int) -> dict[str, Any]:
    """Returns what one number of machines takes, in this process."""
    job = Job(
        machines=machines,
        parameters=6.25e9 * machines,
        step_s=62.0,
        network_bytes_per_s=50e9,
        storage_bytes_per_s=2.5e6 * machines,
        standbys=max(4, machines // 1000),
    )
    failures = Failures(machine_per_machine_day=PER_DAY)
    every = policies(job, failures, Costs())
    chosen = [policy for policy in every if only in ("", policy.name)]
    began_s = time.perf_counter()
    found = sample(chosen, job, failures, days=days, samples=samples, seed=1)
    took_s = time.perf_counter() - began_s
    return {
        "machines": machines,
        "policies": len(chosen),
        "seconds": took_s,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "failures": found["twinstep"].failures_per_day * days,
        "goodput": {name: outcome.goodput for name, outcome in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--machines", type=int, nargs="+", default=MACHINES)
    parser.add_argument("--days", type=float, default=DAYS)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = {"days": options.days, "samples": options.samples}
    if options.one:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(json.dumps(measure(int(options.one[0]), options.one[1], **size)))
        return
    rows: list[dict[str, Any]] = []
    for only in ("twinstep", ""):
        for machines in options.machines:
            command = [sys.executable, "-m", "benchmarks.plan"]
            command += [f"--{name}={value}" for name, value in size.items()]
            command += ["--one", str(machines), only]
            said = subprocess.run(command, check=True, capture_output=True).stdout
            rows.append(json.loads(said))
    table = Table("machines", "policies", "failures each", "seconds", "peak, MB")
    for row in rows:
        table.add_row(
            f"{row['machines']:,}",
            str(row["policies"]),
            f"{row['failures']:,.0f}",
            f"{row['seconds']:.1f}",
            f"{row['peak_bytes'] / 1e6:.0f}",
        )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
