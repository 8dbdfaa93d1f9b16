"""Looks at the processes of a machine's ranks: alive, computing, and where they stand.

All of it is read from outside (/proc) but the stack, which a rank shows when it is
asked (own_stack.py). A stopped process cannot answer; py-spy reads its stack where that
is installed and allowed to. What was read is saved, a file a rank, in the job's folder:

    stacks/round-2/rank-1.txt

Until it is decided that it is a hang, they are in stacks/latest, of the last look at a
time when no step came; that folder goes with the job, the others stay.

Everything here may take as long as a hung disk does, so it runs in a thread of its own
and the agent does not wait for it beyond LOOK_S_MAX.
"""

from __future__ import annotations

import asyncio
import contextlib
import linecache
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import xxhash

from twinstep.agent import stacks
from twinstep.agent.messages import Sight
from twinstep.agent.own_stack import FILE_NAME, MAIN_SIGNAL, THREADS_SIGNAL
from twinstep.clock import monotonic_s
from twinstep.config import Health

ANSWER_S_MAX = 0.5
"""A rank that catches the signal has written its stack within this time."""
SETTLED_S = 0.02
"""Its file has not grown for so long: it is whole."""
LOOK_S_MAX = 3.0
"""So long the agent waits for all of it; then it says only what /proc does."""
PYSPY_S_MAX = 2.0
FOLDER, LATEST = "stacks", "latest"
_CAUGHT = re.compile(r"^SigCgt:\s*([0-9a-f]+)$", re.MULTILINE)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one rank was seen doing, and the text that told it."""

    sight: Sight
    text: str
    refused: str = ""
    """Why there is no stack."""


def process_sight(pid: int) -> Sight:
    """State and processor time of a process, at once; X when it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used = int(words[11]) + int(words[12])
        return Sight(state=words[0], cpu_s=used / _TICKS_PER_S)
    except (OSError, ValueError, IndexError):
        return Sight(state="X")


def look(pid: int, *, threads: bool, bytes_max: int) -> Taken:
    """Returns what a process does; `threads` asks for the stacks of all of its."""
    sight = process_sight(pid)
    if sight.state in ("T", "t"):
        text, refused = _spied(pid, bytes_max)
    elif sight.state in ("X", "Z"):
        text, refused = "", "it is gone"
    else:
        number = THREADS_SIGNAL if threads else MAIN_SIGNAL
        text, refused = _asked(pid, number, bytes_max)
    frames = stacks.main_thread(text)
    own = stacks.own_frame(frames)
    source = linecache.getline(own.file, own.line) if own is not None else ""
    reading = stacks.read(frames, source=source, waits_in=_waits_in(pid))
    where = repr([(frame.file, frame.line, frame.name) for frame in frames])
    taken = Sight(
        state=sight.state,
        cpu_s=sight.cpu_s,
        doing=reading.doing.value,
        call=reading.call,
        place=reading.place,
        digest=xxhash.xxh3_64_intdigest(where.encode()) if frames else 0,
    )
    return Taken(sight=taken, text=text, refused=refused)


def _asked(pid: int, number: int, bytes_max: int) -> tuple[str, str]:
    """The stack that a process shows when asked, or why there is none.

    The process is held before it is known to catch the signal: were the number given
    to another one meanwhile, that would not get it."""
    try:
        held = os.pidfd_open(pid)
    except OSError as error:
        return "", str(error)
    try:
        return _answer(pid, held, number, bytes_max)
    finally:
        os.close(held)


def _answer(pid: int, held: int, number: int, bytes_max: int) -> tuple[str, str]:
    try:
        caught = _CAUGHT.search(Path(f"/proc/{pid}/status").read_text())
        if caught is None or not int(caught[1], 16) >> (number - 1) & 1:
            return "", "it does not catch the signal (no session yet?)"
        path = next(
            entry
            for entry in Path(f"/proc/{pid}/fd").iterdir()
            if FILE_NAME in os.readlink(entry)
        )
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except StopIteration:
        return "", "it has no file for its stack"
    except (OSError, ValueError) as error:
        return "", str(error)
    try:
        os.ftruncate(file, 0)
        signal.pidfd_send_signal(held, number)
        text = _read(file, bytes_max)
    except OSError as error:
        return "", str(error)
    finally:
        os.close(file)
    if not text:
        return "", f"it has not answered within {ANSWER_S_MAX} s"
    return text, ""


def _read(file: int, bytes_max: int) -> str:
    """What was written, once it has not grown for a moment."""
    until_s = monotonic_s() + ANSWER_S_MAX
    size, grew_s = 0, monotonic_s()
    while (now_s := monotonic_s()) < until_s:
        found = os.fstat(file).st_size
        if found != size:
            size, grew_s = found, now_s
        elif size and now_s - grew_s > SETTLED_S:
            break
        time.sleep(SETTLED_S / 4)
    return os.pread(file, min(size, bytes_max), 0).decode(errors="replace")


def _spied(pid: int, bytes_max: int) -> tuple[str, str]:
    """A stopped process's stack, by py-spy, or why there is none."""
    program = shutil.which("py-spy")
    if program is None:
        return "", "it is stopped and cannot answer; install py-spy to see where"
    command = [program, "dump", "--nonblocking", "--pid", str(pid)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PYSPY_S_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"py-spy: {error}"
    if done.returncode:
        return "", f"py-spy: {done.stderr[:200].decode(errors='replace').strip()}"
    return done.stdout[:bytes_max].decode(errors="replace"), ""


def _waits_in(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return ""


class Looker:
    """Looks at a machine's ranks, one look at a time, and keeps what it saw.

    `log` is called in the agent's loop."""

    def __init__(
        self, health: Health, folder: Path, *, log: Callable[[str], None]
    ) -> None:
        self._health, self._folder = health, folder / FOLDER
        self._log = log
        self._busy = threading.Lock()
        self._said = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def look(
        self,
        pids: Mapping[int, int],
        *,
        round: int,
        threads: bool,
        done: Callable[[dict[int, Sight]], None],
    ) -> None:
        """Calls `done` in the loop, soon, with what each rank was seen doing."""
        task = asyncio.get_running_loop().create_task(
            self._look(dict(pids), round, threads, done)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(
        self,
        pids: dict[int, int],
        round: int,
        threads: bool,
        done: Callable[[dict[int, Sight]], None],
    ) -> None:
        sights = {rank: process_sight(pid) for rank, pid in pids.items()}
        if self._health.stacks and self._busy.acquire(blocking=False):
            taken = await self._in_thread(pids, round, threads)
            sights |= {rank: one.sight for rank, one in taken.items()}
            if threads:
                self._tell(taken, round)
        done(sights)

    async def _in_thread(
        self, pids: dict[int, int], round: int, threads: bool
    ) -> dict[int, Taken]:
        """Not in the loop's own pool: that one would be waited for at the end."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[dict[int, Taken]] = loop.create_future()

        def tell(taken: dict[int, Taken]) -> None:
            if not answer.done():
                answer.set_result(taken)

        def work() -> None:
            taken: dict[int, Taken] = {}
            try:
                for rank, pid in pids.items():
                    taken[rank] = look(
                        pid,
                        threads=threads,
                        bytes_max=self._health.stack_bytes_max,
                    )
                with contextlib.suppress(OSError):  # a full disk must not hide a hang
                    name = f"round-{round}" if threads else LATEST
                    self._save(taken, pids, self._folder / name)
            finally:
                self._busy.release()
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(tell, taken)

        threading.Thread(target=work, name="twinstep-look", daemon=True).start()
        try:
            return await asyncio.wait_for(answer, LOOK_S_MAX)
        except TimeoutError:
            self._log(f"its ranks were not looked at within {LOOK_S_MAX} s")
            return {}

    def _save(
        self, taken: Mapping[int, Taken], pids: Mapping[int, int], folder: Path
    ) -> None:
        if not taken:
            return
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for rank, one in taken.items():
            sight, text = one.sight, one.text or f"no stack: {one.refused}\n"
            head = f"rank {rank}, process {pids[rank]}, state {sight.state}"
            head += f", {sight.cpu_s:.2f} s of processor time used\n\n"
            (folder / f"rank-{rank}.txt").write_text(head + text)
        kept = self._health.stack_rounds_max
        found = sorted(self._folder.glob("round-*"), key=_round_of)
        for old in found[:-kept]:
            shutil.rmtree(old, ignore_errors=True)

    def _tell(self, taken: Mapping[int, Taken], round: int) -> None:
        """Says where the stacks are, once a round."""
        if not taken or self._said == round:
            return
        self._said = round
        where = self._folder / f"round-{round}"
        for rank in sorted(taken):
            self._log(f"the stacks of rank {rank} are in {where / f'rank-{rank}.txt'}")
        for rank, one in sorted(taken.items()):
            if one.refused:
                self._log(f"rank {rank} shows no stack: {one.refused}")


def tidy(folder: Path) -> Path | None:
    """Of a job that is over, only the stacks of hangs are left in its folder; returns
    where, if there are any."""
    stacks_folder = folder / FOLDER
    shutil.rmtree(stacks_folder / LATEST, ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty, or never made
        stacks_folder.rmdir()
    return stacks_folder if stacks_folder.exists() else None


def _round_of(folder: Path) -> int:
    number = folder.name.removeprefix("round-")
    return int(number) if number.isdigit() else 0
