"""The ranks of a machine, where the warm process that forks them is real and slow."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from twinstep.agent.crew import Command, Crew
from twinstep.agent.messages import Begin, Member
from twinstep.config import Job
from twinstep.values import Grid

WAIT_S = 30.0
GRID = Grid(machines=1, ranks_per_machine=2)
SLOW_MODULE = """
import os
with open(os.path.join(os.path.dirname(__file__), "gate")) as gate:
    gate.read()
"""
SCRIPT = """
import os, sys, time
with open("ran", "a") as file:
    file.write(os.environ["TWINSTEP_ROUND"] + "\\n")
time.sleep(float(sys.argv[1]))
"""


def begin(number: int) -> Begin:
    member = Member(machine="m00", host="127.0.0.1", port=1)
    return Begin(
        round=number,
        term=1,
        step=0,
        captured_in=0,
        members=[member],
        holders=[[0]],
        sources={},
        sizes={},
        shared=False,
        master_port=1,
        may_share=True,
    )


class Place:
    """A crew whose warm process imports for as long as its gate is shut."""

    def __init__(self, folder: Path, *, lasts_s: float) -> None:
        self.folder = folder
        self.ends: list[tuple[int, int, int]] = []
        (folder / "slow_module.py").write_text(SLOW_MODULE)
        (folder / "script.py").write_text(SCRIPT)
        os.mkfifo(folder / "gate")
        path = f"{folder}:{os.environ.get('PYTHONPATH', '')}"
        self.crew = Crew(
            Job(ranks_per_machine=2, machines=1, copies=1, preload=("slow_module",)),
            Command(
                script=str(folder / "script.py"),
                arguments=(str(lasts_s),),
                folder=str(folder),
                environment={**os.environ, "PYTHONPATH": path},
            ),
            name="m00",
            socket_path=str(folder / "agent.sock"),
            on_exit=lambda round, rank, status, _: self.ends.append(
                (round, rank, status)
            ),
            write=lambda _line: None,
        )

    def start(self, number: int) -> None:
        self.crew.start(begin(number), machine_rank=0, grid=GRID, job="test")

    async def open_gate(self) -> None:
        """The module is imported, once the warm process has come to it."""
        await asyncio.to_thread((self.folder / "gate").write_text, "go on")

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not true():
                await asyncio.sleep(0.005)

    def ran(self) -> list[str]:
        """The rounds of the ranks that ran, one word each."""
        file = self.folder / "ran"
        return file.read_text().split() if file.exists() else []


@asynccontextmanager
async def placed(folder: Path, *, lasts_s: float) -> AsyncIterator[Place]:
    place = Place(folder, lasts_s=lasts_s)
    try:
        yield place
    finally:
        place.crew.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    asyncio.run(whole())


def test_a_round_can_end_while_the_frameworks_are_imported(tmp_path: Path) -> None:
    """A newcomer got a place before it was warm, and another failure came: it has no
    rank to wait for, and the ranks of the round that is over never run."""

    async def test() -> None:
        async with placed(tmp_path, lasts_s=0.0) as place:
            place.start(1)
            place.crew.stop()
            assert place.crew.gone and not place.crew.is_warm
            place.start(2)
            assert not place.crew.gone
            await place.open_gate()
            await place.until(lambda: place.crew.gone)
            assert sorted(place.ends) == [(2, 0, 0), (2, 1, 0)]
            assert place.ran() == ["2", "2"]

    run(test)


def test_ranks_that_run_are_gone_when_they_are_dead(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed(tmp_path, lasts_s=60.0) as place:
            place.start(1)
            await place.open_gate()
            await place.until(lambda: place.ran() == ["1", "1"])
            pids = place.crew.pids
            place.crew.stop()
            assert sorted(pids) == [0, 1] and not place.crew.gone
            await place.until(lambda: place.crew.gone)
            assert place.ends == []

    run(test)


def test_ranks_that_wait_end_with_the_warm_process(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed(tmp_path, lasts_s=60.0) as place:
            place.start(1)
            ours = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
            (warm,) = [int(pid) for pid in ours.read_text().split()]
            os.kill(warm, signal.SIGKILL)
            await place.until(lambda: place.crew.gone)
            assert sorted(place.ends) == [(1, 0, -9), (1, 1, -9)]

    run(test)
