"""Which phase a recovery is in, and who may be hit in it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from random import Random

import msgspec
import pytest

from tests.demo import records
from twinstep.agent.record import Plan
from twinstep.agent.status import MachineStatus, Status
from twinstep.demo.faults import Missed
from twinstep.demo.recovering import WHO, Before, couple, phase_of, reached
from twinstep.demo.together import survives
from twinstep.errors import UsageError

BEFORE = Before(round=3, recoveries=1)
OLD = records.recovery()


def plan(number: int) -> Plan:
    return Plan(
        round=number,
        members=["m00", "m01"],
        vacated={},
        sizes={},
        shared=False,
        may_share=False,
        recoveries=1,
        fruitless=0,
    )


@pytest.mark.parametrize(
    ("round", "new", "placing", "phase"),
    [
        (3, [], False, "electing"),
        (4, [], False, "stopping"),
        (4, [], True, "placing"),
        (4, [{"decided_s": 0.0, "loaded_s": 0.0}], False, "stopping"),
        (4, [{"loaded_s": 0.0}], False, "restoring"),
        (4, [{"loaded_s": 0.0}], True, "restoring"),
        (4, [{}], False, ""),
    ],
)
def test_the_store_tells_the_phase(
    round: int, new: list[dict[str, float]], placing: bool, phase: str
) -> None:
    recoveries = [OLD, *(records.recovery(**changes) for changes in new)]
    found = phase_of(plan(round), recoveries, before=BEFORE, placing=placing)
    assert found == phase


def test_a_second_victim_takes_no_shard_with_it() -> None:
    for phase, everybody in WHO.items():
        for who in everybody:
            for seed in range(40):
                status = records.status(root=f"m0{seed % 4}")
                first, second = couple(status, who, phase, Random(seed))
                assert (first == status.root) == (phase == "electing")
                if who in ("agent", "machine", "root"):
                    assert survives(status, {first, second}), (phase, who, seed)
                if who == "root":
                    assert second == status.root


def test_where_every_pair_takes_a_shard_nobody_is_hit() -> None:
    lonely = [m for m in records.status().machines if m.machine in ("m00", "m01")]
    status = records.status(machines=lonely)
    for phase, who in (("electing", "agent"), ("stopping", "root")):
        with pytest.raises(UsageError, match="together with m00"):
            couple(status, who, phase, Random(1))


@dataclass
class Told:
    """A recovery whose phases are given, and a newcomer that has just joined."""

    newcomer: MachineStatus
    phases: list[str] = field(default_factory=list[str])

    def phase(self) -> str:
        return self.phases.pop(0)

    def members(self) -> list[str]:
        return ["m00", "", "m02", self.newcomer.machine]

    def machine(self, name: str, status: Status) -> MachineStatus | None:
        return self.newcomer if name == self.newcomer.machine else None


def test_a_newcomer_is_found_that_joined_after_the_first_blow() -> None:
    agent = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "join", "m07"],
        start_new_session=True,
    )
    try:
        newcomer = msgspec.structs.replace(
            records.status().machines[0], machine="m07", group=agent.pid
        )
        course = Told(newcomer=newcomer, phases=["electing", "stopping", "restoring"])
        victim = reached(
            course, records.status(), "newcomer", "restoring", None, Random(1)
        )
        assert (victim.machine, victim.group) == ("m07", agent.pid)
    finally:
        agent.kill()
        agent.wait()


def test_a_phase_that_is_over_is_missed() -> None:
    course = Told(newcomer=records.status().machines[0], phases=["electing", ""])
    with pytest.raises(Missed, match="restoring was over"):
        reached(course, records.status(), "rank", "restoring", None, Random(1))
