"""Calls Slurm's own commands: each has a deadline, and an answer of bounded length.

Written and tried with Slurm 22.05. Only forms of output that are made for programs are
read (`--noheader -o`, `--parsable`): `--json` needs a plugin that many clusters lack.
A command runs without this job's own SLURM_ variables, which `sbatch` would hand on to
the new job and `srun` there would obey.

Left out: Slurm's REST service and C library. Both need what a user cannot install.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from twinstep import environment
from twinstep.errors import ConfigError, DeadlinePassed, Refused

OUTPUT_BYTES_MAX = 8 * 1024 * 1024
"""Slurm itself refuses a batch script of more than 4 MB."""
ANSWER_S_MAX = 3.0
"""A connection is made within this time, or nobody is there."""
_FORMAT = "%i|%T|%N|%r"

PENDING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING")
"""States of a job that has no node yet, or one that still boots."""
RUNNING = ("RUNNING", "SUSPENDED", "STOPPED", "COMPLETING", "STAGE_OUT", "RESIZING")
ON_PURPOSE = ("CANCELLED", "TIMEOUT", "DEADLINE", "REVOKED")
"""A person or a limit has ended the job: it is not to be continued elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmJob:
    """What Slurm says of a job. `nodes` is its compact form: n[1-3,7]."""

    id: str
    state: str
    nodes: str = ""
    reason: str = ""


@final
class SlurmCalls:
    """Raises, from each call: Refused with Slurm's own words, DeadlinePassed,
    ConfigError where there is no such command."""

    def __init__(self, *, call_s_max: float) -> None:
        self._call_s_max = call_s_max

    def jobs(self, ids: Sequence[str] = (), *, name: str = "") -> dict[str, SlurmJob]:
        """Returns the jobs with these ids or this name, as far as Slurm remembers
        them: those that have ended are forgotten after some minutes."""
        line = ["squeue", "--noheader", "--states=all", "-o", _FORMAT]
        line += [f"--jobs={','.join(ids)}"] if ids else [f"--name={name}"]
        try:
            return parse_jobs(self._run(line))
        except Refused as error:
            if "Invalid job id" in str(error):
                return {}
            raise

    def script(self, job: str) -> str:
        """Returns the batch script that a job was started with."""
        return self._run(["scontrol", "write", "batch_script", job, "-"])

    def submit(
        self, script: str, *, options: Sequence[str], exported: Mapping[str, str]
    ) -> str:
        """Starts one more job of a script, on one node; returns its id."""
        # Not `--export=NAME=VALUE`: sbatch ends a value at a comma.
        line = ["sbatch", "--parsable", "--export=ALL", *options]
        return self._run(line, script, exported).strip().partition(";")[0]

    def cancel(self, job: str) -> None:
        """The job ends. No error if it has."""
        self._run(["scancel", "--quiet", job])

    def drain(self, node: str, reason: str) -> None:
        """Slurm gives the node to nobody until a person has seen to it. What runs
        there runs on. Needs the rights of a Slurm operator."""
        line = ["scontrol", "update", f"NodeName={node}", "State=DRAIN"]
        self._run([*line, f"Reason={reason}"])

    def _run(
        self,
        line: Sequence[str],
        text: str = "",
        exported: Mapping[str, str] | None = None,
    ) -> str:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                done = subprocess.run(
                    line,
                    input=text.encode(),
                    stdout=out,
                    stderr=err,
                    timeout=self._call_s_max,
                    env={**environment.outside_slurm(), **(exported or {})},
                )
            except FileNotFoundError:
                raise ConfigError(
                    f"the operator slurm needs the command {line[0]}, which is not "
                    "there; use another --operator, or start machines where it is"
                ) from None
            except subprocess.TimeoutExpired:
                raise DeadlinePassed(
                    f"Slurm did not answer `{' '.join(line[:3])}` within "
                    f"{self._call_s_max:g} s"
                ) from None
            out.seek(0)
            err.seek(0)
            found = out.read(OUTPUT_BYTES_MAX + 1)
            said = err.read(10_000).decode(errors="replace").strip()
        if done.returncode:
            why = said.splitlines()[-1] if said else f"status {done.returncode}"
            raise Refused(f"`{' '.join(line[:3])}`: {why}")
        if len(found) > OUTPUT_BYTES_MAX:
            raise Refused(
                f"`{' '.join(line[:3])}` said more than {OUTPUT_BYTES_MAX} bytes"
            )
        return found.decode(errors="replace")


def answers(place: tuple[str, int]) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection(place, timeout=ANSWER_S_MAX):
            return True
    except OSError:
        return False


def parse_jobs(text: str) -> dict[str, SlurmJob]:
    """Returns the jobs of lines ID|STATE|NODES|REASON; lines of another form are
    not jobs."""
    found: dict[str, SlurmJob] = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split("|", 3)]
        if len(fields) == 4 and fields[0]:
            id, state, nodes, reason = fields
            found[id] = SlurmJob(id=id, state=state, nodes=nodes, reason=reason)
    return found
