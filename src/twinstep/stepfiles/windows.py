"""Reads a file of a place from its start to its end, a window at a time.

A request costs as much as a megabyte on most storage, and items are small: so what
follows an item is read with it. Of a file of any size one window is in memory.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, cast

from twinstep.store.places import Place

WINDOW_BYTES = 16 * 1024 * 1024
SMALL_WINDOW_BYTES = 1024 * 1024
"""Of an archive, whose directory at its end is read first."""

Tick = Callable[[int], None]
"""Is told of each number of bytes that were read."""


def unseen(_bytes: int) -> None:
    """Nobody looks."""


class Window:
    """The bytes of a file, best asked for in ascending order: then each is read once.

    `size` is the file's, in bytes."""

    def __init__(
        self, place: Place, name: str, size: int, *, tick: Tick = unseen
    ) -> None:
        self._place, self._name, self._size, self._tick = place, name, size, tick
        self._buffer = memoryview(bytearray(min(size, WINDOW_BYTES)))
        self._start = self._end = 0

    def pieces(self, at: int, size: int) -> Iterator[memoryview]:
        """Yields `size` bytes from `at` on; each piece is good until the next.

        Raises: EOFError when the file has become shorter; OSError."""
        assert at + size <= self._size, (at, size, self._size)
        while size:
            if not self._start <= at < self._end:
                self._fill(at)
            piece = self._buffer[at - self._start : self._end - self._start][:size]
            yield piece
            at, size = at + len(piece), size - len(piece)

    def whole(self, at: int, size: int) -> bytes:
        """Returns these bytes at once; for what is known to be small."""
        return b"".join(bytes(piece) for piece in self.pieces(at, size))

    def _fill(self, at: int) -> None:
        count = min(len(self._buffer), self._size - at)
        self._start = self._end = 0
        self._place.read(self._name, at, self._buffer[:count])
        self._start, self._end = at, at + count
        self._tick(count)


class _Item(io.RawIOBase):
    """A part of a file as a file of its own, for the reader of zips."""

    def __init__(self, place: Place, name: str, at: int, size: int, tick: Tick) -> None:
        self._place, self._name, self._tick = place, name, tick
        self._first, self._size, self._at = at, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = (0, self._at, self._size)[whence]
        if start + offset < 0:
            raise OSError(f"no byte {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._at))
        if count:
            self._place.read(self._name, self._first + self._at, view[:count])
            self._at += count
            self._tick(count)
        return count


def archive_fault(
    place: Place,
    name: str,
    *,
    at: int,
    size: int,
    data_bytes: int = 0,
    tick: Tick = unseen,
) -> str:
    """Returns what is wrong with the archive of torch.save that is part of a file, or
    nothing: it is a zip whose records are all readable and have the checksums that it
    tells. With `data_bytes` there are as many bytes of tensors in it.

    Raises: OSError, EOFError."""
    window = max(1, min(size, SMALL_WINDOW_BYTES))
    item = io.BufferedReader(_Item(place, name, at, size, tick), window)
    try:
        with zipfile.ZipFile(cast("Any", item)) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            if not any(name.endswith("data.pkl") for name in names):
                return "is a zip without data.pkl: not an archive of torch.save"
            held = sum(info.file_size for info in infos if "/data/" in info.filename)
            if held < data_bytes:
                return f"has {held} bytes of tensors, not {data_bytes}"
            for info in infos:
                _read_record(archive, info)
    except EOFError:
        raise
    except _WRONG as error:
        return f"is no readable archive: {error}"
    return ""


_WRONG = (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError)


def _read_record(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed, which torch.save never does")
    if not info.CRC:
        del info.CRC  # torch need not compute one, and then writes 0
    with archive.open(info) as record:
        while record.read(SMALL_WINDOW_BYTES):
            pass
