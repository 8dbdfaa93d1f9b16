"""Runs other launchers as a user does: torchrun, mpirun, srun, with real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.trial import GONE_S_MAX, Trial
from twinstep.environment import user_id

TORCHRUN = str(Path(sys.executable).parent / "torchrun")
TAGS = (
    re.compile(r"^\[default(?P<rank>\d+)\]:digest (?P<digest>\w+)$", re.MULTILINE),
    re.compile(r"^\[1,(?P<rank>\d+)\]<stdout>:digest (?P<digest>\w+)$", re.MULTILINE),
    re.compile(r"^(?P<rank>\d+): digest (?P<digest>\w+)$", re.MULTILINE),
)
"""Whose line is whose, as torchrun --tee 3, mpirun --tag-output and srun -l say."""


class LaunchTrial(Trial):
    """One job whose ranks another launcher starts; on one computer, several launchers
    may each stand for a machine."""

    name = "trial"
    config = "[timing]\nsilence_s_max = 3.0\n"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.job = folder / f"twinstep-{user_id()}" / self.name
        self.launchers: dict[str, subprocess.Popen[bytes]] = {}
        # docs/operating.md: without, restarts fail that have nothing to do with us.
        self.settings = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        self.settings["TWINSTEP_JOB"] = self.name

    def launch(self, command: Sequence[str], *, machine: str = "m0") -> None:
        """A launcher is started, in a session of its own; its output is in a file."""
        config = self.folder / "config.toml"
        config.write_text(self.config)
        settings = {**self.settings, "TWINSTEP_MACHINE": machine}
        settings["TWINSTEP_CONFIG"] = str(config)
        settings["OMP_NUM_THREADS"] = "1"
        number = len(list(self.folder.glob("out*")))
        with ExitStack() as files:
            out, err = (
                files.enter_context((self.folder / f"{name}{number}").open("wb"))
                for name in ("out", "err")
            )
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.environment() | settings,
                start_new_session=True,
            )
        self.launchers[machine] = self.process

    @property
    def out(self) -> str:
        return "".join(p.read_text() for p in sorted(self.folder.glob("out*")))

    @property
    def err(self) -> str:
        return "".join(p.read_text() for p in sorted(self.folder.glob("err*")))

    def log(self, machine: str = "m0") -> str:
        """What the agent of a machine has said."""
        return (self.job / f"{machine}.log").read_text()

    def __str__(self) -> str:
        logs = [f"\n--- {path.name}\n{path.read_text()[-4000:]}" for path in self.logs]
        return "".join([super().__str__(), *logs])

    @property
    def logs(self) -> list[Path]:
        return sorted(self.job.glob("*.log"))

    def digests(self) -> dict[int, str]:
        found = [match for tag in TAGS for match in tag.finditer(self.out)]
        return {int(match["rank"]): match["digest"] for match in found}

    def kill_machine(self, machine: str) -> None:
        """All that a machine is dies at once: launcher, ranks and agent."""
        mark = f"TWINSTEP_MACHINE={machine}"
        for pid in self.processes():
            try:
                if mark.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        self.launchers.pop(machine).wait(GONE_S_MAX)

    def close(self) -> None:
        super().close()
        for process in self.launchers.values():
            process.wait(GONE_S_MAX)


def mpirun(*, ranks: int, port: int) -> list[str]:
    """mpirun of Open MPI, with each line marked with its rank."""
    options = ["--allow-run-as-root", "--oversubscribe", "--tag-output"]
    options += ["-x", "MASTER_ADDR=127.0.0.1", "-x", f"MASTER_PORT={port}"]
    return ["mpirun", *options, "-n", str(ranks)]


def torchrun(*options: str, ranks: int) -> list[str]:
    """torchrun on one machine, with each line marked with its rank."""
    return [TORCHRUN, f"--nproc-per-node={ranks}", "--tee=3", *options]
