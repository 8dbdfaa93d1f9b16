"""A job of light ranks on a real etcd: agents by `twinstep join`, one a machine.

The test plays the cloud operator: what roots ask for is found in the store, and
nothing comes before `serve`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from tests.agent.etcd_nodes import Cluster, cluster
from tests.joined import Joined
from tests.trial import WORKLOADS, Trial, trial
from tests.workloads import light
from twinstep.agent import etcd as etcd_store
from twinstep.agent.census import ROOT
from twinstep.agent.election import RootKey
from twinstep.agent.kv import Put
from twinstep.agent.record import Plan, Recovery
from twinstep.agent.seat import PLAN
from twinstep.agent.status import Status
from twinstep.cloud.operator import ENDED, LIVING, Answer, Machine
from twinstep.cloud.requests import ANSWERS, MACHINES, REQUESTS, RETURNS
from twinstep.errors import TwinstepError

__all__ = ["Fleet", "fleet", "trial"]
LOOK_S = 0.01
CONFIG = """\
machines = {machines}
copies = {machines}
preload = []
[timing]
machine_s_max = 60.0
"""


class Fleet(Joined):
    """The machines of one job. Waits have limits and name what they waited for."""

    def __init__(self, trial: Trial, etcd: Cluster) -> None:
        super().__init__(trial, WORKLOADS / "light.py", ())
        self.etcd = etcd
        self.store = etcd.address + "job"
        self.keys = etcd_store.connect(self.store, call_s_max=5.0)
        self.steps_file = trial.folder / "steps"
        self.given: dict[str, str] = {}
        self.stop_file = trial.folder / "stop"
        self.ranks = 0
        self._config = trial.folder / "job.toml"

    def begin(self, *, machines: int) -> None:
        """So many machines train; returns when they do."""
        self.ranks = machines
        files = ("--steps-file", self.steps_file, "--stop-file", self.stop_file)
        self.arguments = tuple(map(str, files))
        self._config.write_text(CONFIG.format(machines=machines))
        for number in range(machines):
            self.add(f"m{number}")
        self.training(step=5)

    def add(self, name: str) -> None:
        self.join(name, "--config", str(self._config), "--operator", "store")

    def until(
        self, true: Callable[[], Any], what: str, *, timeout_s: float = 30.0
    ) -> Any:
        until_s = time.monotonic() + timeout_s
        while True:
            try:
                if found := true():
                    return found
            except TwinstepError:
                pass  # the store is away
            assert time.monotonic() < until_s, (
                f"waited {timeout_s} s for {what}\n{self}"
            )
            time.sleep(LOOK_S)

    # What the store says.

    def value(self, key: str) -> tuple[bytes, int]:
        """A key's value and the revision it was put at; 0 where there is none."""
        item = self.keys.get(key)[1].get(key)
        return (item.value, item.changed) if item else (b"", 0)

    def root(self) -> RootKey | None:
        raw, _ = self.value(ROOT)
        return msgspec.json.decode(raw, type=RootKey) if raw else None

    def plan(self) -> tuple[Plan, int]:
        raw, revision = self.value(PLAN)
        return msgspec.msgpack.decode(raw, type=Plan), revision

    def training(self, *, step: int = 0, term: int = 0) -> Status:
        """All machines train, in this term or a later one, beyond `step`."""

        def seen() -> Status | None:
            status = self.view().status()
            if status is None or status.phase != "training" or status.term < term:
                return None
            ranks = sum(len(machine.ranks) for machine in status.machines)
            return status if ranks == self.ranks and status.safe >= step else None

        return self.until(seen, f"training beyond step {step} in term {term}")

    def recoveries(self) -> list[Recovery]:
        return self.view().recoveries()

    # The operator.

    def requests(self) -> list[str]:
        """What was asked for, ever."""
        return sorted(key.removeprefix(REQUESTS) for key in self.keys.get(REQUESTS)[1])

    def returned(self) -> set[str]:
        return {key.removeprefix(RETURNS) for key in self.keys.get(RETURNS)[1]}

    def serve(self, *, stillborn: bool = False) -> None:
        """What was asked for is given; `stillborn` machines end before they join."""
        for request in self.requests():
            if request in self.given:
                continue
            name = self.given[request] = f"r{len(self.given)}"
            state = ENDED if stillborn else LIVING
            machine = Machine(name=name, state=state, reason="tests")
            values = {
                ANSWERS + request: msgspec.msgpack.encode(Answer(machine=name)),
                MACHINES + name: msgspec.msgpack.encode(machine),
            }
            self.keys.transact([Put(key=k, value=v) for k, v in values.items()])
            if not stillborn:
                self.add(name)

    def served(self, *, term: int, step: int) -> Status:
        """The operator does its work until all machines train."""

        def back() -> Status | None:
            self.serve()
            status = self.view().status()
            good = status and status.phase == "training" and status.term >= term
            return status if good and status and status.safe > step else None

        return self.until(back, f"training beyond step {step} in term {term}")

    # Damage.

    def send(self, name: str, number: signal.Signals) -> None:
        """The whole machine: agent, warm process and ranks."""
        os.killpg(self.processes[name].pid, number)

    def kill_rank(self, status: Status, machine: str) -> None:
        (pid,) = next(m for m in status.machines if m.machine == machine).ranks.values()
        os.kill(pid, signal.SIGKILL)

    def made(self, rank: int = 0) -> int:
        """The newest step that a rank has made."""
        path = self.steps_file.with_suffix(f".{rank}")
        return int(path.read_text().splitlines()[-1].split()[2])

    def ends_well(self) -> None:
        """The job ends, with the bits of a run that nothing disturbed."""
        living = [machine.machine for machine in self.training().machines]
        self.stop_file.touch()
        for name in living:
            assert self.wait(name, timeout_s=30.0) == 0, str(self)
        wanted = light.undisturbed(self.ranks, self.made())
        assert self.digests() == wanted, str(self)


@pytest.fixture
def fleet(trial: Trial) -> Iterator[Fleet]:
    for name in ("out", "err"):
        trial.folder.joinpath(name).touch()
    with cluster(trial.folder) as etcd:
        found = Fleet(trial, etcd)
        try:
            yield found
        finally:
            for process in found.processes.values():
                process.kill()
                process.wait(10)
            found.keys.close()
