"""What torchrun, srun and mpirun say to a process, and what is refused."""

from __future__ import annotations

import pytest

from twinstep.errors import ConfigError
from twinstep.launched import Launch, place_of

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "TORCHELASTIC_RUN_ID": "run/7 of mine",
}
SRUN = {
    "SLURM_JOB_ID": "41",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "PMIX_NAMESPACE": "1746534401",
}


def place(found: dict[str, str]) -> Launch | None:
    return place_of(found, parent=77, computer="node3.example.org")


@pytest.mark.parametrize(
    ("launcher", "found", "job"),
    [
        ("torchrun", TORCHRUN, "run-7-of-mine"),
        ("srun", SRUN, "slurm-41"),
        ("mpirun", MPIRUN, "mpirun-1746534401"),
        ("torchrun", SRUN | TORCHRUN, "run-7-of-mine"),
        ("mpirun", SRUN | MPIRUN, "mpirun-1746534401"),
        ("torchrun", TORCHRUN | {"TORCHELASTIC_RUN_ID": "none"}, "torchrun-77"),
        ("srun", SRUN | {"TWINSTEP_JOB": "mine"}, "mine"),
    ],
)
def test_a_launcher_is_known_by_what_it_sets(
    launcher: str, found: dict[str, str], job: str
) -> None:
    assert place(found) == Launch(
        launcher=launcher,
        job=job,
        machine="node3",
        rank=5,
        local_rank=1,
        ranks_per_machine=4,
        world_size=8,
        machine_rank=1,
    )


def test_what_is_ours_is_taken() -> None:
    found = place(
        TORCHRUN
        | {
            "TWINSTEP_STORE": "etcd://h:2379/x",
            "TWINSTEP_CONFIG": "twinstep.toml",
            "TWINSTEP_MACHINE": "a",
        }
    )
    assert found is not None and found.machines == 2
    assert (found.store, found.config) == ("etcd://h:2379/x", "twinstep.toml")
    assert found.machine == "a"


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "h"},
        {"SLURM_JOB_ID": "41", "SLURM_PROCID": "0"},  # a batch script, no step
        TORCHRUN | {"TWINSTEP": "off"},
    ],
)
def test_by_hand_in_a_batch_script_or_switched_off_there_is_none(
    found: dict[str, str],
) -> None:
    assert place(found) is None


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (TORCHRUN | {"TWINSTEP": "yes"}, "on or off"),
        (TORCHRUN | {"LOCAL_RANK": "x"}, "TWINSTEP=off"),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "4(x1),3"}, "--ntasks-per-node"),
        (SRUN | {"SLURM_PROCID": "3"}, "--distribution=block"),
        (MPIRUN | {"OMPI_COMM_WORLD_LOCAL_RANK": "2"}, "--map-by"),
        (TORCHRUN | {"WORLD_SIZE": "7"}, "as many ranks on every"),
    ],
)
def test_what_cannot_be_protected_is_refused_with_the_way_out(
    found: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        place(found)
