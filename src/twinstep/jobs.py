"""Finds the jobs that run on this computer, and asks them how they are.

A job's launcher leaves a folder with its description; the rest is in its key-value
store, which the root keeps up to date. Used by `status`, `inject`, the demo, the soak.
"""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import msgspec

from twinstep.agent.kv import KeyValueStore
from twinstep.agent.record import Recovery
from twinstep.agent.seat import RECOVERIES, RESULT, STATUS
from twinstep.agent.status import Status
from twinstep.agent.stores import open_store
from twinstep.cloud.description import JOB_FILE, JobFile, published, read_job
from twinstep.config import Trust
from twinstep.environment import user_id
from twinstep.errors import UsageError
from twinstep.trust.credentials import load

SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended."""

    status: int
    reason: str


def result_of(store: KeyValueStore) -> Result | None:
    """Returns how the job of a store ended, or None while it runs."""
    _, items = store.get(RESULT)
    item = items.get(RESULT)
    return msgspec.json.decode(item.value, type=Result) if item else None


def check_script(script: Path) -> Path:
    """Returns the script's full path. Raises: UsageError when there is none."""
    if not script.is_file():
        raise UsageError(
            f"there is no script {script}; give the path of a Python file: "
            "twinstep run [options] script.py [arguments]"
        )
    return script.resolve()


def check_folder(folder: Path, *, machine: str = "m00000") -> Path:
    """Returns the full path of a job's folder, which exists.

    Raises: UsageError when sockets cannot be made there."""
    folder = folder.absolute()
    longest = len(os.fsencode(folder / f"{machine}.sock"))
    if longest > SOCKET_PATH_BYTES_MAX:
        raise UsageError(
            f"the job's folder {folder} is too long: its sockets' paths would take "
            f"{longest} bytes, at most {SOCKET_PATH_BYTES_MAX}; name a shorter one "
            "with --job, or set TMPDIR"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(f"the job's folder {folder} cannot be made: {error}") from None
    return folder


def jobs_folder() -> Path:
    """Where jobs of this user leave their sockets, one folder a job."""
    return Path(tempfile.gettempdir()) / f"twinstep-{user_id()}"


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
