"""linear.py for launchers that do not say what torch wants to know in its words."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

if __name__ == "__main__":
    for ours, theirs in (
        ("RANK", ("OMPI_COMM_WORLD_RANK", "SLURM_PROCID")),
        ("WORLD_SIZE", ("OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS")),
    ):
        os.environ[ours] = next(os.environ[n] for n in theirs if n in os.environ)
    import linear  # pyright: ignore[reportMissingImports]

    linear.main()
