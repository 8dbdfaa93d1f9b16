"""What the demo's training scripts are told, in whatever framework they train."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def options(about: str, styles: Sequence[str]) -> argparse.Namespace:
    """Returns the arguments of this process; the first style is the usual one."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--style", choices=styles, default=styles[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=3, help="sequences per rank")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--step-seconds",
        type=float,
        default=0.0,
        help="a step lasts at least so long: it sleeps for the rest",
    )
    parser.add_argument(
        "--losses", type=Path, help="rank 0 appends the mean loss of a step"
    )
    parser.add_argument(
        "--ballast-mb",
        type=int,
        default=0,
        help="megabytes of state more on each rank, to have moments that last",
    )
    parser.add_argument("--digests", type=Path, help="folder for the final state's")
    parser.add_argument(
        "--stop-file",
        type=Path,
        help="may appear later and hold the number of the last step; it must be far "
        "ahead of the present one, so that all ranks read it in time",
    )
    return parser.parse_args()


def steps_wanted(steps: int, stop_file: Path | None) -> int:
    """Returns the number of the last step, which the stop file may make smaller."""
    if stop_file is None or not stop_file.exists():
        return steps
    return min(steps, int(stop_file.read_text()))
