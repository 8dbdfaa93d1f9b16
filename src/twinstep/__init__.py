"""Every training step has a twin in a neighbour's memory.

What is public is listed in `__all__`. `Session` is imported when it is first asked
for, so that `import twinstep` costs milliseconds and imports no framework: the
launcher and the agents never need one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinstep.errors import TwinstepError, UsageError

if TYPE_CHECKING:
    from twinstep.session import Session

__version__ = "0.1.0"

__all__ = ["Session", "TwinstepError", "UsageError"]


def __getattr__(name: str) -> object:
    if name == "Session":
        from twinstep.session import Session

        return Session
    if name == "adapters":
        import twinstep.adapters as adapters

        return adapters
    raise AttributeError(f"module 'twinstep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "Session"])
