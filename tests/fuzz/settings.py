"""Settings as anybody may write them: a TOML file, and a process environment."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
from pathlib import Path
from typing import Any

from twinstep import config
from twinstep.environment import rank_place, slurm_place
from twinstep.errors import ConfigError
from twinstep.launched import place_of


def load_config(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(ConfigError):
            _finite(config.load(Path(file.name)))


def _finite(part: Any) -> None:
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            _finite(value)
        elif isinstance(value, float):
            assert math.isfinite(value), field.name


def configs() -> list[bytes]:
    return [
        b"machines = 4\nranks_per_machine = 2\ncopies = 2\nplacement = 'group'\n",
        b"[timing]\nsilence_s_max = 2.5\nhang_s_min = 1e1\n[health]\nport = 80\n",
        b"[transfer]\nchunk_bytes = 4096\n[trust]\ndata = 'tls'\ncerts = 'a'\n",
        b"domains = ['a', 'b']\nmachines = 2\n[slurm]\noptions = ['--x']\n",
        b"[kubernetes]\ncall_s_max = 5\n[trust]\ntoken_file = 'f'\n",
        b"[schedule]\nmu = 0.5\nbuffers = 3\nmode = 'spans'\nspan_s_min = 0.01\n",
        b"preload = ['torch']\nwarm = false\nmemory_bytes_max = 1_000_000\n",
    ]


def read_environment(data: bytes) -> None:
    """Lines of NAME=VALUE."""
    lines = data.decode("latin-1").split("\n")
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    with contextlib.suppress(ConfigError):
        rank_place(found)
    place = slurm_place(found)
    assert place is None or 0 <= place.launcher[1] < 10**9
    with contextlib.suppress(ConfigError):
        place_of(found, parent=1, computer="node")


def environments() -> list[bytes]:
    return [
        b"TWINSTEP_AGENT=/x\nRANK=1\nLOCAL_RANK=0\nLOCAL_WORLD_SIZE=1\nTWINSTEP_ROUND=2",
        b"SLURM_JOB_ID=7\nSLURMD_NODENAME=n1\nSLURM_NODEID=0\nSLURM_SRUN_COMM_PORT=99",
        b"TORCHELASTIC_RUN_ID=none\nRANK=1\nWORLD_SIZE=2\nLOCAL_RANK=1\n"
        b"LOCAL_WORLD_SIZE=2\nGROUP_RANK=0",
        b"OMPI_COMM_WORLD_LOCAL_SIZE=1\nOMPI_COMM_WORLD_RANK=0\n"
        b"OMPI_COMM_WORLD_SIZE=1\nOMPI_COMM_WORLD_LOCAL_RANK=0",
        b"SLURM_STEP_ID=0\nSLURM_PROCID=1\nSLURM_NTASKS=2\nSLURM_LOCALID=0\n"
        b"SLURM_NODEID=1\nSLURM_STEP_TASKS_PER_NODE=1(x2)\nSLURM_JOB_ID=3",
    ]
