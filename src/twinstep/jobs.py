"""Finds the jobs that run on this computer, and asks them how they are.

A job's launcher leaves a folder with its description; the rest is in its key-value
store, which the root keeps up to date. Used by `status`, `inject`, the demo, the soak.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec

from twinstep.agent.kv import KeyValueStore
from twinstep.agent.kv_client import connect
from twinstep.agent.record import Recovery
from twinstep.agent.seat import RECOVERIES, RESULT, STATUS
from twinstep.agent.status import Status
from twinstep.cloud.start import JOB_FILE, JobFile, read_job
from twinstep.environment import user_id
from twinstep.errors import UsageError


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended."""

    status: int
    reason: str


def jobs_folder() -> Path:
    """Where jobs of this user leave their sockets, one folder a job."""
    return Path(tempfile.gettempdir()) / f"twinstep-{user_id()}"


def is_running(folder: Path) -> bool:
    """Whether the launcher of the job in a folder lives."""
    try:
        job = read_job(folder)
    except (OSError, msgspec.DecodeError):
        return False
    return Path(f"/proc/{job.launcher}").exists()


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
    """A running job, seen from outside. Every call has the store's deadline."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.job: JobFile = read_job(folder)
        except (OSError, msgspec.DecodeError) as error:
            raise UsageError(f"{folder} is no job's folder: {error}") from error
        self._store: KeyValueStore = connect(self.job.store)

    def status(self) -> Status | None:
        """Returns what the root published last; None before the first root."""
        raw = self._value(STATUS)
        return msgspec.json.decode(raw, type=Status) if raw else None

    def recoveries(self) -> list[Recovery]:
        """Returns the timelines of all recoveries, oldest first."""
        _, items = self._store.get(RECOVERIES)
        return [
            msgspec.json.decode(items[key].value, type=Recovery)
            for key in sorted(items)
        ]

    def result(self) -> Result | None:
        """Returns how the job ended, or None while it runs."""
        raw = self._value(RESULT)
        return msgspec.json.decode(raw, type=Result) if raw else None

    def json(self) -> str:
        """Returns all of the above, and the job's own file, as one JSON object."""
        whole = {
            "job": self.job.name,
            "folder": str(self.folder),
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
