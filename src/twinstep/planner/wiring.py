"""Which cubes of a pod can train together, and the picture of it.

A switch joins the faces of any cubes, so that any spare cube stands in for any lost
one. Wired once, cubes are a grid, and a job needs a block of it: of 64 cubes that lose
one, a job of 60 finds no block, and one of 32 finds none where two are lost that are
half the grid apart on each side.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import permutations, product

from twinstep.errors import ConfigError
from twinstep.planner.topology import Pods, Sides, in_words, shapes

ROW_CUBES = 16
"""Drawn in a row: 37 columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Which cubes of a pod a job of some cubes can have, or why none."""

    cubes: tuple[int, ...]
    says: str


def fit(pods: Pods, *, cubes: int, lost: Collection[int] = ()) -> Fit:
    """Which of a pod's cubes can train as one torus while those in `lost` cannot.

    With a switch any of them can; without one they must be a block of the grid in which
    the pod is wired (which is a torus: a block may go over its edge)."""
    for number in sorted(lost):
        check_cube(pods, number)
    if not 1 <= cubes <= pods.cubes_per_pod:
        raise ConfigError(
            f"cubes is {cubes}; at least 1, at most the {pods.cubes_per_pod} of a pod"
        )
    whole = [n for n in range(pods.cubes_per_pod) if n not in lost]
    if len(whole) < cubes:
        return Fit(cubes=(), says=f"{len(whole)} cubes are left, {cubes} are needed")
    if pods.switched:
        says = f"any {cubes} of the {len(whole)} left: the switch joins their faces"
        return Fit(cubes=tuple(whole[:cubes]), says=says)
    grid = shapes(pods.cubes_per_pod, cube=pods.cube)[0].cubes
    for torus in shapes(cubes, cube=pods.cube):
        for sides in sorted(set(permutations(torus.cubes))):
            if block := _block(grid, sides, lost=lost):
                says = (
                    f"a block of {sides[0]}x{sides[1]}x{sides[2]} without a lost cube"
                )
                return Fit(cubes=block, says=says)
    return Fit(
        cubes=(),
        says=f"{len(whole)} cubes are left, but no block of {cubes} without a lost one "
        f"in the grid of {in_words(grid)}; a switch could join any of them",
    )


def check_cube(pods: Pods, number: int) -> None:
    if not 0 <= number < pods.cubes_per_pod:
        raise ConfigError(
            f"lost names cube {number}; a pod has cubes 0 to {pods.cubes_per_pod - 1}"
        )


def draw(pods: Pods, *, lost: Sequence[int] = (), pod: int = 0) -> str:
    """A pod's cubes as text, those lost and those that wait marked, and which standby
    cube has whose place. Cubes are lost in the order given."""
    if not 0 <= pod < pods.pods:
        raise ConfigError(f"pod is {pod}; there are pods 0 to {pods.pods - 1}")
    marks = ["."] * pods.training_cubes + ["s"] * pods.standby_cubes
    moves: list[str] = []
    for number in lost:
        check_cube(pods, number)
        if marks[number] == "x":
            raise ConfigError(f"lost names cube {number} twice; name each once")
        waiting = marks[number] == "s"
        marks[number] = "x"
        if waiting:
            moves.append(f"cube {number} was standby: nothing stops")
        elif "s" in marks:
            stand_in = marks.index("s")
            marks[stand_in] = "+"
            moves.append(f"cube {number} -> {stand_in}, wired in {pods.rewire_s:g} s")
        else:
            moves.append(f"cube {number}: no standby cube, the operator's repair")
    width = len(str(pods.cubes_per_pod - 1))
    rows = [
        f"{first:>{width + 2}}  {' '.join(marks[first : first + ROW_CUBES])}"
        for first in range(0, pods.cubes_per_pod, ROW_CUBES)
    ]
    title = (
        f"pod {pod} of {pods.pods}: {pods.cubes_per_pod} cubes of "
        f"{in_words(pods.cube)} chips, {pods.training_cubes} train as {pods.torus}"
    )
    legend = "  . trains   s standby   x lost   + stands in"
    return "\n".join([title, *rows, legend, *(f"  {move}" for move in moves)])


def _block(
    grid: Sides, sides: Sequence[int], *, lost: Collection[int]
) -> tuple[int, ...]:
    """The cubes of the first block of these sides without a lost one; () for none."""
    if any(side > most for side, most in zip(sides, grid, strict=True)):
        return ()
    for x, y, z in product(*map(range, grid)):
        block = tuple(
            ((x + i) % grid[0] * grid[1] + (y + j) % grid[1]) * grid[2]
            + (z + k) % grid[2]
            for i, j, k in product(*map(range, sides))
        )
        if not any(number in lost for number in block):
            return tuple(sorted(block))
    return ()
