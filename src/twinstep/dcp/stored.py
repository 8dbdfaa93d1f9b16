"""When the save in a directory was made: by a mark beside DCP's own metadata.

DCP's metadata says nothing of when. The mark does, by the clock of rank 0, as memory
does too. It names the metadata that it was made beside, by size and time: a directory
that something else has written since, or copied, counts as of its metadata's time.
DCP ignores the mark.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

MARK = ".twinstep-save"
METADATA = ".metadata"


class _Mark(msgspec.Struct, kw_only=True):
    saved_s: float
    step: int | None
    metadata_bytes: int
    metadata_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A directory's save: when, and what its user called it, where that is known."""

    saved_s: float
    step: int | None = None


def stored(folder: Path) -> Stored | None:
    """Returns what is known of the save in `folder`; None where there is none."""
    try:
        found = (folder / METADATA).stat()
    except OSError:
        return None
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        mark = msgspec.json.decode((folder / MARK).read_bytes(), type=_Mark)
        if (mark.metadata_bytes, mark.metadata_ns) == (
            found.st_size,
            found.st_mtime_ns,
        ):
            return Stored(saved_s=mark.saved_s, step=mark.step)
    return Stored(saved_s=found.st_mtime)


def mark(folder: Path, save: Stored) -> None:
    """The mark is beside the metadata, if it could be written."""
    with contextlib.suppress(OSError):
        found = (folder / METADATA).stat()
        text = msgspec.json.encode(
            _Mark(
                saved_s=save.saved_s,
                step=save.step,
                metadata_bytes=found.st_size,
                metadata_ns=found.st_mtime_ns,
            )
        )
        (folder / MARK).write_bytes(text)
