"""What a rank learns from its process environment, read here and nowhere else.

Launchers speak through the environment; the rest of the library takes arguments. A
rank started by `twinstep run` finds, besides what torchrun sets, the socket of its
machine's agent and the round it belongs to. One that torchrun, srun or mpirun started
finds neither: what it finds is launched.py's to read.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from twinstep.errors import ConfigError
from twinstep.launched import Launch, place_of

AGENT = "TWINSTEP_AGENT"
ROUND = "TWINSTEP_ROUND"
COMPILED = "compiled"
"""The folder of compiled programs in a job's folder."""
REPLACES = "TWINSTEP_REPLACES"
NUMBER_DIGITS_MAX = 9
COPY_PAST_CACHES = "glibc.cpu.x86_non_temporal_threshold=0x40000"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlace:
    """Which rank this process is, and where its agent listens."""

    rank: int
    local_rank: int
    ranks_per_machine: int
    round: int
    agent: str
    """Path of the agent's Unix socket."""


def rank_place(environment: Mapping[str, str] | None = None) -> RankPlace | None:
    """Returns this rank's place, or None when no agent started this process.

    Raises: ConfigError when the environment is incomplete."""
    found = os.environ if environment is None else environment
    agent = found.get(AGENT)
    if not agent:
        return None
    try:
        return RankPlace(
            rank=int(found["RANK"]),
            local_rank=int(found["LOCAL_RANK"]),
            ranks_per_machine=int(found["LOCAL_WORLD_SIZE"]),
            round=int(found[ROUND]),
            agent=agent,
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"{AGENT} is set, but RANK, LOCAL_RANK, LOCAL_WORLD_SIZE or {ROUND} is "
            f"not a number ({error}); start the script with `twinstep run`"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlace:
    """Which rank this process is among all, and where rank 0 listens."""

    rank: int
    world_size: int
    local_rank: int
    has_neighbours: bool
    """Other ranks are on the same machine."""
    coordinator: str
    """HOST:PORT."""


def group_place(environment: Mapping[str, str] | None = None) -> GroupPlace | None:
    """Returns this rank's place among all, or None when no launcher named one.

    Raises: ConfigError when it named half of one."""
    found = os.environ if environment is None else environment
    if "RANK" not in found:
        return None
    try:
        return GroupPlace(
            rank=int(found["RANK"]),
            world_size=int(found["WORLD_SIZE"]),
            local_rank=int(found.get("LOCAL_RANK", "0")),
            has_neighbours=int(found.get("LOCAL_WORLD_SIZE", "1")) > 1,
            coordinator=f"{found['MASTER_ADDR']}:{int(found['MASTER_PORT'])}",
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(
            "RANK is set, but WORLD_SIZE, MASTER_ADDR or MASTER_PORT is missing or no "
            f"number ({error}); start the script with `twinstep run`, or set them"
        ) from error


def compiled_folder(environment: Mapping[str, str] | None = None) -> Path | None:
    """Returns where ranks on this machine keep compiled programs for those that come
    after them in the same job; None when no agent started this process."""
    found = os.environ if environment is None else environment
    agent = found.get(AGENT)
    return Path(agent).parent / COMPILED if agent else None


def launch() -> Launch | None:
    """Returns where another launcher put this process; None where none did."""
    return place_of(os.environ, parent=os.getppid(), computer=socket.gethostname())


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmPlace:
    """Where Slurm has started this process."""

    job: str
    node: str
    node_id: int
    """Counted from 0 in the step that this process belongs to."""
    replacement: bool
    """It is there for a machine that was lost, in a Slurm job of its own."""
    launcher: tuple[str, int]
    """Where the `srun` that started this process listens; no port if unknown."""

    @property
    def machine(self) -> str:
        """The name of the first machine of a run that is here."""
        return f"{self.node}.{self.job}" if self.replacement else self.node


def slurm_place(environment: Mapping[str, str] | None = None) -> SlurmPlace | None:
    """Returns where this process is, or None when Slurm did not start it."""
    found = os.environ if environment is None else environment
    job, node = found.get("SLURM_JOB_ID", ""), found.get("SLURMD_NODENAME", "")
    if not job or not node:
        return None
    port = found.get("SLURM_SRUN_COMM_PORT", "")
    number = found.get("SLURM_NODEID", "")
    return SlurmPlace(
        job=job,
        node=node,
        node_id=_number(number),
        replacement=bool(found.get(REPLACES)),
        launcher=(
            found.get("SLURM_SRUN_COMM_HOST", ""),
            _number(port),
        ),
    )


def _number(text: str) -> int:
    """The number that Slurm set; 0 where it set none, or none that a node or a port
    can have."""
    return int(text) if text.isdecimal() and len(text) <= NUMBER_DIGITS_MAX else 0


def outside_slurm() -> dict[str, str]:
    """Returns this process's environment without what Slurm says of its own job."""
    return {
        name: value
        for name, value in os.environ.items()
        if name == "SLURM_CONF" or not name.startswith(("SLURM_", "SLURMD_"))
    }


def rank_environment(
    *,
    rank: int,
    world_size: int,
    local_rank: int,
    ranks_per_machine: int,
    machine_rank: int,
    machines: int,
    round: int,
    job: str,
    restarts_max: int,
    master: tuple[str, int],
    agent: str,
) -> dict[str, str]:
    """Returns what a rank is started with: all that torchrun sets, and ours."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(ranks_per_machine),
        "GROUP_RANK": str(machine_rank),
        "GROUP_WORLD_SIZE": str(machines),
        "ROLE_NAME": "default",
        "ROLE_RANK": str(rank),
        "ROLE_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": master[0],
        "MASTER_PORT": str(master[1]),
        "TORCHELASTIC_RESTART_COUNT": str(round - 1),
        "TORCHELASTIC_MAX_RESTARTS": str(restarts_max),
        "TORCHELASTIC_RUN_ID": job,
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        AGENT: agent,
        ROUND: str(round),
    }


def user_id() -> int:
    """Returns the number of the user who runs this process."""
    return os.getuid()


def jobs_folder() -> Path:
    """Where jobs of this user leave their sockets, one folder a job."""
    return Path(tempfile.gettempdir()) / f"twinstep-{user_id()}"


def inherited() -> dict[str, str]:
    """Returns the environment that ranks start from: this process's, less ours."""
    return {
        name: value for name, value in os.environ.items() if name not in (AGENT, ROUND)
    }


def start_settings(threads: int) -> dict[str, str]:
    """Returns what ranks need from their process's start, unless the user has set it.

    Bits depend on the number of threads, so it must be the same in every round."""
    chosen = os.environ.get("OMP_NUM_THREADS", str(max(1, threads)))
    # Captures are large copies that nobody reads soon: past the caches they are two
    # fifths faster, and glibc does that only from a size of its own choice.
    tunables = os.environ.get("GLIBC_TUNABLES", COPY_PAST_CACHES)
    return {"OMP_NUM_THREADS": chosen, "GLIBC_TUNABLES": tunables}
