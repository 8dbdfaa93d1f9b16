"""How ranks find each other, and how one that fails leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from twinstep.environment import compiled_folder, group_place
from twinstep.errors import ConfigError

PLACE = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "2900",
}


def test_the_launcher_says_where_rank_0_listens() -> None:
    place = group_place(PLACE)
    assert place is not None
    assert (place.rank, place.world_size, place.local_rank) == (5, 8, 1)
    assert place.coordinator == "10.0.0.1:2900" and place.has_neighbours
    assert group_place({}) is None


@pytest.mark.parametrize("lacks", ["WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_half_a_place_is_refused(lacks: str) -> None:
    with pytest.raises(ConfigError, match=lacks):
        group_place({name: value for name, value in PLACE.items() if name != lacks})


def test_compiled_programs_lie_beside_the_agent_and_nowhere_without_one() -> None:
    found = compiled_folder({"TWINSTEP_AGENT": "/tmp/job/m01.sock"})
    assert found == Path("/tmp/job/compiled")
    assert compiled_folder({}) is None


BEGIN = "import atexit\natexit.register(print, 'waited')\n"
LEAVE = (
    "from twinstep.adapters import jax_processes\n"
    "atexit.register(jax_processes._leave_at_once_after_an_error)\n"
)


@pytest.mark.parametrize(
    ("end", "status", "out"), [("raise ValueError('why')", 1, ""), ("", 0, "waited\n")]
)
def test_a_rank_that_failed_waits_for_nobody(end: str, status: int, out: str) -> None:
    code = BEGIN + LEAVE + end
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (status, out), done.stderr
    assert ("ValueError: why" in done.stderr) is bool(status)


def test_a_user_who_has_a_cache_keeps_it_and_another_is_told_of_the_jobs() -> None:
    code = (
        "import jax\nfrom twinstep.adapters.jax import initialize\n"
        "initialize()\nprint(jax.config.jax_compilation_cache_dir)\n"
    )

    def folder(**settings: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": ":".join(sys.path), **settings},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.strip()

    agent = {"TWINSTEP_AGENT": "/tmp/job/m01.sock"}
    assert folder(**agent) == "/tmp/job/compiled"
    assert folder(JAX_COMPILATION_CACHE_DIR="/mine", **agent) == "/mine"
    assert folder() == "None"
