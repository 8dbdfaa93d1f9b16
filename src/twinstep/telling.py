"""Tells a person something on an output that may be full, gone or not theirs.

A line that cannot be written never ends what it is about: a disk is full, a terminal is
closed, `| head` has seen enough. Such a line is lost, and whoever told it goes on. It
goes past Python's buffer: what a failed flush leaves there would fail again when the
process ends, and turn its exit status into 120.

Left out: outputs that hang. An agent, which must not wait, has agent/outlet.py.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any, TextIO


def tell(text: str, *, error: bool = False) -> None:
    """The text is on stdout, or on stderr, if it could be written."""
    stream: TextIO = sys.stderr if error else sys.stdout
    raw: Any = getattr(getattr(stream, "buffer", None), "raw", None)
    # ValueError: somebody has closed it.
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
        if raw is None:
            stream.write(f"{text}\n")
            stream.flush()
        else:
            raw.write(f"{text}\n".encode(errors="replace"))
