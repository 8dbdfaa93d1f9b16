"""Jobs on a real Ray cluster, whose nodes are killed as a whole."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.ray_nodes import RayNodes, needs_ray, ray_nodes
from tests.trial import PRELOAD, WORKLOADS, Trial, trial, undisturbed

pytestmark = needs_ray
__all__ = ["trial"]
DRIVER = Path(__file__).parents[2] / "recipes" / "ray" / "driver.py"
SCRIPT = str(WORKLOADS / "linear.py")
STEPS = ("--steps", "120")
LONG = ("--steps", "100000")


@pytest.fixture
def nodes(request: pytest.FixtureRequest, trial: Trial) -> Iterator[RayNodes]:
    """So many nodes; the test itself is on the head's host."""
    with (
        ray_nodes(trial.folder, request.param, trial.environment()) as found,
        found.network.entered(1),
    ):
        yield found


def drive(nodes: RayNodes, trial: Trial, *command: str, timing: str = "") -> None:
    """A job on the nodes, by the recipe's driver."""
    config = trial.folder / "ray.toml"
    config.write_text(f"{PRELOAD}\n[timing]\n{timing}")
    (trial.folder / "err").touch()
    driver = [str(DRIVER), "--config", str(config), "--start-s-max", "20", *command]
    trial.process = nodes.driver(driver, trial.folder / "out")
    folder = trial.until(
        lambda: re.search(r"status --job (\S+)`", trial.out), "the job's folder"
    )
    trial.job = Path(folder.group(1))


def host_of(trial: Trial, machine: str) -> int:
    """Where a machine was asked for last."""
    found = re.findall(rf"{machine} is asked for on node (\S+)", trial.out)
    return int(found[-1].rpartition(".")[2])


def agents(trial: Trial) -> list[str]:
    """What lives of the job's machines, the cluster apart."""
    return [line for line in trial.processes().values() if "cloud.start" in line]


@pytest.mark.parametrize("nodes", [3], indirect=True)
def test_a_lost_node_is_replaced_by_another(nodes: RayNodes, trial: Trial) -> None:
    drive(nodes, trial, "--machines", "2", SCRIPT, *STEPS)
    trial.status(step=20, ranks=2)
    killed_s = time.time()
    nodes.kill(host_of(trial, "m01"))
    recovery = trial.recovered(1)
    assert recovery.who == "m01" and recovery.steps_lost <= 1, f"{recovery}{trial}"
    assert "memory of m00" in recovery.sources, str(recovery)
    assert trial.wait() == 0, str(trial)
    hosts = [host_of(trial, name) for name in ("m00", "m01", "m02")]
    assert sorted(hosts) == [2, 3, 4], "each has a node to itself"
    found = re.findall(r"\[rank (\d+)\] digest (\w+)$", trial.out, re.MULTILINE)
    reference = undisturbed(ranks=2, arguments=STEPS)
    assert {int(rank): digest for rank, digest in found} == reference, str(trial)
    assert not agents(trial)
    names = ("detected_s", "decided_s", "ranks_up_s", "first_step_s")
    print({name: round(getattr(recovery, name) - killed_s, 2) for name in names})


@pytest.mark.parametrize("nodes", [2], indirect=True)
def test_without_a_node_the_job_says_so_and_ends(nodes: RayNodes, trial: Trial) -> None:
    drive(nodes, trial, "--machines", "2", str(trial.folder / "nowhere.py"))
    assert trial.wait() == 1, str(trial)
    assert "m01 cannot be started on node 10.77.0." in trial.out
    assert "there is no script" in trial.out, str(trial)

    drive(nodes, trial, "--machines", "2", SCRIPT, *LONG, timing="machine_s_max = 10.0")
    trial.status(step=5, ranks=2)
    lost = host_of(trial, "m01")
    nodes.kill(lost)
    assert trial.wait() == 1, str(trial)
    assert "no machine to be had: no node is free: 10.77.0.1 has too little" in (
        trial.out
    ), str(trial)
    assert f"10.77.0.{lost} lost m01" in trial.out
    assert "no machine came for machine rank 1 within 10 s" in trial.out, str(trial)
    assert not agents(trial)
