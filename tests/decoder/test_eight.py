"""Eight devices compute what one does, with the collectives that are on record.

All of it comes from one process with 8 virtual devices (tests/decoder/eight.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.decoder.eight import LAYOUTS, RINGS

ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(__file__).parent / "golden"
FLAGS = (
    "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false "
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
RUN_S_MAX = 280.0
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    said = subprocess.run(
        [sys.executable, "-m", "tests.decoder.eight"],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"},
        check=True,
        stdout=subprocess.PIPE,
        timeout=RUN_S_MAX,
    ).stdout
    return json.loads(said)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_loss_and_gradients_are_those_of_one_device(
    found: dict[str, Any], layout: str
) -> None:
    one, here = found["losses"]["1x1x1"], found["losses"][layout]
    assert here["loss"] == pytest.approx(one["loss"], rel=1e-6)
    worst = max(here["gradients"], key=here["gradients"].__getitem__)
    assert here["gradients"][worst] < 2e-5, worst


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_collectives_are_those_on_record(
    found: dict[str, Any], layout: str
) -> None:
    file = GOLDEN / f"collectives_{layout}.json"
    here = {"jax": found["jax"], "found": found["losses"][layout]["collectives"]}
    if os.environ.get("REWRITE"):
        file.write_text(json.dumps(here, indent=1) + "\n")
    recorded = json.loads(file.read_text())
    if recorded["jax"] != here["jax"]:
        pytest.skip(f"recorded with jax {recorded['jax']}, this is {here['jax']}")
    assert here == recorded, "REWRITE=1 records it again"


def test_between_pods_there_are_gradients_only(found: dict[str, Any]) -> None:
    """Nothing of the state is gathered across pods: each has all of it."""
    traffic = found["losses"]["2x2x2"]["collectives"]
    assert any("all-reduce over pod" in key for key in traffic)
    across = [key for key in traffic if "pod" in key.split(" over ")[1].split()]
    assert {key.split(" over ")[0] for key in across} == {"all-reduce"}, across


@pytest.mark.parametrize("name", RINGS)
def test_a_ring_attends_as_the_dense_form(found: dict[str, Any], name: str) -> None:
    mixed, *gradients = found["rings"][name]
    assert mixed < 2e-6
    assert max(gradients) < 2e-5


def test_what_pods_hold_alike_is_a_copy_that_exists(found: dict[str, Any]) -> None:
    """Two processes of one pod each: all parameters are shared, so nothing of them is
    in a slot of its own or sent. Without pods each has half of what is split."""
    pods, data = found["spreads"]["pod 2"], found["spreads"]["data 2"]
    assert pods["own"] == 0 < pods["shared"]
    assert pods["shared"] == data["all"] == pods["all"]
    assert 2 * data["own"] + data["shared"] == data["all"]


def test_pods_sum_once_to_what_one_device_has(found: dict[str, Any]) -> None:
    pods = found["pods"]
    assert pods["only_pods"] and pods["sums"] == 1
    assert pods["losses"][1] == pytest.approx(pods["losses"][0], rel=1e-6)
    assert pods["gradients"] < 2e-5
