"""A small disk of a machine's own, which can be filled from outside."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

SIZE = "768m"
"""More than ten times `health.disk_bytes_min`, so that nobody warns before."""
LOG = "log"
_PIECES = (1 << 26, 1 << 20, 1 << 12)
_MOUNT = (
    f'mount -t tmpfs -o size={SIZE} tmpfs "$1" && exec >> "$1/{LOG}" 2>&1 && '
    'shift && exec "$@"'
)


def on_disk(folder: Path, command: Sequence[str]) -> list[str]:
    """Returns a command that runs `command` with `folder`, and its output, on a disk of
    its own; in a mount namespace of its own, please."""
    folder.mkdir(mode=0o700, exist_ok=True)
    return ["sh", "-c", _MOUNT, "sh", str(folder), *command]


def fill(folder: Path) -> Path:
    """No byte more can be written in `folder`. Returns the file that takes the room."""
    hog = folder / "hog"
    with hog.open("wb") as file:
        size = 0
        for piece in _PIECES:
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), size, piece)
                    size += piece
    # What is left of the log's last page is room, too.
    with contextlib.suppress(OSError), (folder / LOG).open("ab", buffering=0) as log:
        while True:
            log.write(b"\n" * _PIECES[-1])
    return hog
