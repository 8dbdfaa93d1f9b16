"""Ties the life of a process to its parent's, so that nobody leaves an orphan.

launcher -> agent -> warm process -> rank: each asks the kernel for SIGKILL when its
parent dies, so that killing any of them kills what is below, in milliseconds and
without anybody's help. The kernel's parent is a *thread*: when the thread that forked
ends, the child is killed, though the process lives. Start processes from a thread that
lives as long as they shall.

A parent may die before its child has asked. The child therefore compares its parent
with the one it was told, afterwards: one of the two sees the death.

Run as a file, it ties itself to PARENT and becomes the command: for commands that know
nothing of this. It imports nothing of twinstep, since it runs before each of them.
Rejected: `preexec_fn`, which runs Python between fork and exec of a process that has
threads, where any lock may be held for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """This process is killed when its parent, the process `parent`, dies; at once if
    it has died already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def prefer_thread(nice: int = -10) -> None:
    """The calling thread runs before others on a busy computer, where that is allowed:
    a lease must not lapse because training uses every core."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def tied(command: Sequence[str], *, parent: int) -> list[str]:
    """Returns a command that runs `command` with its life tied to `parent`."""
    return [sys.executable, "-I", "-S", __file__, str(parent), *command]


def _become(arguments: Sequence[str]) -> None:
    parent, *command = arguments
    die_with_parent(int(parent))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]} cannot be run: {error}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    _become(sys.argv[1:])
