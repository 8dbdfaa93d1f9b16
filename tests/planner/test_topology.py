"""Pods of cubes: what tori they make, who fits, and what fails together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twinstep.errors import ConfigError
from twinstep.planner.job import Job
from twinstep.planner.model import forecast
from twinstep.planner.policies import Costs, twinstep
from twinstep.planner.topology import Pods, Torus, failures, near_cubic, shapes
from twinstep.planner.wiring import draw, fit

POD = Pods(standby_cubes=4)
WIRED_ONCE = Pods(switched=False)


def test_a_superpod_is_4096_chips_in_cubes_of_4x4x4() -> None:
    """Gemini 1.0 report, section 3: SuperPods of 4096 chips, 4x4x4 chip cubes, another
    torus in around 10 seconds, a small number of cubes kept as standby."""
    assert POD.chips == 4096
    assert (POD.cube_chips, POD.cube_hosts, POD.rewire_s) == (64, 16, 10.0)
    assert POD.standby_chips == 256 and POD.standby_share == 1 / 16
    assert POD.hosts == POD.pod_hosts == 60 * 16
    two = replace(POD, pods=2)
    assert (two.chips, two.hosts, two.state_hosts) == (8192, 1920, 960)
    assert replace(two, replicated=False).state_hosts == 1920


def test_64_cubes_make_seven_tori_the_most_compact_first() -> None:
    """64 is a product of three in seven ways."""
    tori = shapes(64)
    assert [str(torus) for torus in tori] == [
        "16x16x16",
        "8x16x32",
        "4x32x32",
        "8x8x64",
        "4x16x64",
        "4x8x128",
        "4x4x256",
    ]
    assert tori[1].cubes == (2, 4, 8)


def test_the_bisection_is_two_faces_of_the_cut() -> None:
    """Google publishes 24 TB/s for a v4 pod and 1.6 TB/s for a v5e pod of 16x16."""
    cubic, *_, flattest = shapes(64)
    assert cubic.bisection_links == 2 * 16 * 16
    assert cubic.bisection_links * 50e9 == pytest.approx(24e12, rel=0.1)
    assert flattest.bisection_links == 2 * 4 * 4
    assert shapes(1, cube=(16, 16, 1))[0].bisection_links * 50e9 == 1.6e12
    assert Torus(chips=(1, 1, 1), cubes=(1, 1, 1)).bisection_links == 0
    assert Torus(chips=(2, 2, 2), cubes=(1, 1, 1)).bisection_links == 4


def test_cubes_that_are_not_cubic_are_turned_with_their_counts() -> None:
    (torus,) = [one for one in shapes(2, cube=(4, 4, 8)) if one.chips == (4, 8, 8)]
    assert sorted(torus.cubes) == [1, 1, 2]
    assert torus.bisection_links == 2 * 4 * 8


def test_a_pod_that_keeps_two_cubes_makes_a_bad_torus() -> None:
    """62 = 2 x 31; 61 is prime; 60 = 3 x 4 x 5."""
    assert [str(torus) for torus in shapes(62)] == ["4x8x124", "4x4x248"]
    assert str(near_cubic(63)) == "12x16x20"
    assert str(near_cubic(64)) == "16x16x16"
    assert str(near_cubic(63, ratio=3)) == "12x12x28"
    assert str(near_cubic(129)) == "16x16x32", "exactly twice as long"
    assert str(POD.torus) == "12x16x20"
    with pytest.raises(ConfigError, match=r"ratio is 1, but .*16x16x1.*at least 16"):
        near_cubic(3, cube=(16, 16, 1), ratio=1)


def test_with_a_switch_any_spare_cube_stands_in_for_any_lost_one() -> None:
    for lost in range(64):
        found = fit(POD, cubes=63, lost=[lost])
        assert len(found.cubes) == 63 and lost not in found.cubes
    none = fit(POD, cubes=63, lost=[1, 2])
    assert none.cubes == () and none.says == "62 cubes are left, 63 are needed"


def test_wired_once_a_job_needs_a_block_of_the_grid() -> None:
    """Of 4x4x4 cubes, those at (0,0,0) and (2,2,2) leave no two neighbouring planes
    whole, in any direction, though 62 cubes are left."""
    assert 5 not in fit(WIRED_ONCE, cubes=48, lost=[5]).cubes
    assert len(fit(WIRED_ONCE, cubes=48, lost=[5]).cubes) == 48
    assert "no block of 60" in fit(WIRED_ONCE, cubes=60, lost=[5]).says
    opposite = 2 * 16 + 2 * 4 + 2
    assert len(fit(WIRED_ONCE, cubes=32, lost=[0]).cubes) == 32
    assert fit(WIRED_ONCE, cubes=32, lost=[0, opposite]).cubes == ()
    assert len(fit(POD, cubes=32, lost=[0, opposite]).cubes) == 32
    turned = fit(WIRED_ONCE, cubes=32, lost=[0, 2 * 16])
    assert len(turned.cubes) == 32 and turned.says.startswith("a block of 4x")


def test_a_block_goes_over_the_edge_of_the_grid() -> None:
    """Planes 1 and 2 lose a cube each: 3 and 0 are neighbours, since the grid is a
    torus."""
    whole = fit(WIRED_ONCE, cubes=32, lost=[16, 37])
    assert whole.cubes == (*range(16), *range(48, 64))


def test_what_fails_together_becomes_the_models_domains() -> None:
    """A host fails for itself and for each of its four chips."""
    found = failures(
        replace(POD, pods=2),
        chip_per_day=1e-4,
        host_per_day=1e-3,
        cube_per_day=0.01,
        pod_per_day=0.002,
    )
    assert found.machine_per_machine_day == pytest.approx(1.4e-3)
    cube, pod = found.domains
    assert (cube.name, cube.machines, cube.per_day, cube.apart) == (
        "cube",
        16,
        0.01,
        True,
    )
    assert (pod.name, pod.machines, pod.per_day, pod.apart) == ("pod", 960, 0.002, True)
    # 1920 hosts, 120 cubes, 2 pods.
    assert found.per_day(1920) == pytest.approx(1920 * 1.4e-3 + 120 * 0.01 + 2 * 0.002)


def test_a_pod_that_fails_takes_all_copies_unless_another_has_the_state() -> None:
    assert not failures(POD).domains[1].apart
    assert not failures(replace(POD, pods=2, replicated=False)).domains[1].apart
    assert failures(replace(POD, pods=2, replicated=False), apart=True).domains[1].apart
    assert not failures(Pods(cubes_per_pod=1)).domains[0].apart


def test_the_models_forecast_takes_them() -> None:
    """A pod lost once in 100 days falls back to storage where it is the only one."""
    job = Job(
        machines=960,
        parameters=100e9,
        step_s=10,
        network_bytes_per_s=POD.host_bytes_per_s,
        storage_bytes_per_s=2.5e9,
    )
    found = failures(POD, pod_per_day=0.01, cube_per_day=0.01)
    plan = forecast(twinstep(job, found, Costs()), job, found)
    assert plan.failures_per_day == pytest.approx(0.61)
    assert plan.fallbacks_per_day >= 0.01


def test_a_pod_is_drawn_with_its_lost_and_its_standby_cubes() -> None:
    text = draw(POD, lost=[17, 62, 3])
    assert text.splitlines() == [
        "pod 0 of 1: 64 cubes of 4x4x4 chips, 60 train as 12x16x20",
        "   0  . . . x . . . . . . . . . . . .",
        "  16  . x . . . . . . . . . . . . . .",
        "  32  . . . . . . . . . . . . . . . .",
        "  48  . . . . . . . . . . . . + + x s",
        "  . trains   s standby   x lost   + stands in",
        "  cube 17 -> 60, wired in 10 s",
        "  cube 62 was standby: nothing stops",
        "  cube 3 -> 61, wired in 10 s",
    ]
    assert max(map(len, draw(Pods(cubes_per_pod=1000)).splitlines())) < 80


def test_a_stand_in_that_is_lost_too_needs_another() -> None:
    text = draw(replace(POD, standby_cubes=1, cubes_per_pod=9), lost=[0, 8])
    assert "cube 0 -> 8, wired in 10 s" in text
    assert "cube 8: no standby cube, the operator's repair" in text


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"cube": (4, 4, 0)}, r"cube is \(4, 4, 0\); each side has 1 to 64"),
        (
            {"chips_per_host": 7},
            r"chips_per_host \(7\) must divide the 64 chips.*4x4x4",
        ),
        ({"cubes_per_pod": 0}, "cubes_per_pod is 0; at least 1, at most 4096"),
        ({"pods": 0}, "pods is 0; at least 1"),
        ({"standby_cubes": 64}, "standby_cubes is 64; at least 0, at most 63"),
        (
            {"standby_cubes": 1, "switched": False},
            "standby_cubes is 1, but switched is",
        ),
        ({"rewire_s": -1}, "rewire_s is -1; it must be at least 0"),
        ({"link_bytes_per_s": 0}, "link_bytes_per_s is 0; it must be more than 0"),
        ({"host_bytes_per_s": float("inf")}, "host_bytes_per_s is inf"),
        ({"chips_bytes_per_s": float("nan")}, "chips_bytes_per_s is nan"),
    ],
)
def test_pods_that_cannot_be_are_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Pods(**wrong)  # pyright: ignore[reportArgumentType]


def test_cubes_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="cubes is 65; at least 1, at most the 64"):
        fit(POD, cubes=65)
    with pytest.raises(
        ConfigError, match="lost names cube 64; a pod has cubes 0 to 63"
    ):
        fit(POD, cubes=1, lost=[64])
    with pytest.raises(
        ConfigError, match="lost names cube -1; a pod has cubes 0 to 63"
    ):
        draw(POD, lost=[-1])
    with pytest.raises(ConfigError, match="lost names cube 3 twice"):
        draw(POD, lost=[3, 3])
    with pytest.raises(ConfigError, match="pod is 1; there are pods 0 to 0"):
        draw(POD, pod=1)
    with pytest.raises(ConfigError, match="cubes is 0; at least 1, at most 4096"):
        shapes(0)
