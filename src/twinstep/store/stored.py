"""A stored step as its readers see it, wherever it lies."""

from __future__ import annotations

from typing import Protocol

from twinstep.store.contents import Box, Contents


class StoredStep(Protocol):
    """A complete step in storage. Both methods verify what they read.

    Raises: Corrupt naming the file and the box; OSError when storage is away."""

    contents: Contents

    def read(self, box: Box, into: memoryview) -> None:
        """`into` holds the box's plain bytes (C order) afterwards;
        len(into) == box.data_bytes."""
        ...

    def values(self, rank: int) -> bytes:
        """The encoded values of the rank that wrote them, for capture.plain."""
        ...
