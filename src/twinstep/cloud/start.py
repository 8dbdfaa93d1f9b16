"""Starts an agent in a process of its own: `python -m twinstep.cloud.start`.

Whoever starts it (a launcher on one computer, `twinstep join` on each machine of
several) has written the job into a folder, and this reads it. It refuses to run
without assertions: they guard the rule of two slots.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from twinstep.agent.crew import Command
from twinstep.agent.process import Post, serve
from twinstep.agent.stores import open_store
from twinstep.cloud.choice import OPERATORS, Closes, operator_for
from twinstep.cloud.description import read_job
from twinstep.errors import ConfigError
from twinstep.telling import tell
from twinstep.trust.credentials import load


def command(
    folder: Path,
    machine: str,
    *,
    standby: bool = False,
    host: str = "127.0.0.1",
    operator: str = "store",
) -> list[str]:
    """Returns the command line of a machine's agent."""
    line = [sys.executable, "-m", "twinstep.cloud.start", str(folder), machine]
    line += ["--host", host, "--operator", operator]
    return [*line, "--standby"] if standby else line


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="twinstep.cloud.start")
    parser.add_argument("folder", type=Path)
    parser.add_argument("machine")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--operator", choices=OPERATORS, default="store")
    parser.add_argument("--standby", action="store_true")
    options = parser.parse_args(arguments)
    if not __debug__:
        tell("twinstep: agents do not run under python -O: assertions guard state")
        return 2
    job = read_job(options.folder)
    command = Command(
        script=job.script,
        arguments=job.arguments,
        folder=job.folder,
        environment=job.environment,
    )
    credentials = load(job.job.trust, machine=options.machine)
    credentials.check_host(options.host)
    post = Post(
        name=options.machine,
        job_name=job.name,
        folder=options.folder,
        host=options.host,
        standby=options.standby,
        started_s=job.started_s,
        credentials=credentials,
    )
    call_s_max = job.job.timing.call_s_max
    store = open_store(job.store, call_s_max=call_s_max, credentials=credentials)
    try:
        operator = operator_for(
            options.operator,
            store=store,
            name=job.name,
            machine=options.machine,
            job=job.job,
        )
    except ConfigError as error:
        tell(f"twinstep: {error}", error=True)
        return 2
    status = serve(job.job, post, command, store, operator)
    if isinstance(operator, Closes):
        operator.close()
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
