"""Starts a small run's ranks as processes, and expects "ok" of each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORLD = 2


def run_ranks(module: str, *arguments: str, folder: Path, seconds_max: float) -> None:
    """Every rank of `python -m tests.adapters.MODULE ARGUMENTS RANK WORLD FOLDER` has
    ended well, and said ok at last."""
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
    command = [sys.executable, "-m", f"tests.adapters.{module}", *arguments]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(WORLD), str(folder)],
            env=settings,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(WORLD)
    ]
    try:
        outputs = [rank.communicate(timeout=seconds_max)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    for rank, output in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, output
        assert output.endswith("ok\n"), output
