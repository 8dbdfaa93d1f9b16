"""Decides where torchrun, srun or mpirun has put this process, from its environment.

| | torchrun | srun (a job step) | mpirun (Open MPI) |
|---|---|---|---|
| rank | RANK | SLURM_PROCID | OMPI_COMM_WORLD_RANK |
| of | WORLD_SIZE | SLURM_NTASKS | OMPI_COMM_WORLD_SIZE |
| on this machine | LOCAL_RANK | SLURM_LOCALID | OMPI_COMM_WORLD_LOCAL_RANK |
| of | LOCAL_WORLD_SIZE | SLURM_STEP_TASKS_PER_NODE | OMPI_COMM_WORLD_LOCAL_SIZE |
| machine rank | GROUP_RANK | SLURM_NODEID | rank / local size |
| job | TORCHELASTIC_RUN_ID | SLURM_JOB_ID | PMIX_NAMESPACE |

And ours, which no launcher sets: TWINSTEP=off (no protection), TWINSTEP_STORE (the
key-value store of several machines), TWINSTEP_CONFIG (a TOML file), TWINSTEP_JOB (a
name by which the next launch finds this one's memory), TWINSTEP_MACHINE (a name of this
machine, where one computer stands for several).

torchrun may run under srun, and mpirun in an allocation of Slurm: the one nearest to
the process counts, in the order of the table, mpirun before srun.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from twinstep.errors import ConfigError

NAME_LETTERS_MAX = 40
ANONYMOUS = "none"
"""torchrun's run id where none was given: every such run has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A process that another launcher started, and what it is to twinstep."""

    launcher: str
    job: str
    """A name; launches of one name share memory."""
    machine: str
    rank: int
    local_rank: int
    ranks_per_machine: int
    world_size: int
    machine_rank: int
    store: str = ""
    """Address of the key-value store, or none."""
    config: str = ""
    """Path of a TOML file, or none."""

    @property
    def machines(self) -> int:
        return self.world_size // self.ranks_per_machine


def place_of(found: Mapping[str, str], *, parent: int, computer: str) -> Launch | None:
    """Returns the place of the process that found this environment, or None where no
    launcher that is known started it, or TWINSTEP=off.

    Args:
      parent: the process that started it.
      computer: the host's name.

    Raises: ConfigError when ranks are not spread evenly, machine by machine."""
    switch = found.get("TWINSTEP", "on")
    if switch not in ("on", "off"):
        raise ConfigError(f"TWINSTEP is {switch!r}; use on or off, or leave it unset")
    if switch == "off":
        return None
    for launcher, first, read in (
        ("torchrun", "TORCHELASTIC_RUN_ID", _torchrun),
        ("mpirun", "OMPI_COMM_WORLD_LOCAL_SIZE", _mpirun),
        ("srun", "SLURM_STEP_ID", _srun),
    ):
        if first not in found:
            continue
        try:
            place, job = read(found, parent)
        except (KeyError, ValueError, ZeroDivisionError) as error:
            raise ConfigError(
                f"{first} is set, but what {launcher} sets beside it is not all "
                f"there ({error}); TWINSTEP=off trains without protection"
            ) from error
        return _checked(launcher, job, place, found, computer)
    return None


_Place = tuple[int, int, int, int, int]
"""Rank, ranks, local rank, local ranks, machine rank."""


def _torchrun(found: Mapping[str, str], parent: int) -> tuple[_Place, str]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
    rank, ranks, local, locals_, machine = (int(found[name]) for name in names)
    job = found["TORCHELASTIC_RUN_ID"]
    if job == ANONYMOUS:
        job = f"torchrun-{parent}"  # or two runs of a user would be one
    return (rank, ranks, local, locals_, machine), job


def _mpirun(found: Mapping[str, str], parent: int) -> tuple[_Place, str]:
    names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    rank, ranks, local, locals_ = (
        int(found[f"OMPI_COMM_WORLD_{name}"]) for name in names
    )
    job = found.get("PMIX_NAMESPACE") or str(parent)
    return (rank, ranks, local, locals_, rank // locals_), f"mpirun-{job}"


def _srun(found: Mapping[str, str], _parent: int) -> tuple[_Place, str]:
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODEID")
    rank, ranks, local, machine = (int(found[name]) for name in names)
    spread = found["SLURM_STEP_TASKS_PER_NODE"]  # 8(x4), or 8,8,7
    counts = {int(each.partition("(")[0]) for each in spread.split(",")}
    if len(counts) > 1:
        raise ConfigError(
            f"srun started {spread} ranks on its nodes; every machine must have as "
            "many: use --ntasks-per-node"
        )
    return (rank, ranks, local, counts.pop(), machine), f"slurm-{found['SLURM_JOB_ID']}"


def _checked(
    launcher: str, job: str, place: _Place, found: Mapping[str, str], computer: str
) -> Launch:
    rank, ranks, local, locals_, machine = place
    if locals_ < 1 or ranks % locals_ or rank != machine * locals_ + local:
        raise ConfigError(
            f"{launcher} made this process rank {rank} of {ranks}, number {local} of "
            f"{locals_} on machine {machine}; allowed is as many ranks on every "
            "machine, counted machine by machine (srun --distribution=block, mpirun "
            "--map-by slot). TWINSTEP=off trains without protection"
        )
    return Launch(
        launcher=launcher,
        job=_name(found.get("TWINSTEP_JOB") or job),
        machine=_name(found.get("TWINSTEP_MACHINE") or computer.split(".")[0]),
        rank=rank,
        local_rank=local,
        ranks_per_machine=locals_,
        world_size=ranks,
        machine_rank=machine,
        store=found.get("TWINSTEP_STORE", ""),
        config=found.get("TWINSTEP_CONFIG", ""),
    )


def _name(text: str) -> str:
    """A name that may be a file's: sockets' paths are short, run ids are not."""
    return (
        re.sub(r"[^A-Za-z0-9._-]", "-", text).strip(".-")[-NAME_LETTERS_MAX:] or "job"
    )
