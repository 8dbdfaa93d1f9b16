"""How a program of ours that trained on gloo ends."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def leave() -> NoReturn:
    """The work is done and said: the process ends with status 0, at once.

    An interpreter that ends by itself runs torch's destructors, and they abort it now
    and then: a DDP model in a reference cycle outlives its group, whose threads are
    still there."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
