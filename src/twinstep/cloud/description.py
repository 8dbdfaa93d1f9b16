"""What all machines of a job agree on, in the key-value store and in a local folder.

The first machine (or the launcher) puts the description under the key `job`, and
whoever comes later compares: two machines that were started with different scripts
or settings must not train together. Each machine keeps its own copy in the job's
folder, beside its sockets, with what is its own: the environment of its ranks.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec

from twinstep.agent.kv import KeyValueStore, Put, absent
from twinstep.config import Job
from twinstep.errors import DeadlinePassed, UsageError

JOB_FILE = "job.json"
JOB_KEY = "job"
AGREED = ("script", "arguments")
OWN = ("store", "trust")
"""Settings that machines may have differently: how each reaches and proves itself."""
ATTEMPTS = 3


class JobFile(msgspec.Struct, frozen=True, kw_only=True):
    """A job, as its launcher, its agents and those who look at it need to know it."""

    name: str
    launcher: int
    """The launcher's process on this computer; 0 where machines joined by
    themselves."""
    started_s: float
    """When it started; the event log counts from here."""
    store: str
    """Address of the key-value store, as this machine reaches it."""
    job: Job
    script: str
    arguments: tuple[str, ...]
    folder: str
    """The working folder of the ranks."""
    environment: dict[str, str]


def read_job(folder: Path) -> JobFile:
    """Returns the job of a folder. Raises: OSError, msgspec.DecodeError."""
    return msgspec.json.decode((folder / JOB_FILE).read_bytes(), type=JobFile)


def write_job(folder: Path, job: JobFile) -> None:
    """The folder holds the job; a reader sees all of it or nothing.

    Raises: UsageError when it cannot be written."""
    part = folder / f"{JOB_FILE}.part"
    try:
        part.touch(mode=0o600)
        part.write_bytes(msgspec.json.encode(job))
        part.replace(folder / JOB_FILE)
    except OSError as error:
        raise UsageError(
            f"the job cannot be written to its folder {folder}: {error}; name another "
            "with --job, or set TMPDIR"
        ) from error


def published(store: KeyValueStore) -> JobFile | None:
    """Returns the job that a store is about, without anybody's environment.

    Raises: UsageError when what is there is no job's description."""
    _, items = store.get(JOB_KEY)
    item = items.get(JOB_KEY)
    if item is None:
        return None
    try:
        return msgspec.json.decode(item.value, type=JobFile)
    except msgspec.DecodeError as error:
        raise UsageError(
            f"what the store says of the job cannot be read ({error}); was it started "
            "with another version of twinstep?"
        ) from error


def agree(store: KeyValueStore, mine: JobFile) -> JobFile:
    """Returns the job as the store has it, which is `mine` if nobody was first.

    What may be secret, environment and storage.options, is not put into the store and
    not compared: each machine has its own.

    Raises: UsageError naming each setting in which `mine` differs."""
    shown = _with_options(mine.job, {})
    value = msgspec.json.encode(
        msgspec.structs.replace(mine, environment={}, job=shown)
    )
    for attempt in range(ATTEMPTS):
        try:
            store.transact([Put(key=JOB_KEY, value=value)], when=[absent(JOB_KEY)])
            break
        except DeadlinePassed:  # done or not: what is there tells
            if attempt == ATTEMPTS - 1:
                raise
    theirs = published(store)
    assert theirs is not None
    differing = differences(msgspec.structs.replace(mine, job=shown), theirs)
    if differing:
        raise UsageError(
            f"this machine was started differently from job {theirs.name}: "
            f"{'; '.join(differing)}. Start all machines of a job with the same "
            "script, arguments and settings, or name another job"
        )
    return msgspec.structs.replace(
        theirs,
        launcher=mine.launcher,
        store=mine.store,
        folder=mine.folder,
        environment=mine.environment,
        job=dataclasses.replace(
            _with_options(theirs.job, mine.job.storage.options),
            **{name: getattr(mine.job, name) for name in _own(mine.job)},
        ),
    )


def _with_options(job: Job, options: dict[str, str]) -> Job:
    storage = dataclasses.replace(job.storage, options=options)
    return dataclasses.replace(job, storage=storage)


def differences(mine: JobFile, theirs: JobFile) -> list[str]:
    """Returns in words what two descriptions of one job do not agree on."""
    pairs = [(name, getattr(mine, name), getattr(theirs, name)) for name in AGREED]
    own = _own(mine.job)
    pairs += [
        (field.name, getattr(mine.job, field.name), getattr(theirs.job, field.name))
        for field in dataclasses.fields(Job)
        if field.name not in own
    ]
    return [
        f"{name} is {one!r} here, {other!r} there"
        for name, one, other in pairs
        if one != other
    ]


def _own(job: Job) -> list[str]:
    return [field.name for field in dataclasses.fields(job) if field.name in OWN]
