"""Wrong wall clocks: what Python's time.time tells is shifted, and can be shifted anew.

A folder that stands first among those Python imports from holds a `sitecustomize`
module, which every Python process of a machine runs before anything else. Monotonic
time is as it was. libfaketime, which does this for all programs, was tried: its
clock_nanosleep refuses what Python's time.sleep asks for.
"""

from __future__ import annotations

from pathlib import Path

_SHIFT = "shift"
_CODE = '''"""Shifts time.time by what a file says, looked at twice a second."""
import time
_true, _true_ns, _monotonic = time.time, time.time_ns, time.monotonic
_looked_s, _shift_s = -1.0, 0.0
def _shift():
    global _looked_s, _shift_s
    if not 0 <= _monotonic() - _looked_s < 0.5:
        try:
            with open({path!r}) as file:
                _shift_s = float(file.read())
        except (OSError, ValueError):
            pass
        _looked_s = _monotonic()
    return _shift_s
time.time = lambda: _true() + _shift()
time.time_ns = lambda: _true_ns() + int(_shift() * 1e9)
'''


def make_clock(folder: Path, shift_s: float) -> None:
    """Python processes that import from `folder` first have a clock so much ahead."""
    folder.mkdir()
    set_clock(folder, shift_s)
    code = _CODE.format(path=str(folder / _SHIFT))
    (folder / "sitecustomize.py").write_text(code)


def set_clock(folder: Path, shift_s: float) -> None:
    """They are so much ahead from now on, or from half a second later."""
    part = folder / f"{_SHIFT}.part"
    part.write_text(str(shift_s))
    part.replace(folder / _SHIFT)
