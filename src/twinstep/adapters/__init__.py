"""The only files that name a framework.

`twinstep.adapters.lightning` and `twinstep.adapters.transformers` are imported when
they are first asked for, so that `import twinstep` is enough for a user of either.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

TRAINERS = ("lightning", "transformers")


def __getattr__(name: str) -> ModuleType:
    if name in TRAINERS:
        return import_module(f"twinstep.adapters.{name}")
    raise AttributeError(f"module 'twinstep.adapters' has no attribute {name!r}")
