"""Settings that a plan recommends, each for its reason."""

from __future__ import annotations

import math

from tests.planner.jobs import GBPS, job
from twinstep.planner.advice import advise
from twinstep.planner.catching_up import storage_that_does
from twinstep.planner.failures import Failures
from twinstep.planner.job import Job
from twinstep.planner.policies import Costs

OFTEN = Failures(machine_per_machine_day=0.5)


def advised(one: Job, failures: Failures) -> dict[str, tuple[str, str]]:
    return {s.name: (s.value, s.reason) for s in advise(one, failures, Costs())}


def test_more_copies_are_advised_where_they_gain_something() -> None:
    very_often = Failures(machine_per_machine_day=4.0)
    assert advised(job(), very_often)["copies"][0] == "3"
    rare = Failures(machine_per_machine_day=1e-3)
    assert advised(job(), rare)["copies"][0] == "2"
    only_processes = Failures(process_per_machine_day=0.5)
    assert advised(job(), only_processes)["copies"][0] == "1"
    value, reason = advised(job(memory_bytes=310e9), very_often)["copies"]
    assert value == "2"
    assert "memory holds 2" in reason


def test_standbys_are_advised_until_nobody_waits() -> None:
    value, reason = advised(job(), OFTEN)["standbys"]
    assert int(value) >= 2
    assert "0: 5.5 min" in reason
    none = Failures(process_per_machine_day=1)
    assert advised(job(), none)["standbys"] == ("0", "no machine fails")


def test_a_slow_network_is_told_from_a_fast_one() -> None:
    assert advised(job(), OFTEN)["capture"][0] == "every 1 step(s)"
    slow = job(network_bytes_per_s=40 * GBPS, copies=3)
    value, reason = advised(slow, Failures(machine_per_machine_day=1e-3))["capture"]
    assert value == "every 4 step(s)"
    assert "25 s" in reason


def test_fast_storage_catches_up() -> None:
    """A reader of the paper asked what if storage were faster than 20 Gbps."""
    some = Failures(machine_per_machine_day=0.1)
    speed = storage_that_does(job(), some, Costs())
    assert 20 * GBPS < speed < math.inf
    # Rare failures need less of it.
    rare = Failures(machine_per_machine_day=1e-3)
    assert storage_that_does(job(), rare, Costs()) < speed / 10


def test_where_host_copies_are_slow_no_storage_catches_up() -> None:
    """Training waits for a copy into host memory at each checkpoint."""
    one = job(host_bytes_per_s=1e9)
    assert storage_that_does(one, OFTEN, Costs()) == math.inf
