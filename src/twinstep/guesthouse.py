"""An agent for ranks that another launcher starts: `python -m twinstep.guesthouse`.

The first local rank runs it (arriving.py); so may a person, or a job step of its own,
before any rank is there. One machine keeps the key-value store in this process; several
meet in etcd, as those do that `twinstep join` (joining.py). It ends when the job does,
or when nobody has come for a while.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from twinstep import clock, config
from twinstep.agent import kv_server, stores
from twinstep.agent.process import Post, serve
from twinstep.cloud.choice import NoOperator
from twinstep.cloud.description import JOB_FILE, JobFile, write_job
from twinstep.cloud.folders import check_folder
from twinstep.cloud.hosting import Result
from twinstep.config import Job
from twinstep.errors import DeadlinePassed, Refused, TwinstepError
from twinstep.jobs import is_running
from twinstep.joining import enrol, own_address
from twinstep.placement.strategy import place
from twinstep.telling import tell
from twinstep.trust.credentials import load

FORMER_S_MAX = 20.0
"""An agent that ends has ended within this time."""
LOOK_S = 0.02


def host(job: Job, folder: Path, machine: str, *, script: str) -> int:
    """Serves until the job is over; returns its status. Raises: TwinstepError."""
    place(
        job.machines,
        copies=job.copies_held,
        strategy=job.placement,
        domains=job.domains,
    )  # raises here, and not in the first root, when no placement can be
    check_folder(folder, machine=machine)
    address = own_address(job.store) if job.store else "127.0.0.1"
    credentials = load(job.trust, machine=machine)
    credentials.check_host(address)
    with ExitStack() as held:
        held.enter_context(_only_agent(folder, machine))
        if job.store:
            agreed = enrol(job, script, (), machine=machine, host=address)
            if isinstance(agreed, Result):
                raise Refused(
                    f"the job at {job.store} has ended with status {agreed.status}: "
                    f"{agreed.reason}; end the address with another name"
                )
            store = stores.open_store(
                agreed.store,
                call_s_max=job.timing.call_s_max,
                credentials=credentials,
            )
        else:
            server = held.enter_context(closing(kv_server.serve()))
            store = server.store
            agreed = JobFile(
                name=folder.name,
                launcher=os.getpid(),
                started_s=clock.now_s(),
                store=server.address,
                job=job,
                script=script,
                arguments=(),
                folder=str(Path.cwd()),
                environment={},
            )
        write_job(folder, agreed)
        post = Post(
            name=machine,
            job_name=agreed.name,
            folder=folder,
            host=address,
            guests=True,
            started_s=agreed.started_s,
            credentials=credentials,
        )
        try:
            return serve(agreed.job, post, None, store, NoOperator())
        finally:
            if agreed.launcher or not is_running(folder):
                (folder / JOB_FILE).unlink(missing_ok=True)


@contextmanager
def _only_agent(folder: Path, machine: str) -> Generator[None]:
    """This process is the machine's only agent of the job.

    Raises: DeadlinePassed when another one does not end."""
    until_s = clock.monotonic_s() + FORMER_S_MAX
    with (folder / f"{machine}.lock").open("wb") as lock:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if clock.monotonic_s() > until_s:
                raise DeadlinePassed(
                    f"another agent serves machine {machine} of {folder} and did not "
                    f"end within {FORMER_S_MAX:g} s"
                )
            time.sleep(LOOK_S)
        yield


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="twinstep.guesthouse")
    parser.add_argument("folder", type=Path)
    parser.add_argument("machine")
    parser.add_argument("--machines", type=int, required=True)
    parser.add_argument("--ranks-per-machine", type=int, required=True)
    parser.add_argument("--store")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--script", default="")
    options = parser.parse_args(arguments)
    if not __debug__:
        tell("twinstep: agents do not run under python -O: assertions guard state")
        return 2
    try:
        job = config.load(
            options.config,
            machines=options.machines,
            ranks_per_machine=options.ranks_per_machine,
            standbys=0,
            store=options.store,
        )
        return host(job, options.folder, options.machine, script=options.script)
    except TwinstepError as error:
        tell(f"twinstep: {options.machine}: {error}", error=True)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
