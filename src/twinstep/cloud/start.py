"""Starts an agent in a process of its own: `python -m twinstep.cloud.start`.

The launcher writes what all agents of a job need to know into the job's folder, and
this reads it. It refuses to run without assertions: they guard the rule of two slots.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from twinstep.agent.crew import Command
from twinstep.agent.kv_client import connect
from twinstep.agent.process import Post, serve
from twinstep.cloud.local import KeyValueOperator
from twinstep.config import Job

JOB_FILE = "job.json"


class JobFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the launcher tells its agents, and `status` and `inject` about itself."""

    name: str
    launcher: int
    """The launcher's process."""
    started_s: float
    """When it started; the event log counts from here."""
    store: str
    """HOST:PORT of the key-value store."""
    job: Job
    script: str
    arguments: tuple[str, ...]
    folder: str
    """The working folder of the ranks."""
    environment: dict[str, str]


def read_job(folder: Path) -> JobFile:
    """Returns the job of a folder. Raises: OSError, msgspec.ValidationError."""
    return msgspec.json.decode((folder / JOB_FILE).read_bytes(), type=JobFile)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="twinstep.cloud.start")
    parser.add_argument("folder", type=Path)
    parser.add_argument("machine")
    parser.add_argument("--standby", action="store_true")
    options = parser.parse_args(arguments)
    if not __debug__:
        print("twinstep: agents do not run under python -O: assertions guard state")
        return 2
    job = read_job(options.folder)
    command = Command(
        script=job.script,
        arguments=job.arguments,
        folder=job.folder,
        environment=job.environment,
    )
    post = Post(
        name=options.machine,
        job_name=job.name,
        folder=options.folder,
        standby=options.standby,
        started_s=job.started_s,
    )
    store = connect(job.store, call_s_max=job.job.timing.call_s_max)
    return serve(job.job, post, command, store, KeyValueOperator(store))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
