"""Runs a job as a user would, and watches it.

What is known of the job comes from outside only: from its status and recoveries
(jobs.JobView), and from the file of losses that rank 0 appends to. Every wait has a
limit and says what it waited for. When this ends, well or not, no process is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from twinstep import jobs
from twinstep.agent.record import Recovery
from twinstep.agent.status import Status
from twinstep.clock import monotonic_s, now_s
from twinstep.demo.frameworks import framework_of
from twinstep.demo.ground import Ground, Work
from twinstep.errors import DeadlinePassed, TwinstepError


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is trained, on what, and how long anybody waits for it."""

    style: str
    """How the state is spread; one of the framework's styles."""
    steps: int
    """The last step; a run that is stopped by a file may end earlier."""
    framework: str = "torch"
    seed: int = 0
    machines: int = 4
    standbys: int = 1
    copies: int = 2
    step_s: float = 0.06
    """A step lasts at least so long, so that a fast computer shows something too."""
    ballast_mb: int = 0
    """So much state more on each rank, for those who aim at moments."""
    storage: str = ""
    """Where steps are written to; empty: nowhere."""
    stoppable: bool = False
    """Whether a file named `stop_at` in the run's folder is looked at."""
    start_s_max: float = 300.0
    recover_s_max: float = 300.0
    steps_s_max: float = 60.0
    """The next few steps come within this time."""
    end_s_max: float = 15.0
    """Processes that were told to end are gone within this time."""
    look_s: float = 0.03
    """How often one looks; a recovery's times are the agents' own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    step: int
    loss: float
    wall_s: float


@dataclass(slots=True, kw_only=True)
class Sight:
    """What can be seen of a job at an instant."""

    at_s: float
    status: Status | None = None
    recoveries: list[Recovery] = field(default_factory=list[Recovery])
    losses: list[Loss] = field(default_factory=list[Loss])
    """All so far; a step that was repeated is there more than once."""
    exit_status: int | None = None

    @property
    def step(self) -> int:
        return self.losses[-1].step if self.losses else 0

    @property
    def phase(self) -> str:
        return self.status.phase if self.status else "starting"


class RunningJob:
    """A job from its start until nothing of it is left.

    `watcher` is shown every sight, for progress."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        watcher: Callable[[Sight], None],
        *,
        ground: Ground,
    ) -> None:
        self.plan, self.folder, self._watcher = plan, folder, watcher
        folder.mkdir(parents=True)
        self.losses_file = folder / "losses.jsonl"
        self.digests_folder = folder / "digests"
        self.stop_file = folder / "stop_at"
        self.log_file = folder / "log"
        self.began_s = now_s()
        self.sight = Sight(at_s=self.began_s)
        self._view: jobs.JobView | None = None
        self._read_bytes = 0
        self._groups: dict[int, str] = {}
        self.ground = ground
        work = Work(
            command=self._command(),
            machines=plan.machines,
            standbys=plan.standbys,
            copies=plan.copies,
            storage=plan.storage,
            settings=framework_of(plan.framework).settings,
        )
        with self.log_file.open("wb") as log:
            try:
                ground.start(work, folder, log)
            except BaseException:
                ground.close(limit_s=plan.end_s_max)
                raise

    def _command(self) -> list[str]:
        plan = self.plan
        script = framework_of(plan.framework).script
        command = [str(script), "--style", plan.style, "--steps", str(plan.steps)]
        command += ["--seed", str(plan.seed), "--step-seconds", str(plan.step_s)]
        command += ["--losses", str(self.losses_file)]
        command += ["--digests", str(self.digests_folder)]
        if plan.ballast_mb:
            command += ["--ballast-mb", str(plan.ballast_mb)]
        if plan.stoppable:
            command += ["--stop-file", str(self.stop_file)]
        return command

    def look(self) -> Sight:
        """Returns what can be seen now."""
        sight = self.sight
        sight.at_s = now_s()
        sight.losses += self._new_losses()
        try:
            sight.exit_status = self.ground.exit_status()
            view = self._view = self._view or self.ground.view()
            if view is not None and sight.exit_status is None:
                sight.status = view.status() or sight.status
                sight.recoveries = view.recoveries()
        except (TwinstepError, OSError):
            pass  # it ends just now, or its store has a bad moment: seen next time
        if sight.status is not None:
            seen = {each.machine for each in sight.status.machines}
            if seen - set(self._groups.values()):
                machines = self.ground.outside(sight.status).machines
                self._groups |= {each.group: each.machine for each in machines}
        self._watcher(sight)
        return sight

    def wait(
        self, what: str, ready: Callable[[Sight], bool], *, limit_s: float
    ) -> Sight:
        """Returns the first sight that is ready.

        Raises: DeadlinePassed after `limit_s`, or when the job ends before: with
            what was waited for and the job's last lines."""
        until_s = monotonic_s() + limit_s
        while True:
            sight = self.look()
            if ready(sight):
                return sight
            if sight.exit_status is not None:
                how = f"the job ended with status {sight.exit_status}"
                raise DeadlinePassed(f"{how}, before {what}; {self._last_words()}")
            if monotonic_s() > until_s:
                raise DeadlinePassed(
                    f"{limit_s:g} s are over without {what}; {self._situation()}; "
                    f"{self._last_words()}"
                )
            time.sleep(self.plan.look_s)

    def wait_end(self, *, limit_s: float) -> int:
        """Returns the status that the job ended with."""
        done = self.wait(
            "the job's end", lambda s: s.exit_status is not None, limit_s=limit_s
        )
        assert done.exit_status is not None
        return done.exit_status

    def stop_at(self, step: int) -> None:
        """The run will end after `step`, which must be well ahead."""
        part = self.stop_file.with_suffix(".part")
        part.write_text(str(step))
        part.replace(self.stop_file)

    def close(self) -> None:
        """Nothing of the job is left. Raises: DeadlinePassed naming what is."""
        if self._view is not None:
            with contextlib.suppress(TwinstepError, OSError):
                self._view.close()
        self.ground.close(limit_s=self.plan.end_s_max)
        until_s = monotonic_s() + self.plan.end_s_max
        left = self.living()
        while left and monotonic_s() < until_s:
            time.sleep(self.plan.look_s)
            left = self.living()
        for group in left:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        if left:
            names = ", ".join(f"{self._groups[g]} (group {g})" for g in left)
            raise DeadlinePassed(f"processes outlived their job: {names}; killed now")

    def living(self) -> list[int]:
        """The process groups of the job's machines that still exist."""
        return sorted(_living_groups() & set(self._groups))

    def look_at_losses(self) -> list[Loss]:
        """Returns all losses that were written, also when the job has ended."""
        self.sight.losses += self._new_losses()
        return self.sight.losses

    def _new_losses(self) -> list[Loss]:
        try:
            with self.losses_file.open("rb") as file:
                file.seek(self._read_bytes)
                raw = file.read()
        except FileNotFoundError:
            return []
        whole = raw[: raw.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        return [Loss(**json.loads(line)) for line in whole.splitlines()]

    def _situation(self) -> str:
        sight, status = self.sight, self.sight.status
        text = f"it is {sight.phase} at step {sight.step}"
        if status is not None:
            text += f", safe {status.safe}, round {status.round}, root {status.root}"
            if status.waiting_for:
                text += f", waiting for {', '.join(status.waiting_for)}"
        return text

    def _last_words(self, lines: int = 15) -> str:
        last = self.log_file.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"the last lines of {self.log_file}:", *last])


def _living_groups() -> set[int]:
    """The process groups on this computer that have a process which is not dead."""
    groups: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended in between
            # The name before these fields is in parentheses and may hold any byte.
            state, _, group = path.read_bytes().rpartition(b")")[2].split()[:3]
            if state not in (b"Z", b"X"):
                groups.add(int(group))
    return groups
