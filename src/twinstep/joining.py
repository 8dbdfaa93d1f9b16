"""Makes this computer a machine of a job that runs on several.

Each machine is started by whatever starts programs there: a shell, srun, a pod. The
first that comes describes the job in the key-value store, the others compare theirs
with it, and each becomes the agent of its machine. The command ends when the job does,
with its status; asked for again after that, it says how the job ended.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType

from twinstep import clock, environment
from twinstep.agent import stores
from twinstep.agent.kv_server import serve
from twinstep.cloud import slurm_places, start
from twinstep.cloud.choice import check_kind
from twinstep.cloud.description import JobFile, agree, published, write_job
from twinstep.cloud.folders import check_folder, check_script
from twinstep.cloud.hosting import Result, result_of
from twinstep.config import Job, Trust
from twinstep.environment import jobs_folder
from twinstep.errors import ConfigError, UsageError
from twinstep.telling import tell
from twinstep.trust.credentials import load

NAME_MAX = 63


def join(
    job: Job,
    script: Path,
    arguments: Sequence[str] = (),
    *,
    machine: str = "",
    host: str = "",
    standby: bool = False,
    operator: str = "none",
    folder: Path | None = None,
) -> int:
    """This process becomes the agent of a machine; does not return if it can.

    Args:
      job: with `store`, the address of the job's key-value store.
      machine: a name that no other machine of the job has; the host's by default.
      host: the address others reach this machine at; by default the one it has on
        the way to the store.

    Returns: the status that the job has ended with, if it has ended.
    Raises: UsageError, DeadlinePassed when the store does not answer."""
    path = check_script(script)
    slurm = slurm_places.here() if operator == "slurm" else None
    given = slurm.machine if slurm else socket.gethostname().split(".")[0]
    name = check_name(machine or given)
    if not job.store:
        raise UsageError(
            "no key-value store is named; give --store etcd://HOST:2379/JOB, or "
            "HOST:PORT of a `twinstep store`"
        )
    check_kind(operator)
    address = host or own_address(job.store)
    agreed = enrol(job, str(path), arguments, machine=name, host=address)
    if isinstance(agreed, Result):
        return _tell(agreed)
    if slurm is not None and not machine:
        credentials = load(job.trust, machine=name)
        with closing(stores.open_store(job.store, credentials=credentials)) as store:
            name, standby = slurm_places.take(
                store, slurm, machines=job.machines, standby=standby
            )
    there = check_folder(folder or jobs_folder() / agreed.name, machine=name)
    write_job(there, agreed)
    line = start.command(there, name, standby=standby, host=address, operator=operator)
    tell(f"twinstep: machine {name} ({address}) joins job {agreed.name}")
    os.execv(line[0], line)


def enrol(
    job: Job, script: str, arguments: Sequence[str], *, machine: str, host: str
) -> JobFile | Result:
    """Returns the job as all its machines have it; or its result, if it is over.

    Raises: UsageError, DeadlinePassed when the store does not answer."""
    job_name = _job_name(job.store)
    credentials = load(job.trust, machine=machine)
    credentials.check_host(host)
    with closing(stores.open_store(job.store, credentials=credentials)) as store:
        ended = result_of(store)
        if ended is not None:
            return ended
        known = published(store)
        mine = JobFile(
            name=known.name if known else job_name,
            launcher=0,
            started_s=known.started_s if known else clock.now_s(),
            store=job.store,
            job=job,
            script=script,
            arguments=tuple(arguments),
            folder=str(Path.cwd()),
            environment=_environment(job),
        )
        return agree(store, mine)


def _environment(job: Job) -> dict[str, str]:
    threads = (os.cpu_count() or 1) // job.ranks_per_machine
    return environment.inherited() | environment.start_settings(threads)


def _job_name(address: str) -> str:
    """The name that an address of etcd ends with; any, for a store of one job."""
    if not stores.is_shared(address):
        return uuid.uuid4().hex[:8]
    name = stores.job_of(address)
    if not name:
        raise UsageError(
            f"the address {address} names no job, and an etcd may serve many; end it "
            "with one: etcd://HOST:2379/my-run"
        )
    return check_name(name)


def check_name(name: str) -> str:
    if not name.replace("-", "").replace(".", "").replace("_", "").isalnum():
        raise UsageError(
            f"a name of a machine or job is {name!r}; use letters, digits, - . and _"
        )
    if len(name) > NAME_MAX:
        raise UsageError(f"the name {name!r} has {len(name)} letters; at most 63")
    return name


def own_address(store: str) -> str:
    """The address this machine has on the way to the store; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(stores.endpoint_of(store))
        except OSError as error:
            raise ConfigError(
                f"there is no way to the store at {store}: {error}; give the address "
                "others reach this machine at with --host"
            ) from error
        return str(probe.getsockname()[0])


def _tell(ended: Result) -> int:
    how = "well" if ended.status == 0 else f"with status {ended.status}"
    tell(f"twinstep: the job has ended {how}: {ended.reason}")
    return ended.status


def keep_store(trust: Trust, *, host: str, port: int) -> int:
    """Serves an embedded key-value store for one job until a signal ends it."""
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with closing(serve(host=host, port=port, credentials=load(trust))) as server:
        tell(f"twinstep: the key-value store is at {server.address}")
        ended.wait()
    return 0
