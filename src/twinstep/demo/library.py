"""Real text that every machine with Python has: the standard library's own sources.

The same files in the same order up to the same size, so that all ranks of a run read
the same text. Another version of Python is another text.
"""

from __future__ import annotations

import os
from pathlib import Path

TEXT_BYTES_MAX = 2_000_000


def library_text(bytes_max: int = TEXT_BYTES_MAX) -> bytes:
    """Returns the standard library's modules, docstrings and all, end to end."""
    parts: list[bytes] = []
    left = bytes_max
    for path in sorted(Path(os.__file__).parent.glob("*.py")):
        if left <= 0:
            break
        parts.append(path.read_bytes()[:left])
        left -= len(parts[-1])
    return b"".join(parts)
