"""Settings of the test run."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest
from hypothesis import settings

# The same examples in each run, so that a red test is red again; no deadline, since
# other tests may have the processor.
settings.register_profile("twinstep", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("twinstep")

LEAVE_S_MAX = 10.0
_status = [0]


def pytest_sessionfinish(exitstatus: int) -> None:
    _status[0] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """A thread that a failed test has left would keep the interpreter for ever."""
    until_s = time.monotonic() + LEAVE_S_MAX
    main, left = threading.main_thread(), list[threading.Thread]()
    for thread in threading.enumerate():
        if thread is not main and not thread.daemon:
            thread.join(max(0.0, until_s - time.monotonic()))
            left += [thread] if thread.is_alive() else []
    if left:
        names = ", ".join(thread.name for thread in left)
        print(f"threads that tests have left: {names}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_status[0] or 1)
