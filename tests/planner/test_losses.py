"""What a lost chip, host, cube and pod cost, in hand-worked numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twinstep.errors import ConfigError
from twinstep.placement.strategy import Placement
from twinstep.planner.losses import Loss, State, losses
from twinstep.planner.spread import Spread, spread
from twinstep.planner.topology import Pods

# 60 cubes of 16 hosts: 960 GB are 1 GB a host, 16 GB a cube.
POD = Pods(standby_cubes=4)
TWO = replace(POD, pods=2)
STATE = State(bytes_=960e9, step_s=10, storage_bytes_per_s=2.5e9)
OVER_HOSTS_S = 1e9 / (0.6 * 12.5e9)
"""60 % of 100 Gbit/s, as the paper's network reaches (GEMINI, Figure 8)."""
LOAD_S = 1e9 / 63e9


def of(found: Spread, state: State = STATE) -> dict[str, Loss]:
    return {loss.what: loss for loss in losses(found, state)}


def test_with_data_parallel_pods_every_loss_is_read_from_memory() -> None:
    """Gemini 1.0 report, section 3: on any unplanned hardware failure, recover directly
    from an intact model replica."""
    found = of(spread(TWO))
    assert list(found) == ["chip", "host", "cube", "pod"]
    assert all(loss.survives and loss.network == "hosts" for loss in found.values())
    assert [loss.memories for loss in found.values()] == [0, 1, 16, 960]
    assert [loss.machines for loss in found.values()] == [16, 16, 16, 960]
    assert [loss.chips for loss in found.values()] == [64, 64, 64, 4096]
    assert [loss.read_bytes for loss in found.values()] == [16e9, 16e9, 16e9, 960e9]
    for loss in found.values():
        assert loss.read_s == pytest.approx(OVER_HOSTS_S + LOAD_S)
        assert loss.lost_steps == 1.5
    assert found["cube"].read_from == found["pod"].read_from == "another pod"


def test_a_lost_chip_costs_a_cube_but_no_memory() -> None:
    chip = of(spread(POD, copies=1, apart="host"))["chip"]
    assert chip.survives and chip.read_from == "the cube that left"
    assert (chip.wait_s, chip.rewire_s) == (0, 10)
    assert chip.stopped_s == pytest.approx(10 + OVER_HOSTS_S + LOAD_S)


def test_inside_a_pod_a_cube_is_read_over_the_links_between_chips() -> None:
    """Six faces of 16 links of 50 GB/s let 4.8 TB/s through, but 16 hosts bring only
    16 x 63 GB/s into their chips."""
    cube = of(spread(POD))["cube"]
    assert cube.survives and cube.network == "chips"
    assert cube.read_from == "cubes of its pod"
    assert cube.read_s == pytest.approx(16e9 / (16 * 63e9) + LOAD_S)
    slow_links = replace(POD, link_bytes_per_s=2e9)
    cube = of(spread(slow_links))["cube"]
    assert cube.network == "chips"
    assert cube.read_s == pytest.approx(16e9 / (96 * 2e9) + LOAD_S)
    slower = of(spread(replace(POD, link_bytes_per_s=0.5e9)))["cube"]
    assert slower.network == "hosts" and slower.read_from == "cubes of its pod"


def test_a_lost_pod_without_another_falls_back_to_storage() -> None:
    """960 GB at 2.5 GB/s are 384 s; they and half of 3 h are trained again."""
    pod = of(spread(POD))["pod"]
    assert not pod.survives and pod.network == "storage"
    assert pod.takes_place == "a pod of the operator" and pod.wait_s == 330
    assert pod.read_bytes == 960e9
    assert pod.read_s == pytest.approx(384 + LOAD_S)
    assert pod.lost_steps == pytest.approx((384 + 5400) / 10)
    assert "no memory has all of the state" in pod.says


def test_one_copy_loses_the_state_with_its_host() -> None:
    found = of(spread(POD, copies=1, apart="host"))
    assert [loss.survives for loss in found.values()] == [True, False, False, False]


def test_copies_only_on_other_hosts_may_be_lost_with_their_cube() -> None:
    """In one cube a pod has nowhere else to hold them."""
    single = Pods(cubes_per_pod=1)
    found = of(spread(single, copies=2, apart="host"))
    assert [loss.survives for loss in found.values()] == [True, True, False, False]


def test_the_cube_that_is_worst_decides() -> None:
    """Three cubes of two hosts, of which the last holds both its copies itself."""
    pods = Pods(cube=(2, 2, 2), cubes_per_pod=3)
    holders = (0, 2), (1, 3), (2, 0), (3, 1), (4, 5), (5, 4)
    placement = Placement(strategy="group", copies=2, holders=holders)
    found = of(Spread(pods=pods, apart="host", placement=placement))
    assert [loss.survives for loss in found.values()] == [True, True, False, False]


def test_without_a_standby_cube_the_operator_is_waited_for() -> None:
    none = replace(TWO, standby_cubes=0)
    cube = of(spread(none), replace(STATE, replace_s=600))["cube"]
    assert cube.takes_place == "a cube of the operator"
    assert (cube.wait_s, cube.rewire_s) == (600, 10)
    wired = replace(none, switched=False)
    assert of(spread(wired))["cube"].rewire_s == 0


def test_copies_every_few_steps_lose_as_many_times_more() -> None:
    """GEMINI, section 7.2: 1.5 steps on average, of copies at every step."""
    assert of(spread(TWO), replace(STATE, every=4))["host"].lost_steps == 6


def test_a_loss_says_what_it_costs() -> None:
    assert of(spread(POD))["cube"].says == (
        "a lost cube takes 16 hosts out, and the memory of 16; a standby cube has the "
        "place in 10 s; 16 GB come from cubes of its pod in 31.7 ms; 1.5 steps are "
        "trained again"
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"bytes_": 0}, "bytes_ is 0; it must be more than 0"),
        ({"step_s": -1}, "step_s is -1; it must be more than 0"),
        ({"storage_bytes_per_s": 0}, "storage_bytes_per_s is 0"),
        ({"storage_interval_s": float("nan")}, "storage_interval_s is nan"),
        ({"every": 0}, r"every \(0\) must be at least 1"),
        ({"replace_s": -1}, r"replace_s \(-1\) at least 0"),
    ],
)
def test_states_that_cannot_be_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        replace(STATE, **wrong)  # pyright: ignore[reportArgumentType]
