"""Finds the jobs that run on this computer, and asks them how they are.

A job's launcher leaves a folder with its description; the rest is in its key-value
store, which the root keeps up to date. Used by `status`, `inject`, the demo, the soak.
"""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec

from twinstep.agent.kv import KeyValueStore
from twinstep.agent.record import Plan, Recovery
from twinstep.agent.seat import PLAN, RECOVERIES, STATUS
from twinstep.agent.status import Status
from twinstep.agent.stores import open_store
from twinstep.cloud.description import JOB_FILE, JobFile, published, read_job
from twinstep.cloud.hosting import Result, result_of
from twinstep.config import Trust
from twinstep.environment import jobs_folder
from twinstep.errors import UsageError
from twinstep.trust.credentials import load


def is_running(folder: Path) -> bool:
    """Whether the launcher of the job in a folder lives; where machines joined by
    themselves, whether an agent does."""
    try:
        job = read_job(folder)
    except (OSError, msgspec.DecodeError):
        return False
    if job.launcher:
        return Path(f"/proc/{job.launcher}").exists()
    return any(_answers(path) for path in folder.glob("*.sock"))


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def find_job(folder: Path | None = None) -> Path:
    """Returns the folder of a job: the one given, or the newest that runs.

    Raises: UsageError when there is none."""
    if folder is not None:
        if not (folder / JOB_FILE).exists():
            raise UsageError(f"no job runs in {folder}; see `twinstep status --list`")
        return folder
    running = [path for path in list_jobs() if is_running(path)]
    if not running:
        raise UsageError(
            f"no job of yours runs on this computer (looked in {jobs_folder()}); "
            "start one with `twinstep run script.py`, or name its folder with --job"
        )
    return max(running, key=lambda path: (path / JOB_FILE).stat().st_mtime)


def list_jobs() -> list[Path]:
    """The folders of jobs that run, or ended without cleaning up."""
    return sorted(path.parent for path in jobs_folder().glob(f"*/{JOB_FILE}"))


class JobView:
    """A running job, seen from outside. Every call has the store's deadline.

    `where` is the job's folder on this computer, or the address of its store. `trust`
    names what to prove ourselves with; by default what the job's folder says."""

    def __init__(self, where: Path | str, *, trust: Trust | None = None) -> None:
        self.folder = where if isinstance(where, Path) else None
        if isinstance(where, Path):
            try:
                self.job: JobFile = read_job(where)
            except (OSError, msgspec.DecodeError) as error:
                raise UsageError(f"{where} is no job's folder: {error}") from error
            trust = trust or self.job.job.trust
        address = self.job.store if isinstance(where, Path) else where
        self.credentials = load(trust or Trust())
        self._store: KeyValueStore = open_store(address, credentials=self.credentials)
        if isinstance(where, Path):
            return
        known = published(self._store)
        if known is None:
            self._store.close()
            raise UsageError(f"the store at {where} knows of no job")
        self.job = known

    def status(self) -> Status | None:
        """Returns what the root published last; None before the first root."""
        raw = self._value(STATUS)
        return msgspec.json.decode(raw, type=Status) if raw else None

    def plan(self) -> Plan | None:
        """Returns what the root would leave to the next one; None before the first
        round."""
        raw = self._value(PLAN)
        return msgspec.msgpack.decode(raw, type=Plan) if raw else None

    def recoveries(self) -> list[Recovery]:
        """Returns the timelines of all recoveries, oldest first."""
        _, items = self._store.get(RECOVERIES)
        return [
            msgspec.json.decode(items[key].value, type=Recovery)
            for key in sorted(items)
        ]

    def result(self) -> Result | None:
        """Returns how the job ended, or None while it runs."""
        return result_of(self._store)

    def json(self) -> str:
        """Returns all of the above, and the job's own file, as one JSON object."""
        whole = {
            "job": self.job.name,
            "folder": str(self.folder or ""),
            "script": self.job.script,
            "status": self.status(),
            "recoveries": self.recoveries(),
            "result": self.result(),
        }
        return msgspec.json.encode(whole).decode()

    def _value(self, key: str) -> bytes | None:
        _, items = self._store.get(key)
        item = items.get(key)
        return item.value if item else None

    def close(self) -> None:
        self._store.close()
