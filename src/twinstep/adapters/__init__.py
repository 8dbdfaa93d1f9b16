"""The only files that name a framework.

`twinstep.adapters.jax`, `.lightning` and `.transformers` are imported when they are
first asked for, so that `import twinstep` is enough for a user of any.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

ON_DEMAND = ("jax", "lightning", "transformers")


def __getattr__(name: str) -> ModuleType:
    if name in ON_DEMAND:
        return import_module(f"twinstep.adapters.{name}")
    raise AttributeError(f"module 'twinstep.adapters' has no attribute {name!r}")
