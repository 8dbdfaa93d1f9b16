"""Runs a whole job on this computer: store, operator, machines, until it is over.

Each machine is an agent's process with ranks of its own, in a process group of its
own. The launcher holds the embedded key-value store and the local operator and does
nothing else: it may be slow, but must live. When it dies, everything it started does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from twinstep import clock, environment
from twinstep.agent.kv import KeyValueStore
from twinstep.agent.kv_server import serve
from twinstep.agent.seat import RESULT
from twinstep.cloud.local import Limits, LocalOperator
from twinstep.cloud.operator import LIVING
from twinstep.cloud.start import JOB_FILE, JobFile
from twinstep.config import Job
from twinstep.errors import DeadlinePassed, UsageError
from twinstep.jobs import is_running, jobs_folder
from twinstep.placement.strategy import place

SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un


def check_script(script: Path) -> Path:
    """Returns the script's full path. Raises: UsageError when there is none."""
    if not script.is_file():
        raise UsageError(
            f"there is no script {script}; give the path of a Python file: "
            "twinstep run [options] script.py [arguments]"
        )
    return script.resolve()


def run(
    job: Job,
    script: Path,
    arguments: Sequence[str] = (),
    *,
    folder: Path | None = None,
    store_port: int = 0,
) -> int:
    """Trains until the script has ended well on every rank, or cannot.

    Args:
      folder: where the job's sockets and its description live; a new one by default.
      store_port: port of the key-value store on loopback; 0 takes a free one.

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
        with _endings() as ended, closing(serve(port=store_port)) as server:
            description = _describe(there.name, server.address, job, path, arguments)
            (there / JOB_FILE).write_bytes(msgspec.json.encode(description))
            print(f"twinstep: job {there.name}; see `twinstep status --job {there}`")
            print(f"{'time_s':>9}  {'machine':<7}  {'role':<4}  {'state':<8}", end="")
            print(f"  {'step':>6}  {'safe':>6}  event", flush=True)
            operator = LocalOperator(
                server.store,
                lambda name: _command(there, name, job),
                limits=Limits(machines_max=job.machines + job.standbys + SPARES_MAX),
            )
            with closing(operator):
                operator.start(job.machines + job.standbys)
                return _wait(server.store, operator, ended)
    except DeadlinePassed as error:
        print(f"twinstep: {error}", file=sys.stderr)
        return 1
    finally:
        for left in (there / JOB_FILE, *there.glob("*.sock")):
            left.unlink(missing_ok=True)
        if folder is None:
            there.rmdir()


def _make_folder(folder: Path) -> Path:
    """Returns the full path of a folder that this job may use.

    Raises: UsageError when another job runs there, or sockets cannot be made there."""
    folder = folder.absolute()
    longest = len(os.fsencode(folder / "m00000.sock"))
    if longest > SOCKET_PATH_BYTES_MAX:
        raise UsageError(
            f"the job's folder {folder} is too long: its sockets' paths would take "
            f"{longest} bytes, at most {SOCKET_PATH_BYTES_MAX}; name a shorter one "
            "with --job, or set TMPDIR"
        )
    if is_running(folder):
        raise UsageError(f"a job runs in {folder} already; name another with --job")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(f"the job's folder {folder} cannot be made: {error}") from None
    return folder


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


def _command(folder: Path, name: str, job: Job) -> list[str]:
    first_standby, last_standby = job.machines, job.machines + job.standbys
    standby = first_standby <= int(name.removeprefix("m")) < last_standby
    command = [sys.executable, "-m", "twinstep.cloud.start", str(folder), name]
    return [*command, "--standby"] if standby else command


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
