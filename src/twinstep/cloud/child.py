"""A machine's agent as the child of another framework's process on its node.

The framework's process (a Ray actor) only starts the agent and waits for its end. The
agent has a process of its own, so that its loop, its threads and the forks of its ranks
do not live among the framework's. It dies when the framework's process does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import final

import msgspec

from twinstep import environment
from twinstep.agent.lifeline import tied
from twinstep.cloud import start
from twinstep.cloud.description import JOB_FILE, JobFile, write_job
from twinstep.cloud.folders import check_folder, check_script
from twinstep.cloud.local import has_ended, sweep

TOKEN_FILE = "token"


@final
class Child:
    """One machine. Both calls are made by one thread, to which the agent's life is
    tied."""

    def __init__(self, machine: str) -> None:
        self._machine = machine
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()

    def __repr__(self) -> str:
        return self._machine  # so Ray marks its lines

    def start(
        self,
        description: bytes,
        *,
        host: str,
        standby: bool,
        token: bytes,
        settings: Mapping[str, str],
    ) -> int:
        """The agent runs; returns its process. The ranks' working folder is this
        process's, and their environment too, with `settings`.

        Args:
          description: a JobFile, as JSON.
          token: the run's secret, where it was made for this run; else empty.

        Raises: UsageError when the script is not on this node."""
        machine = self._machine
        job = msgspec.json.decode(description, type=JobFile)
        script = check_script(Path(job.script))
        self._folder = check_folder(
            environment.jobs_folder() / f"{job.name}-{machine}", machine=machine
        )
        trust = job.job.trust
        if token:
            path = write_token(self._folder, token)
            trust = dataclasses.replace(trust, token_file=str(path))
        inherited = environment.inherited()
        inherited |= environment.start_settings(1) | dict(settings)
        own = msgspec.structs.replace(
            job,
            launcher=0,
            job=dataclasses.replace(job.job, trust=trust),
            script=str(script),
            folder=str(Path.cwd()),
            environment=inherited,
        )
        write_job(self._folder, own)
        line = start.command(
            self._folder, machine, standby=standby, host=host, operator="store"
        )
        self._process = subprocess.Popen(
            tied(line, parent=os.getpid()),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self._process.pid

    def wait(self) -> int:
        """Returns the agent's status when it has ended; nothing of it is left."""
        assert self._process is not None, "wait before start"
        has_ended(self._process.pid, None)
        status = sweep(self._process)
        tidy(self._folder)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # a full disk is no reason to fail
                stream.flush()
        return status


def write_token(folder: Path, token: bytes) -> Path:
    """The folder holds a secret that only this user reads."""
    path = folder / TOKEN_FILE
    path.touch(mode=0o600)
    path.write_bytes(token)
    return path


def tidy(folder: Path) -> None:
    """A job's folder is gone, unless somebody has left something there to be read."""
    for left in (folder / JOB_FILE, folder / TOKEN_FILE, *folder.glob("*.sock")):
        left.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
