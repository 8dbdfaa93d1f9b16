"""Other meshes and other numbers of ranks get the same state, bit by bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.adapters import jax_meshes


def test_states_on_eight_devices() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.adapters.jax_meshes"],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [check.__name__ for check in jax_meshes.CHECKS]
