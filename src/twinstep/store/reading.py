"""Finds the steps that a storage holds, and reads what is in one, every byte verified.

A folder is a whole step once it has its table of contents and the last file of its
form, and all files of that table are as long as the table says. Everything else is
passed over, with the reason: the rest of an attempt that was given up, a step that
somebody has cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

from twinstep.errors import Corrupt, ProtocolError
from twinstep.store import contents as stored
from twinstep.store.contents import Box, Contents
from twinstep.store.places import Place

CONTENTS_BYTES_MAX = 1 << 32
VALUES_BYTES_MAX = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A folder of a storage that is named like a step."""

    step: int
    folder: str
    contents: Contents | None
    """None for a folder that is no whole step of twinstep's."""
    reason: str = ""
    """Why it is none, in words."""
    empty: bool = False
    """Nothing is in it: some stores keep the name of a folder."""
    foreign: bool = False
    """It is a checkpoint that somebody else has written."""
    finished: bool = False
    """It has a table of contents, whatever has become of the other files."""

    @property
    def whole(self) -> bool:
        return self.contents is not None


class StoredFiles:
    """A complete step in a place. Satisfies StoredStep."""

    def __init__(self, place: Place, contents: Contents, folder: str = "") -> None:
        """`folder` is the step's, where it does not have its usual name."""
        self.contents = contents
        self._place = place
        self._folder = folder or stored.folder_name(contents.step)

    def read(self, box: Box, into: memoryview) -> None:
        """`into` holds the box's bytes afterwards, verified."""
        assert len(into) == box.data_bytes, (len(into), box)
        self._read(box.file, box.data_at, into)
        if xxhash.xxh3_128_digest(into) != box.digest:
            raise Corrupt(
                f"{self._where(box.file)}: {box.name} {box.offsets} has a wrong "
                "checksum"
            )

    def values(self, rank: int) -> bytes:
        """The values of the rank that wrote them, verified."""
        at = self.contents.values[rank]
        if at.size > VALUES_BYTES_MAX:
            raise ProtocolError(
                f"values of {at.size} bytes; at most {VALUES_BYTES_MAX}"
            )
        data = bytearray(at.size)
        self._read(at.file, at.at, memoryview(data))
        if xxhash.xxh3_128_digest(data) != at.digest:
            raise Corrupt(
                f"{self._where(at.file)}: the values of rank {rank} have a wrong "
                "checksum"
            )
        return bytes(data)

    def _read(self, file: str, at: int, into: memoryview) -> None:
        try:
            self._place.read(f"{self._folder}/{file}", at, into)
        except FileNotFoundError as error:
            raise Corrupt(f"{self._where(file)} is missing") from error
        except EOFError as error:
            raise Corrupt(f"{self._where(file)} is too short: {error}") from error

    def _where(self, file: str) -> str:
        return f"{self._place.name}/{self._folder}/{file}"


def look(place: Place, *, steps_max: int) -> Iterator[Found]:
    """Yields the steps in a place, oldest first, whole or not; of more than `steps_max`
    the newest. The contents of each may be large: keep what is needed of them.

    Raises: OSError when the place cannot be read."""
    folders = [(stored.step_of(name), name) for name in place.folders()]
    steps = sorted((step, name) for step, name in folders if step is not None)
    for step, name in steps[-steps_max:]:
        found = _look_at(place, step, name)
        if not found.empty:
            yield found


def open_step(place: Place, step: int) -> StoredFiles:
    """Returns a whole step. Raises: Corrupt saying why it is none; OSError."""
    found = _look_at(place, step, stored.folder_name(step))
    if found.contents is None:
        raise Corrupt(f"{place.name}/{found.folder}: {found.reason}")
    return StoredFiles(place, found.contents)


def look_at(place: Place, folder: str) -> Found:
    """Returns what is in one folder, whatever its name is. Raises: OSError."""
    return _look_at(place, stored.step_of(folder), folder)


def _look_at(place: Place, step: int | None, folder: str) -> Found:
    sizes = place.sizes(folder)
    contents, reason = _contents(place, step, folder, sizes)
    return Found(
        step=contents.step if contents else step or 0,
        folder=folder,
        contents=contents,
        reason=reason,
        empty=not sizes,
        foreign=stored.finished(sizes) and stored.CONTENTS not in sizes,
        finished=stored.METADATA in sizes or stored.CONTENTS in sizes,
    )


def _contents(
    place: Place, step: int | None, folder: str, sizes: dict[str, int]
) -> tuple[Contents | None, str]:
    if not stored.finished(sizes):
        last = stored.LAST[stored.form_by(sizes)]
        return None, f"it has no {last}: it was never finished"
    if stored.CONTENTS not in sizes:
        return None, f"it has no {stored.CONTENTS}: not written by twinstep"
    name = f"{folder}/{stored.CONTENTS}"
    try:
        data = place.read_whole(name, bytes_max=CONTENTS_BYTES_MAX)
        contents = stored.decode(data)
    except (ProtocolError, ValueError, FileNotFoundError) as error:
        return None, str(error)
    if step is not None and contents.step != step:
        return None, f"its contents are of step {contents.step}"
    if lack := stored.lacks(contents):
        return None, lack
    last = stored.LAST[contents.form]
    if last not in sizes:
        return None, f"it has no {last}: it was never finished"
    for file in contents.files:
        size = sizes.get(file.name)
        if size is None:
            return None, f"{file.name} is missing"
        if size != file.size:
            return None, f"{file.name} has {size} bytes, not {file.size}"
    return contents, ""
