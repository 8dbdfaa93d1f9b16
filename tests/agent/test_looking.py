"""Real processes are looked at: what they show, and what is done where they cannot."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinstep.agent import looking
from twinstep.agent.messages import Sight
from twinstep.agent.own_stack import MAIN_SIGNAL
from twinstep.config import Health

SCRIPT = """
import sys, threading, time
{before}
def stand_still():
    lock = threading.Lock()
    lock.acquire()
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    print("ready", flush=True)
    {line}
stand_still()
"""
SHOWS = "from twinstep.agent.own_stack import show_when_asked; show_when_asked()"
BYTES = 100_000


def stands_at_its_line(pid: int) -> None:
    """It sleeps, or after a while it computes as it is meant to."""
    states = ""
    while not states.endswith("SSSSS") and len(states) < 50:
        time.sleep(0.01)
        states += looking.process_sight(pid).state


@pytest.fixture
def started(tmp_path: Path) -> Iterator[object]:
    left: list[subprocess.Popen[bytes]] = []

    def start(line: str, *, before: str = SHOWS) -> int:
        script = tmp_path / f"script{len(left)}.py"
        script.write_text(SCRIPT.format(before=before, line=line))
        process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        left.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        stands_at_its_line(process.pid)
        return process.pid

    yield start
    for process in left:
        process.kill()
        process.wait()
        assert process.stdout is not None and process.stdin is not None
        process.stdout.close()
        process.stdin.close()


@pytest.mark.parametrize(
    ("line", "doing"),
    [("lock.acquire()", "lock"), ("time.sleep(1000)", "sleep"), ("input()", "own")],
)
def test_a_waiting_process_shows_where(started, line: str, doing: str) -> None:
    pid = started(line)
    seen = [looking.look(pid, threads=threads, bytes_max=BYTES) for threads in (0, 1)]
    for one in seen:
        assert (one.sight.doing, one.sight.call) == (doing, line), one.text
        assert one.sight.place.startswith("script0.py:")
        assert one.sight.state == "S" and one.refused == ""
    assert seen[0].sight.digest == seen[1].sight.digest != 0
    assert "most recent call first" in seen[1].text
    assert seen[1].text.count("Thread 0x") == 1, "the other one, too"
    assert "Thread 0x" not in seen[0].text
    again = looking.look(pid, threads=False, bytes_max=BYTES)
    assert again.text == seen[0].text, "and nothing of before"


def test_a_process_that_would_die_of_the_signal_does_not_get_it(started) -> None:
    pid = started("time.sleep(1000)", before="")
    one = looking.look(pid, threads=False, bytes_max=BYTES)
    assert "does not catch the signal" in one.refused
    assert one.sight.state == "S" and one.sight.doing == "unseen"
    time.sleep(0.1)
    assert looking.process_sight(pid).state == "S"


def test_another_who_catches_the_signal_is_left_alone(started) -> None:
    before = f"import signal; signal.signal({int(MAIN_SIGNAL)}, lambda *_: sys.exit(3))"
    pid = started("time.sleep(1000)", before=before)
    one = looking.look(pid, threads=False, bytes_max=BYTES)
    assert "no file for its stack" in one.refused
    assert looking.process_sight(pid).state == "S"


def test_a_stopped_process_is_said_to_be(started, monkeypatch) -> None:
    pid = started("time.sleep(1000)")
    os.kill(pid, signal.SIGSTOP)
    while looking.process_sight(pid).state != "T":
        time.sleep(0.01)
    monkeypatch.setattr(looking.shutil, "which", lambda _name: None)
    one = looking.look(pid, threads=True, bytes_max=BYTES)
    assert one.sight.state == "T" and "install py-spy" in one.refused
    monkeypatch.undo()
    if looking.shutil.which("py-spy"):
        one = looking.look(pid, threads=True, bytes_max=BYTES)
        if not one.refused:  # it may not be allowed to
            assert one.sight.place.startswith("script0.py:"), one.text
    os.kill(pid, signal.SIGCONT)


def test_a_process_that_is_gone_and_one_that_computes(started) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert looking.process_sight(gone.pid).state == "X"
    assert looking.look(gone.pid, threads=False, bytes_max=BYTES).text == ""
    pid = started("while True: pass")
    first, until_s = looking.process_sight(pid), time.monotonic() + 20.0
    while looking.process_sight(pid).cpu_s - first.cpu_s < 0.05:
        assert time.monotonic() < until_s, "it uses no processor"
        time.sleep(0.02)


def test_what_is_read_of_a_stack_is_bounded(started) -> None:
    pid = started("time.sleep(1000)")
    one = looking.look(pid, threads=True, bytes_max=60)
    assert len(one.text) == 60


async def looks(
    looker: looking.Looker, pids: dict[int, int], **how: object
) -> dict[int, Sight]:
    answer: asyncio.Future[dict[int, Sight]] = (
        asyncio.get_running_loop().create_future()
    )
    looker.look(pids, done=answer.set_result, **how)  # type: ignore[arg-type]
    return await asyncio.wait_for(answer, 10.0)


def test_stacks_are_saved_and_old_rounds_deleted(started, tmp_path: Path) -> None:
    pid, lines = started("lock.acquire()"), list[str]()
    health = Health(stack_rounds_max=2)

    async def run() -> None:
        looker = looking.Looker(health, tmp_path, log=lines.append)
        sights = await looks(looker, {3: pid}, round=1, threads=False)
        assert sights[3].doing == "lock"
        assert not lines
        for round in (1, 2, 10, 9):
            await looks(looker, {3: pid}, round=round, threads=True)

    asyncio.run(run())
    folder = tmp_path / "stacks"
    assert sorted(p.name for p in folder.iterdir()) == ["latest", "round-10", "round-9"]
    text = (folder / "round-9" / "rank-3.txt").read_text()
    assert text.startswith(f"rank 3, process {pid}, state S") and "stand_still" in text
    assert lines[0].startswith("the stacks of rank 3 are in ") and len(lines) == 4
    assert looking.tidy(tmp_path) == folder
    assert sorted(p.name for p in folder.iterdir()) == ["round-10", "round-9"]


def test_without_a_hang_nothing_is_left(started, tmp_path: Path) -> None:
    pid = started("lock.acquire()")

    async def run() -> None:
        looker = looking.Looker(Health(), tmp_path, log=print)
        await looks(looker, {0: pid}, round=1, threads=False)

    asyncio.run(run())
    assert (tmp_path / "stacks" / "latest" / "rank-0.txt").exists()
    assert looking.tidy(tmp_path) is None
    assert not (tmp_path / "stacks").exists()


def test_a_look_that_hangs_holds_up_nobody(
    started, tmp_path: Path, monkeypatch
) -> None:
    pid, lines = started("lock.acquire()"), list[str]()
    monkeypatch.setattr(looking, "LOOK_S_MAX", 0.2)
    look = looking.look

    def slow(*given: int, **how: int) -> looking.Taken:
        time.sleep(1.0)
        return look(*given, **how)

    monkeypatch.setattr(looking, "look", slow)

    async def run() -> None:
        looker = looking.Looker(Health(), tmp_path, log=lines.append)
        for _ in range(2):  # the second finds the first still at it
            sights = await looks(looker, {0: pid}, round=1, threads=True)
            assert sights[0].state == "S" and sights[0].doing == "unseen"

    asyncio.run(run())
    assert lines == ["its ranks were not looked at within 0.2 s"]
    while threading.active_count() > 1:
        time.sleep(0.01)


def test_stacks_can_be_switched_off(started, tmp_path: Path) -> None:
    pid = started("lock.acquire()")

    async def run() -> None:
        looker = looking.Looker(Health(stacks=False), tmp_path, log=print)
        sights = await looks(looker, {0: pid}, round=1, threads=True)
        assert sights[0].doing == "unseen"

    asyncio.run(run())
    assert not (tmp_path / "stacks").exists()
