"""Names the rare branches of the simulator, found in its own source.

A probe that no seed reaches means that the simulator has lost a path, or that the
damage for it is missing; a suite of seeds fails for that, as it does for a violation.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from twinstep.sim.faults import FAULTS


@cache
def all_probes() -> tuple[str, ...]:
    """Every name that is given to `probe`, and one for each kind of damage."""
    names = {f"fault: {kind}" for kind in FAULTS}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="probe"),
                    args=[ast.Constant(value=str(name)), *_],
                ):
                    names.add(name)
                case _:
                    pass
    return tuple(sorted(names))
