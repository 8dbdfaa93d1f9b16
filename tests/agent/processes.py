"""Looks at processes that may be anybody's children."""

from __future__ import annotations

import os
import select


def is_gone(pid: int, timeout_s: float = 30.0) -> bool:
    """Whether a process, anybody's child, ends within this time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    finally:
        os.close(descriptor)
