"""Who is killed takes along what is below, and nobody is left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.processes import is_gone
from twinstep.agent.lifeline import tied

AGENT = """
import contextlib, select, signal, sys
from twinstep.agent.ranks import PlainRanks, WarmRanks
from twinstep.agent.warm import Fork, Forked
folder, kind = sys.argv[1:]
ranks = WarmRanks(preload=[], folder=folder) if kind == "warm" else PlainRanks()
fork = Fork(request=1, script=f"{folder}/rank.py", arguments=[], folder=folder,
            environment={})
ranks.start(fork, stdout=1, stderr=2)
poll = select.poll()
poll.register(ranks.fileno(), select.POLLIN)
while poll.poll():
    for event in ranks.receive():
        if isinstance(event, Forked):
            print(getattr(ranks, "pid", event.pid), event.pid, flush=True)
            signal.pause()
"""


@pytest.mark.parametrize("kind", ["warm", "plain"])
def test_warm_process_and_ranks_die_with_the_agent(kind: str, tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text("import signal\nsignal.pause()")
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, str(tmp_path), kind],
        stdout=subprocess.PIPE,
        text=True,
    ) as agent:
        assert agent.stdout is not None
        pids = [int(pid) for pid in agent.stdout.readline().split()]
        assert len(pids) == 2 and not is_gone(pids[1], 0.0)
        agent.kill()
    assert all(is_gone(pid, 5.0) for pid in pids)


def test_who_comes_after_its_parent_died_is_killed() -> None:
    child = subprocess.run(tied(["true"], parent=1), check=False)
    assert child.returncode == -signal.SIGKILL
    child = subprocess.run(tied(["true"], parent=os.getpid()), check=False)
    assert child.returncode == 0
    child = subprocess.run(
        tied(["/nowhere"], parent=os.getpid()), check=False, capture_output=True
    )
    assert (child.returncode, b"cannot be run" in child.stderr) == (127, True)


IMPORTING = """
import signal, sys
from twinstep.agent.ranks import WarmRanks
sys.path.insert(0, sys.argv[1])
ranks = WarmRanks(preload=["endless_module"], folder="/",
                  environment={"PYTHONPATH": ":".join(sys.path)})
signal.pause()
"""


def test_a_warm_process_that_still_imports_dies_with_the_agent(tmp_path: Path) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)
    (tmp_path / "endless_module.py").write_text(
        "import os, signal\n"
        f"with open({str(told)!r}, 'w') as file:\n"
        "    file.write(str(os.getpid()))\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", IMPORTING, str(tmp_path)]) as agent:
        pid = int(told.read_text())
        assert not is_gone(pid, 0.0)
        agent.kill()
    gone = is_gone(pid, 5.0)
    if not gone:
        os.kill(pid, signal.SIGKILL)
    assert gone
