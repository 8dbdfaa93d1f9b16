"""Runs the ranks of a training script as no agent does, each rank's output in a file.

    python -m tests.plain_ranks RANKS PORT FOLDER PRELOAD SCRIPT ARGUMENTS...

The module PRELOAD is imported once, and ranks are forked from there: imports are most
of the time of a short run.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.leaving import leave


def run_rank(rank: int, folder: Path, script: str, arguments: Sequence[str]) -> None:
    with (folder / str(rank)).open("wb") as out:
        os.dup2(out.fileno(), sys.stdout.fileno())
    os.environ["RANK"] = str(rank)
    sys.argv[:] = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def main(
    ranks: int, port: int, folder: Path, preload: str, script: str, *arguments: str
) -> int:
    """Returns how many ranks did not end well."""
    importlib.import_module(preload)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
    }
    started: list[int] = []
    for rank in range(ranks):
        if not (pid := os.fork()):
            run_rank(rank, folder, script, arguments)
            leave()
        started.append(pid)
    return sum(os.waitpid(pid, 0)[1] != 0 for pid in started)


if __name__ == "__main__":
    _, ranks, port, folder, *command = sys.argv
    sys.exit(main(int(ranks), int(port), Path(folder), *command))
