"""Machines on one computer: given, refused, given back, lost, and never left over."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from tests.agent.processes import is_gone
from twinstep.agent.kv import KeyValueStore, Put
from twinstep.agent.kv_client import connect
from twinstep.agent.kv_server import Server, serve
from twinstep.clock import monotonic_s
from twinstep.cloud.local import Limits, LocalFleet
from twinstep.cloud.operator import ENDED, LIVING, Answer, CloudOperator, Machine
from twinstep.cloud.requests import KeyValueOperator
from twinstep.cloud.serving import Serving
from twinstep.errors import ConfigError, DeadlinePassed

AGENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
with open(sys.argv[1] + ".new", "w") as file:
    file.write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
child.wait()
"""
"""An agent that knows nothing of lifelines, with a child that knows less."""
WAIT_S = 15.0


T = TypeVar("T")


def until(look: Callable[[], T | None], what: str) -> T:
    """What `look` finds within the deadline."""
    until_s = monotonic_s() + WAIT_S
    pause = threading.Event()
    while (found := look()) is None:
        assert monotonic_s() < until_s, f"no {what} within {WAIT_S} s"
        pause.wait(0.01)
    return found


def pids(folder: Path, machine: str) -> list[int]:
    """The agent and its child, when both are up."""
    file = folder / machine
    text = until(lambda: file.read_text() if file.exists() else None, machine)
    return [int(pid) for pid in text.split()]


def machine_named(operator: CloudOperator, name: str) -> Machine:
    return {each.name: each for each in operator.machines()}[name]


def ended(operator: CloudOperator, name: str) -> Machine:
    def look() -> Machine | None:
        machine = machine_named(operator, name)
        return machine if machine.state == ENDED else None

    return until(look, f"end of {name}")


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as server:
        yield server


@pytest.fixture
def command(tmp_path: Path) -> Callable[[str], Sequence[str]]:
    return lambda name: [sys.executable, "-c", AGENT, str(tmp_path / name)]


@pytest.fixture
def fleet(command: Callable[[str], Sequence[str]]) -> LocalFleet:
    return LocalFleet(command, limits=Limits(machines_max=2))


@pytest.fixture
def local(server: Server, fleet: LocalFleet) -> Iterator[Serving]:
    with contextlib.closing(Serving(server.store, fleet)) as operator:
        yield operator


@pytest.fixture
def root(server: Server) -> Iterator[KeyValueOperator]:
    """The operator as another process sees it."""
    store: KeyValueStore = connect(server.address)
    yield KeyValueOperator(store)
    store.close()


def test_machines_are_sessions_of_their_own_and_all_end_at_close(
    local: Serving, tmp_path: Path
) -> None:
    assert local.start(2) == [Answer(machine="m00"), Answer(machine="m01")]
    all_pids = [pids(tmp_path, name) for name in ("m00", "m01")]
    for name, (agent, child) in zip(("m00", "m01"), all_pids, strict=True):
        machine = machine_named(local, name)
        assert (machine.state, machine.group) == (LIVING, agent)
        assert os.getsid(agent) == os.getpgid(child) == agent
    local.close()
    assert all(is_gone(pid) for both in all_pids for pid in both)
    with pytest.raises(ChildProcessError):
        os.waitpid(all_pids[0][0], os.WNOHANG)  # reaped


def test_a_root_elsewhere_asks_once_for_each_request(
    local: Serving, root: KeyValueOperator
) -> None:
    assert root.answer("round-3") is None
    for _ in range(3):
        root.ask("round-3", reason="m01 is lost")
    answer = until(lambda: root.answer("round-3"), "answer")
    assert answer == Answer(machine="m00")
    root.ask("round-3", reason="m01 is lost")
    root.ask("round-4", reason="m00 is lost")
    assert until(lambda: root.answer("round-4"), "answer").machine == "m01"
    assert [machine.reason for machine in root.machines()] == [
        "m01 is lost",
        "m00 is lost",
    ]


def test_beyond_the_limit_a_request_is_refused_with_the_number(
    local: Serving, root: KeyValueOperator
) -> None:
    refused = local.start(3)[2]
    assert refused.machine == ""
    assert "2 machines live on this computer; at most 2" in refused.reason
    root.give_back("m00", reason="its ranks die")
    gone = ended(root, "m00")
    assert (gone.status, gone.reason) == (-signal.SIGKILL, "its ranks die")
    root.ask("again", reason="room")
    assert until(lambda: root.answer("again"), "answer") == Answer(machine="m02")


def test_a_machine_whose_agent_ends_is_gone_whole(
    local: Serving, tmp_path: Path
) -> None:
    local.start(1)
    agent, child = pids(tmp_path, "m00")
    os.kill(agent, signal.SIGTERM)
    gone = ended(local, "m00")
    assert (gone.status, gone.reason) == (-15, "its agent ended with -15")
    assert is_gone(child)


def test_a_stopped_machine_can_be_killed(
    local: Serving, fleet: LocalFleet, tmp_path: Path
) -> None:
    local.start(1)
    both = pids(tmp_path, "m00")
    os.killpg(both[0], signal.SIGSTOP)
    fleet.kill("m00")
    fleet.kill("m77")  # nobody
    assert ended(local, "m00").status == -signal.SIGKILL
    assert all(is_gone(pid) for pid in both)


def test_giving_back_what_is_not_there_is_no_error(
    local: Serving, root: KeyValueOperator, server: Server
) -> None:
    root.give_back("m05", reason="lost")
    until(
        lambda: None if server.store.get("operator/returns/")[1] else True, "deletion"
    )


def test_requests_made_before_the_operator_came_are_answered(
    server: Server, root: KeyValueOperator, command: Callable[[str], Sequence[str]]
) -> None:
    root.ask("early", reason="m01 is lost")
    fleet = LocalFleet(command, limits=Limits(machines_max=1))
    with contextlib.closing(Serving(server.store, fleet)):
        assert until(lambda: root.answer("early"), "answer") == Answer(machine="m00")


def test_an_operator_that_fell_behind_reads_again(
    local: Serving, root: KeyValueOperator, server: Server
) -> None:
    local.start(1)
    value = bytes(1024 * 1024)
    for _ in range(20):  # more than history holds
        server.store.transact([Put(key="elsewhere", value=value)])
    root.ask("late", reason="m01 is lost")
    assert until(lambda: root.answer("late"), "answer") == Answer(machine="m01")


def test_an_agent_that_cannot_be_run_ends_with_a_status(server: Server) -> None:
    fleet = LocalFleet(lambda _: ["/nowhere/agent"], limits=Limits(machines_max=1))
    with contextlib.closing(Serving(server.store, fleet)) as operator:
        operator.start(1)
        assert ended(operator, "m00").status == 127


def test_no_answer_ends_by_its_deadline(server: Server, fleet: LocalFleet) -> None:
    operator = Serving(server.store, fleet, start_s_max=0.2)
    operator.close()
    with pytest.raises(DeadlinePassed, match="did not answer start-0-0"):
        operator.start(1)


@pytest.mark.parametrize("name", ["", "a/b"])
def test_names_with_slashes_are_refused(root: KeyValueOperator, name: str) -> None:
    with pytest.raises(ConfigError, match="no slash"):
        root.ask(name, reason="")
    with pytest.raises(ConfigError, match="at least 1"):
        Limits(machines_max=0)


LAUNCHER = """
import sys, signal
from twinstep.agent.kv_server import serve
from twinstep.cloud.local import Limits, LocalFleet
from twinstep.cloud.serving import Serving
folder = sys.argv[1]
AGENT = '''
import contextlib, os, select, signal, sys
from twinstep.agent.ranks import WarmRanks
from twinstep.agent.warm import Fork, Forked
folder, name = sys.argv[1:]
ranks = WarmRanks(preload=[], folder=folder)
fork = Fork(request=1, script=f"{folder}/rank.py", arguments=[], folder=folder,
            environment={})
ranks.start(fork, stdout=1, stderr=2)
poll = select.poll()
poll.register(ranks.fileno(), select.POLLIN)
while poll.poll():
    for event in ranks.receive():
        if isinstance(event, Forked):
            with open(f"{folder}/{name}.new", "w") as file:
                file.write(f"{os.getpid()} {ranks.pid} {event.pid}")
            os.rename(f"{folder}/{name}.new", f"{folder}/{name}")
'''
with serve() as server:
    fleet = LocalFleet(lambda name: [sys.executable, "-c", AGENT, folder, name],
        limits=Limits(machines_max=4))
    operator = Serving(server.store, fleet)
    operator.start(2)
    signal.pause()
"""


def test_nobody_is_left_when_the_launcher_is_killed(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text("import signal\nsignal.pause()")
    with subprocess.Popen([sys.executable, "-c", LAUNCHER, str(tmp_path)]) as launcher:
        everybody = [*pids(tmp_path, "m00"), *pids(tmp_path, "m01")]
        assert len(everybody) == 6
        assert not any(is_gone(pid, 0.0) for pid in everybody)
        launcher.kill()
    assert all(is_gone(pid, 5.0) for pid in everybody)
