"""Runs a whole job on this computer: store, operator, machines, until it is over.

Each machine is an agent's process with ranks of its own, in a process group of its
own. The launcher holds the embedded key-value store (unless etcd is named) and the
local operator and does nothing else: it may be slow, but must live. When it dies,
everything it started does.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from twinstep import clock, environment
from twinstep.agent import looking
from twinstep.cloud import start
from twinstep.cloud.description import JOB_FILE, JobFile, agree, write_job
from twinstep.cloud.folders import check_folder, check_script
from twinstep.cloud.hosting import job_store, wait_for_result
from twinstep.cloud.local import Limits, LocalFleet
from twinstep.cloud.serving import Serving
from twinstep.config import Job
from twinstep.environment import COMPILED, jobs_folder
from twinstep.errors import DeadlinePassed, UsageError
from twinstep.jobs import is_running
from twinstep.placement.strategy import place
from twinstep.telling import tell

Command = Callable[[Path, str, bool], Sequence[str]]
"""A machine's command line, from the job's folder, its name, and whether it stands
by."""


def start_here(folder: Path, machine: str, standby: bool) -> list[str]:
    """A machine that is a process on this computer, reached by loopback."""
    return start.command(folder, machine, standby=standby)


def run(
    job: Job,
    script: Path,
    arguments: Sequence[str] = (),
    *,
    folder: Path | None = None,
    store_port: int = 0,
    command: Command = start_here,
) -> int:
    """Trains until the script has ended well on every rank, or cannot.

    Args:
      job: where `store` is named, that etcd is used; else an embedded store.
      folder: where the job's sockets and its description live; a new one by default.
      store_port: port of the embedded store on loopback; 0 takes a free one.
      command: how a machine is started.

    Returns: 0, the status to exit with after a failed job, 130 after Ctrl-C."""
    path = check_script(script)
    place(
        job.machines,
        copies=job.copies_held,
        strategy=job.placement,
        domains=job.domains,
    )  # raises here, and not in the first root, when no placement can be
    there = _make_folder(folder or jobs_folder() / uuid.uuid4().hex[:8])
    try:
        with (
            _endings() as ended,
            job_store(job, there.name, port=store_port) as (address, store),
        ):
            description = _describe(there.name, address, job, path, arguments)
            write_job(there, agree(store, description))
            tell(f"twinstep: job {there.name}; see `twinstep status --job {there}`")
            head = f"{'time_s':>9}  {'machine':<7}  {'role':<4}  {'state':<8}"
            tell(f"{head}  {'step':>6}  {'safe':>6}  event")
            fleet = LocalFleet(
                lambda name: command(there, name, _is_standby(name, job)),
                limits=Limits(machines_max=job.machines + job.standbys + SPARES_MAX),
            )
            with closing(Serving(store, fleet)) as operator:
                operator.start(job.machines + job.standbys)
                return wait_for_result(store, operator, ended)
    except DeadlinePassed as error:
        tell(f"twinstep: {error}", error=True)
        return 1
    finally:
        for left in (there / JOB_FILE, *there.glob("*.sock")):
            left.unlink(missing_ok=True)
        if folder is None:
            shutil.rmtree(there / COMPILED, ignore_errors=True)
        stacks = looking.tidy(there)
        if stacks is not None:
            tell(f"twinstep: the stacks of hung ranks are left in {stacks}")
        elif folder is None:
            there.rmdir()


def _make_folder(folder: Path) -> Path:
    """Returns the full path of a folder that this job may use.

    Raises: UsageError when another job runs there, or sockets cannot be made there."""
    if is_running(folder):
        raise UsageError(f"a job runs in {folder} already; name another with --job")
    return check_folder(folder)


def _describe(
    name: str, store: str, job: Job, script: Path, arguments: Sequence[str]
) -> JobFile:
    threads = (os.cpu_count() or 1) // (job.machines * job.ranks_per_machine)
    return JobFile(
        name=name,
        launcher=os.getpid(),
        started_s=clock.now_s(),
        store=store,
        job=job,
        script=str(script),
        arguments=tuple(arguments),
        folder=str(Path.cwd()),
        environment=environment.inherited() | environment.start_settings(threads),
    )


@contextmanager
def _endings() -> Generator[list[int]]:
    """Signals that ask the launcher to end are noted in the list meanwhile."""
    ended: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if threading.current_thread() is not threading.main_thread():
        numbers = ()  # Python lets only the main thread set them
    former = {n: signal.signal(n, lambda n, _: ended.append(n)) for n in numbers}
    try:
        yield ended
    finally:
        for number, action in former.items():
            signal.signal(number, action)


SPARES_MAX = 2  # machines beyond the job's own that may live while old ones end


def _is_standby(name: str, job: Job) -> bool:
    first, last = job.machines, job.machines + job.standbys
    return first <= int(name.removeprefix("m")) < last
