"""Makes of a forked process what `python script.py` would be.

`runpy.run_path` was tried and does less: it puts the old `__main__` back when the
script ends, so that its classes cannot be pickled in exit functions or threads that
outlive it; leaves `sys.path` alone for plain files; and shows its own frames in a
traceback. Here the script's module stays `__main__` for good, and the process ends by
leaving the interpreter as any script does: threads are joined, exit functions run,
streams are flushed.

Known differences to a process of its own: an interrupted script exits with status 130
instead of dying of SIGINT; `/proc/PID/cmdline` shows the warm process; a script that
is a folder or an archive is refused; a memory file is open, into which the process
shows its stack when it is asked to (own_stack.py).
"""

from __future__ import annotations

import builtins
import gc
import importlib.machinery
import operator
import os
import signal
import sys
import types
from collections.abc import Mapping, Sequence
from typing import NoReturn

from twinstep.agent.own_stack import show_when_asked

READ_AT_START = (
    "GLIBC_",
    "GOMP_",
    "KMP_",
    "LD_",
    "MALLOC_",
    "MKL_",
    "OMP_",
    "OPENBLAS_",
    "PYTHON",
    "PYTORCH_",
)
"""Variables with such names are read when a process or a library is loaded. A process
that is forked later cannot take them up; the number of threads is among them, and with
it the bits of a sum."""

SEEDED_AT_IMPORT = {"numpy.random": "seed", "torch.random": "default_generator.seed"}
"""Generators that take chance from the system when imported, and how they do it again:
all ranks forked from one process would draw the same numbers otherwise. Python's own
`random` sees to it by itself."""


def too_late(environment: Mapping[str, str]) -> list[str]:
    """Returns the variables that a forked process could not take up, sorted."""
    return sorted(
        name
        for name, value in environment.items()
        if name.startswith(READ_AT_START) and os.environ.get(name) != value
    )


def adopt(
    *, environment: Mapping[str, str], folder: str, stdout: int, stderr: int
) -> None:
    """The forked process has this environment, folder and output, and what a new
    process has of everything else that can be told apart."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    _reset_signals()
    show_when_asked()
    os.environ.update(environment)
    os.chdir(folder)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # pyright: ignore
    for module, seed in SEEDED_AT_IMPORT.items():
        if module in sys.modules:
            operator.attrgetter(seed)(sys.modules[module])()
    # What `spawn` makes relative paths of __main__ absolute with.
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.ORIGINAL_DIR = os.getcwd()  # pyright: ignore[reportAttributeAccessIssue]
    gc.enable()


def _reset_signals() -> None:
    for number in signal.valid_signals():
        if number in (signal.SIGKILL, signal.SIGSTOP):
            continue
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def run_script(script: str, arguments: Sequence[str]) -> NoReturn:
    """Runs a script as `python script arguments...` would, and leaves.

    Raises: SystemExit, always, with the script's status."""
    path = os.path.abspath(script)
    sys.argv[:] = [script, *arguments]
    if not sys.flags.safe_path:
        sys.path.insert(0, os.path.dirname(os.path.realpath(path)))
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        raise SystemExit(_cannot_open(path, error)) from None
    main = _fresh_main(path)
    sys.modules["__main__"] = main
    try:
        exec(compile(source, path, "exec", dont_inherit=True), main.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        # Without this function's own frame; a syntax error has no other.
        frames = error.__traceback__.tb_next if error.__traceback__ else None
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, frames
        sys.excepthook(type(error), error.with_traceback(frames), frames)
        interrupted = isinstance(error, KeyboardInterrupt)
        raise SystemExit(130 if interrupted else 1) from None
    raise SystemExit(0)


def _fresh_main(path: str) -> types.ModuleType:
    """The names that the interpreter itself puts into `__main__`."""
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __annotations__={},
        __builtins__=builtins,
        __cached__=None,
        __file__=path,
        __loader__=importlib.machinery.SourceFileLoader("__main__", path),
        __package__=None,
        __spec__=None,
    )
    return main


def _cannot_open(path: str, error: OSError) -> int:
    print(
        f"{sys.executable}: can't open file {path!r}: [Errno {error.errno}] "
        f"{error.strerror}",
        file=sys.stderr,
    )
    return 2
