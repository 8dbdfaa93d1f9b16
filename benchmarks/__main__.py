"""`make bench`: all measurements, one after the other, as one table and one JSON file.

    python -m benchmarks [--json FILE] [--quick]
    python -m benchmarks --markdown FILE

Each row is one number with its budget from docs/benchmarks.md. The numbers are ratios
within one run wherever that is possible; a computer that does other work meanwhile
widens the spread. --quick uses small states: it shows that everything runs, and its
numbers mean nothing. --markdown prints the table of an earlier run for the docs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks import recovery, steps, transfer
from benchmarks.table import Row, markdown, rows_of, table
from twinstep.environment import start_settings

Stages = dict[str, Callable[[], Any]]


def stages(*, quick: bool) -> Stages:
    """What is measured, in this order."""
    size = 8 if quick else 256
    found: Stages = {
        "capture": lambda: capture(megabytes=size, pairs=3 if quick else 21),
        "transfer": lambda: send(mebibytes=size, repeats=2 if quick else 21),
    }
    small: dict[str, Any] = {"rounds": 1, "steps": 1, "step_s": 0.05} if quick else {}
    for setting in steps.SETTINGS:
        found[f"steps {setting.name}"] = lambda setting=setting: steps.measure(
            setting, megabytes=size, **small
        )
    kills = 1 if quick else 5
    found["recovery"] = lambda: recovery.measure(kills=kills, megabytes=size)
    return found


def capture(*, megabytes: int, pairs: int) -> dict[str, Any]:
    """Runs in a process of its own: how large copies are made is read at its start."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "capture.json"
        command = [sys.executable, "-m", "benchmarks.capture", "--json", str(file)]
        command += ["--megabytes", str(megabytes), "--pairs", str(pairs)]
        subprocess.run(
            command,
            check=True,
            stdout=subprocess.DEVNULL,
            env=dict(os.environ) | start_settings(1),
            timeout=300,
        )
        return json.loads(file.read_text())


def send(*, mebibytes: int, repeats: int) -> dict[str, Any]:
    chunk = transfer.config.Transfer().chunk_bytes
    size = mebibytes << 20
    rates = transfer.measure(size=size, repeats=repeats, chunk=chunk)
    return {"bytes": size, "chunk_bytes": chunk, **transfer.summary(rates)}


def computer() -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    for line in lines:
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def run(*, quick: bool, console: Console) -> dict[str, Any]:
    """Returns the whole result. A stage that fails is told and leaves no rows."""
    result: dict[str, Any] = {"quick": quick, "computer": computer(), "failed": {}}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    began_s = time.monotonic()
    loads: dict[str, float] = {}
    with Progress(*columns, console=console) as progress:
        for name, measure in stages(quick=quick).items():
            task = progress.add_task(name, total=1)
            loads[name] = os.getloadavg()[0]
            try:
                result[name] = measure()
            except Exception as error:
                result["failed"][name] = f"{type(error).__name__}: {error}"
                console.print(f"{name}: {result['failed'][name]}")
            progress.update(task, completed=1)
    result["load_before"] = loads
    result["seconds"] = time.monotonic() - began_s
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--quick", action="store_true", help="small; means nothing")
    parser.add_argument("--markdown", type=Path, help="print the table of a JSON file")
    options = parser.parse_args()
    console = Console()
    if options.markdown:
        print(markdown(json.loads(options.markdown.read_text())))
        return
    result = run(quick=options.quick, console=console)
    rows: list[Row] = rows_of(result)
    console.print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if result["failed"] else 0)


if __name__ == "__main__":
    main()
