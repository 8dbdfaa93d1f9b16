"""Checks where a job lives on a computer: its script, and the folder of its sockets."""

from __future__ import annotations

import os
from pathlib import Path

from twinstep.errors import UsageError

SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un


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
