"""Runs `twinstep run` for a benchmark, in a process of its own, until it has ended.

Every wait has a limit and says what it waited for, with the job's last lines. When a
job is closed, well or not, nothing of it is left.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from twinstep.agent.lifeline import tied
from twinstep.errors import DeadlinePassed, TwinstepError
from twinstep.jobs import JobView, is_running

LOOK_S = 0.02
END_S_MAX = 20.0
# No step for long is no hang here: blocks without protection, batches being chosen.
CONFIG = """\
preload = ["torch", "torch._dynamo", "torch.distributed.optim",
           "twinstep.adapters.torch", "twinstep.session"]
[timing]
hang_s_min = 600.0
deadlock_s_min = 600.0
"""
ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
}
"""In which scripts find what else is in benchmarks/."""
Found = TypeVar("Found")


class Job:
    """`twinstep run` with options, a script and its arguments, in a folder."""

    def __init__(
        self,
        folder: Path,
        script: Path,
        arguments: Sequence[str],
        *,
        machines: int = 1,
        ranks_per_machine: int = 1,
        copies: int = 1,
        standbys: int = 0,
        options: Sequence[str] = (),
        config: str = CONFIG,
        settings: str = "",
    ) -> None:
        """`config` is the configuration, `settings` further tables, as TOML."""
        folder.mkdir(parents=True)
        self.log, self.folder = folder / "log", folder / "job"
        file = folder / "twinstep.toml"
        file.write_text(config + settings)
        command = [sys.executable, "-m", "twinstep", "run", "--config", str(file)]
        command += ["--job", str(self.folder), "--machines", str(machines)]
        command += ["--ranks-per-machine", str(ranks_per_machine)]
        command += ["--copies", str(copies), "--standby", str(standbys)]
        command += options
        self.process = start(
            [*command, str(script), *arguments], self.log, environment=ENVIRONMENT
        )
        self._view: JobView | None = None

    def view(self) -> JobView | None:
        """The running job, once it can be seen."""
        if self._view is None and is_running(self.folder):
            try:
                self._view = JobView(self.folder)
            except (TwinstepError, OSError):
                return None
        return self._view

    def wait(
        self, what: str, look: Callable[[JobView], Found | None], *, limit_s: float
    ) -> Found:
        """Returns what `look` finds first. Raises: DeadlinePassed after `limit_s`."""

        def seen() -> Found | None:
            view = self.view()
            try:
                return look(view) if view is not None else None
            except (TwinstepError, OSError):
                return None  # the store had a bad moment

        return wait(what, seen, self.process, self.log, limit_s=limit_s)

    def wait_end(self, *, limit_s: float) -> None:
        """The job has ended well. Raises: DeadlinePassed otherwise."""
        wait_end(self.process, self.log, limit_s=limit_s)

    def close(self) -> None:
        if self._view is not None:
            self._view.close()
        end(self.process)


def start(
    command: Sequence[str], log: Path, *, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A process that ends with this one; its output goes to `log`."""
    with log.open("wb") as output:
        return subprocess.Popen(
            tied(list(command), parent=os.getpid()),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def wait(
    what: str,
    look: Callable[[], Found | None],
    process: subprocess.Popen[bytes],
    log: Path,
    *,
    limit_s: float,
) -> Found:
    until_s = time.monotonic() + limit_s
    while (found := look()) is None:
        ended = process.poll() is not None
        if ended or time.monotonic() > until_s:
            why = f"status {process.poll()}" if ended else f"{limit_s:g} s are over"
            raise DeadlinePassed(f"{why}, without {what}; {last_lines(log)}")
        time.sleep(LOOK_S)
    return found


def wait_end(process: subprocess.Popen[bytes], log: Path, *, limit_s: float) -> None:
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        end(process)
        raise DeadlinePassed(
            f"{limit_s:g} s are over, without an end; {last_lines(log)}"
        ) from None
    if status:
        raise DeadlinePassed(f"it ended with status {status}; {last_lines(log)}")


def end(process: subprocess.Popen[bytes]) -> None:
    """The process is gone, and what it started ends with it."""
    process.terminate()
    try:
        process.wait(END_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(END_S_MAX)


def last_lines(log: Path, lines: int = 20) -> str:
    text = log.read_text(errors="replace").splitlines()[-lines:]
    return "\n".join([f"the last lines of {log}:", *text])
