"""Runs a whole job on this computer: store, operator, machines, until it is over.

Each machine is an agent's process with ranks of its own, in a process group of its
own. The launcher holds the embedded key-value store (unless etcd is named) and the
local operator and does nothing else: it may be slow, but must live. When it dies,
everything it started does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from twinstep import clock, environment
from twinstep.agent import looking, stores
from twinstep.agent.kv import Delete, KeyValueStore
from twinstep.agent.kv_server import serve
from twinstep.agent.seat import RESULT
from twinstep.cloud import start
from twinstep.cloud.description import JOB_FILE, JobFile, agree, published, write_job
from twinstep.cloud.local import Limits, LocalOperator
from twinstep.cloud.operator import LIVING
from twinstep.config import Job
from twinstep.errors import DeadlinePassed, TwinstepError, UsageError
from twinstep.jobs import check_folder, check_script, is_running, jobs_folder
from twinstep.placement.strategy import place
from twinstep.trust.credentials import load

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
            _store(job, there.name, store_port) as (
                address,
                store,
            ),
        ):
            description = _describe(there.name, address, job, path, arguments)
            write_job(there, agree(store, description))
            print(f"twinstep: job {there.name}; see `twinstep status --job {there}`")
            print(f"{'time_s':>9}  {'machine':<7}  {'role':<4}  {'state':<8}", end="")
            print(f"  {'step':>6}  {'safe':>6}  event", flush=True)
            operator = LocalOperator(
                store,
                lambda name: command(there, name, _is_standby(name, job)),
                limits=Limits(machines_max=job.machines + job.standbys + SPARES_MAX),
            )
            with closing(operator):
                operator.start(job.machines + job.standbys)
                return _wait(store, operator, ended)
    except DeadlinePassed as error:
        print(f"twinstep: {error}", file=sys.stderr)
        return 1
    finally:
        for left in (there / JOB_FILE, *there.glob("*.sock")):
            left.unlink(missing_ok=True)
        stacks = looking.tidy(there)
        if stacks is not None:
            print(f"twinstep: the stacks of hung ranks are left in {stacks}")
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


DELETES_MAX = 100  # etcd takes 128 operations in a transaction
SPARES_MAX = 2  # machines beyond the job's own that may live while old ones end


def _is_standby(name: str, job: Job) -> bool:
    first, last = job.machines, job.machines + job.standbys
    return first <= int(name.removeprefix("m")) < last


@contextmanager
def _store(job: Job, name: str, port: int) -> Generator[tuple[str, KeyValueStore]]:
    """The job's key-value store and its address; what the job put there is gone
    afterwards. Raises: UsageError when another job uses it."""
    if not job.store:
        with closing(serve(port=port, credentials=load(job.trust))) as server:
            yield server.address, server.store
        return
    address = stores.for_job(job.store, name)
    credentials = load(job.trust)
    with closing(stores.open_store(address, credentials=credentials)) as store:
        known = published(store)
        if known is not None:
            raise UsageError(
                f"the store at {address} is about job {known.name} already; end the "
                "address with another job's name, or with none"
            )
        try:
            yield address, store
        finally:
            with suppress(TwinstepError):
                _forget(store)


def _forget(store: KeyValueStore) -> None:
    """Deletes everything the job has put; leases end what is left."""
    _, items = store.get("")
    keys = list(items)
    for first in range(0, len(keys), DELETES_MAX):
        store.transact([Delete(key=key) for key in keys[first : first + DELETES_MAX]])


def _wait(store: KeyValueStore, operator: LocalOperator, ended: list[int]) -> int:
    """Waits until the root says that the job is over, somebody ends us, or no machine
    is left that could."""
    revision, items = store.get(RESULT)
    item = items.get(RESULT)
    watch = store.watch(RESULT, after=revision)
    with closing(watch):
        living = True
        while item is None and not ended and living:
            living = any(machine.state == LIVING for machine in operator.machines())
            for event in watch.next(0.2):
                item = event.item
    if item is None and not living:
        print("twinstep: all machines have ended without a result", file=sys.stderr)
        return 1
    if item is None:
        return 128 + ended[0]
    result = msgspec.json.decode(item.value)
    if result["status"]:
        print(f"twinstep: the job ended: {result['reason']}", file=sys.stderr)
    return int(result["status"])
