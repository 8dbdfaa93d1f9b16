"""What is said of a loss before it happens, and whether it comes true."""

from __future__ import annotations

import json

import pytest

from tests.recovery.test_choice import held
from tests.trial import PRELOAD, WORKLOADS, Trial, takes_long, trial, twinstep
from twinstep import inject
from twinstep.agent.status import MachineStatus, Status
from twinstep.config import Job
from twinstep.errors import UsageError
from twinstep.explain import Sight, forecast, now, resolve
from twinstep.explain_view import promise

__all__ = ["trial"]


def machine(name: str, place: int, *holds: int) -> MachineStatus:
    return MachineStatus(
        machine=name,
        machine_rank=place,
        host="127.0.0.1",
        port=1,
        group=0,
        ranks={place: 7} if place >= 0 else {},
        holds=list(holds),
    )


def sight(**changes: object) -> Sight:
    status = Status(
        at_s=0.0,
        phase="training",
        phase_since_s=0.0,
        root="m0",
        round=1,
        term=1,
        step=6,
        safe=5,
        waiting_for=[],
        machines=[machine("m0", 0, 1), machine("m1", 1, 0), machine("s", -1)],
        sizes={0: 100, 1: 200},
        shared=False,
        copies=2,
        recoveries=0,
        restored_step=0,
    )
    whole = [held(0, 5), held(1, 5)]
    settings = {
        "status": status,
        "job": Job(machines=2),
        "held": {"m0": [*whole, held(0, 6)], "m1": whole},
        "reached": 6,
        "silent": [],
    }
    return Sight(**(settings | changes))


def test_a_loss_is_foretold_in_full() -> None:
    found = forecast(sight(), ["m1"])
    assert (found.step, found.steps_lost, found.reads) == (5, 1, {1: "m0"})
    assert found.takes_place == {"m1": "s, a standby"}
    assert (found.read_bytes, found.copies_again_bytes) == (200, 300)
    assert found.may_lose == 0 and found.only_here == {"m0": [0, 1]}
    assert not found.new_root
    assert forecast(sight(), ["m0"]).new_root


def test_the_loss_of_a_standby_costs_nothing() -> None:
    found = forecast(sight(), ["s"])
    assert (found.step, found.takes_place, found.reads) == (5, {}, {})


def test_the_loss_of_all_holders_is_said_to_be_one() -> None:
    found = forecast(sight(), ["m0", "m1"])
    assert (found.step, found.may_lose) == (0, -1)


def test_what_may_be_lost_is_one_sentence() -> None:
    assert promise(now(sight()), copies=2) == (
        "any 1 machine may be lost; memory would not survive: m0 with m1"
    )
    lonely = sight(held={"m0": [held(0, 5)], "m1": [held(1, 5)]})
    assert "must not be lost: m0 (shard 0), m1 (shard 1)" in promise(
        now(lonely), copies=2
    )
    assert "copies = 1" in promise(now(lonely), copies=1)
    assert "step 0" in promise(now(sight(held={"m0": []})), copies=2)


def test_machines_go_by_name_rank_or_root() -> None:
    assert resolve(sight(), ["root", "0", "m1"]) == ["m0", "m1"]
    with pytest.raises(UsageError, match="no machine m7; there are: m0, m1, s"):
        resolve(sight(), ["m7"])


@takes_long
def test_what_was_foretold_comes_true(trial: Trial) -> None:
    arguments = ("--steps", "150")
    trial.start(
        *("--machines", "2", "--standby", "1"),
        script=WORKLOADS / "linear.py",
        arguments=arguments,
        config=PRELOAD,
    )
    status = trial.status(step=10, ranks=2)
    assert status.may_lose == 1
    words = ("explain", "1", "--job", str(trial.job), "--json")
    done = twinstep(trial, *words)
    assert done.returncode == 0, done.stderr
    (foretold,) = json.loads(done.stdout)["forecasts"]
    inject.kill_machine(status, "1")
    recovery = trial.recovered(1)
    assert foretold["step"] > 0 and recovery.step >= foretold["step"]
    sources = {f"memory of {name}" for name in foretold["reads"].values()}
    assert sources <= set(recovery.sources), f"{foretold} {recovery}"
    picture = twinstep(trial, "explain", "--job", str(trial.job))
    assert picture.returncode == 0, picture.stderr
    assert "memory would not survive: m00 with m02" in picture.stdout
    assert trial.wait() == 0, str(trial)
