"""Servicing all cubes while a job trains, and how many wait in reserve."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from twinstep.errors import ConfigError
from twinstep.planner.topology import Pods
from twinstep.planner.upkeep import free_chance, service, standbys_needed

POD = Pods(standby_cubes=4)


def test_every_cube_is_serviced_at_one_stop_for_each_that_trains() -> None:
    """Gemini 1.0 report, section 3: standby cubes allow rolling maintenance. 4 standby
    cubes first, then 60 swaps, of 10 s + 30 s + 1 GB a host over 7.5 GB/s and into the
    chips."""
    found = service(POD, service_s=3600, restart_s=30, state_bytes=960e9)
    assert (found.turns, found.stops) == (64, 60)
    assert found.stop_s == pytest.approx(10 + 30 + 1 / 7.5 + 1 / 63)
    assert found.lost_s == pytest.approx(60 * found.stop_s)
    assert found.round_s == pytest.approx(64 * 3600 + found.lost_s)
    assert found.lost_share == pytest.approx(found.lost_s / found.round_s)
    assert found.says.startswith("all cubes serviced in 2.69 days: 60 stops of 40.1 s")


def test_four_at_once_stop_a_quarter_as_often() -> None:
    found = service(POD, service_s=3600, restart_s=30, state_bytes=960e9, at_once=4)
    assert (found.turns, found.stops) == (16, 15)
    five = replace(POD, standby_cubes=5)
    found = service(five, service_s=3600, restart_s=30, state_bytes=960e9, at_once=3)
    assert (found.turns, found.stops) == (20 + 2, 20), "5 that wait, then 59"


def test_pods_are_serviced_in_step() -> None:
    """A synchronous job stops once for both pods, and each host's part is the same."""
    one = service(POD, service_s=3600, restart_s=30, state_bytes=960e9)
    two = replace(POD, pods=2)
    assert service(two, service_s=3600, restart_s=30, state_bytes=960e9) == one


def test_without_standby_cubes_training_waits_for_the_service() -> None:
    none = replace(POD, standby_cubes=0)
    found = service(none, service_s=3600, restart_s=30, state_bytes=1024e9)
    assert (found.turns, found.stops) == (1, 1)
    assert found.lost_s == found.round_s == pytest.approx(3630 + 1 / 63)
    assert found.lost_share == 1


def test_one_is_free_as_often_as_poisson_says() -> None:
    """60 cubes that fail once in 100 days each, a day in repair: m = 0.6."""
    m = 0.6
    expected = math.exp(-m) * (1 + m + m**2 / 2 + m**3 / 6)
    found = free_chance(POD, cube_per_day=0.01, repair_s=86400)
    assert found == pytest.approx(expected)
    less = free_chance(POD, cube_per_day=0.01, repair_s=86400, serviced=1)
    assert less == pytest.approx(math.exp(-m) * (1 + m + m**2 / 2))
    assert free_chance(POD, cube_per_day=0.0, repair_s=86400) == 1
    none = replace(POD, standby_cubes=0)
    assert free_chance(none, cube_per_day=0.01, repair_s=86400) == 0


def test_as_many_standby_cubes_as_the_chance_needs() -> None:
    """m = 0.61 with 3 standby cubes, 0.60 with 4: 0.976 and 0.997 are free."""
    needed = standbys_needed(POD, cube_per_day=0.01, repair_s=86400)
    assert needed == 4
    assert standbys_needed(POD, cube_per_day=0.01, repair_s=86400, chance=0.97) == 3
    assert standbys_needed(POD, cube_per_day=0.01, repair_s=86400, serviced=1) == 5
    assert standbys_needed(POD, cube_per_day=0, repair_s=0) == 1


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at_once \(5\).*standby_cubes \(4\)"):
        service(POD, service_s=1, restart_s=1, state_bytes=1, at_once=5)
    with pytest.raises(ConfigError, match="service_s is -1; it must be at least 0"):
        service(POD, service_s=-1, restart_s=1, state_bytes=1)
    with pytest.raises(ConfigError, match="cube_per_day is -1; it must be at least 0"):
        free_chance(POD, cube_per_day=-1, repair_s=1)
    with pytest.raises(ConfigError, match="serviced is -1; it must be at least 0"):
        free_chance(POD, cube_per_day=1, repair_s=1, serviced=-1)
    with pytest.raises(ConfigError, match="chance is 1; at least 0, below 1"):
        standbys_needed(POD, cube_per_day=1, repair_s=1, chance=1)
    few = Pods(cubes_per_pod=2)
    with pytest.raises(ConfigError, match=r"chance is 0.99, but 1 standby cubes of 2"):
        standbys_needed(few, cube_per_day=1, repair_s=86400)
