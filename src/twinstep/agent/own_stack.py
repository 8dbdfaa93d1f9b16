"""Makes this process show its stack when it is asked to: the rank's side of looking.py.

Python's faulthandler answers a signal in C, so it answers while the interpreter waits
in a collective or for a lock, without a debugger's rights. It writes into a nameless
memory file, which the agent finds among the process's open files. A real-time signal
is used, which scripts leave alone (SIGUSR1 is Slurm's and many a script's own); it is
sent only to a process that is known to catch it, as it would end any other.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import signal

MAIN_SIGNAL = signal.SIGRTMAX - 7
"""Shows the stack of the thread that is interrupted, which is the main one."""
THREADS_SIGNAL = signal.SIGRTMAX - 6
"""Shows all threads: of one that runs meanwhile, frames may be read while they change,
so it is for a rank that is about to be ended."""
FILE_NAME = "twinstep-stacks"

_shown: list[int] = []


def show_when_asked() -> None:
    """From now on, the process writes its stack when one of the signals comes.

    Once in a process; one that was forked off must call it again."""
    if _shown and _shown[0] == os.getpid():
        return
    file = os.memfd_create(FILE_NAME, os.MFD_CLOEXEC)
    fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)  # the reader empties it
    faulthandler.register(MAIN_SIGNAL, file=file, all_threads=False)
    faulthandler.register(THREADS_SIGNAL, file=file, all_threads=True)
    _shown[:] = [os.getpid(), file]
