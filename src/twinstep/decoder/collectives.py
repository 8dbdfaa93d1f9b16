"""Which collectives a compiled step has, along which axes of the mesh, and how often.

    found = collectives(compiled.as_text(), {"pod": 2, "data": 2, "model": 2})
    found["all-reduce over pod"] -> Traffic(instructions=3, runs=9, bytes=...)

What the partitioner chose shows in the compiled module only, not in what is lowered:
there the layouts are remarks on values. Axes are found from the groups of devices that
an instruction names; runs count an instruction in a loop of known length as often as
the loop goes round; bytes are those of its result on one device, all runs together.
A module that is scheduled for a TPU names the same collectives in start and done pairs,
which count once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
ITEM_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64} | {
    f"{sign}{bits}": bits for sign in "su" for bits in (8, 16, 32, 64)
}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_KIND = re.compile(rf" ({'|'.join(KINDS)})(?:-start)?\(")
_CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)+)\}")
_NAMED = re.compile(
    r"replica_groups=mesh\[([^\]]*)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
_PART = re.compile(r"'(\w+)':\((\d+)\)(\d+)")
_SHAPE = re.compile(r"\b(pred|bf16|f16|f32|f64|[su](?:8|16|32|64))\[([\d,]*)\]")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of one kind over one set of axes, on one device, in one step."""

    instructions: int = 0
    runs: int = 0
    bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.instructions + other.instructions,
            self.runs + other.runs,
            self.bytes + other.bytes,
        )


def collectives(text: str, mesh: Mapping[str, int]) -> dict[str, Traffic]:
    """Returns the traffic of each kind and set of axes, such as "all-reduce over pod
    data", of a compiled module (compiled.as_text()). `mesh` has the axes' sizes in the
    order of the mesh."""
    computations = _computations(text)
    runs = _runs(computations)
    found: dict[str, Traffic] = {}
    for name, lines in computations.items():
        for line in lines:
            kind = _KIND.search(line)
            if kind is None or not runs.get(name):
                continue
            key = f"{kind[1]} over {' '.join(_axes(line, mesh)) or 'none'}"
            size = _bytes(line[: kind.start()], in_pairs="-start(" in kind[0])
            one = Traffic(1, runs[name], runs[name] * size)
            found[key] = found.get(key, Traffic()) + one
    return dict(sorted(found.items()))


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation; the entry's name is ""."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        opens = _COMPUTATION.match(line)
        if opens:
            lines = found.setdefault("" if opens[1] else opens[2], [])
        elif line.startswith(" "):
            lines.append(line)
    return found


def _runs(computations: Mapping[str, list[str]]) -> dict[str, int]:
    """How often each computation runs; a loop of unknown length counts once."""
    runs: dict[str, int] = {}

    def visit(name: str, times: int) -> None:
        runs[name] = runs.get(name, 0) + times
        for line in computations.get(name, ()):
            trips = _TRIPS.search(line)
            for called in _called(line):
                visit(called, times * (int(trips[1]) if trips else 1))

    visit("", 1)
    return runs


def _called(line: str) -> Iterator[str]:
    yield from _CALLED.findall(line)
    for branches in _BRANCHES.findall(line):
        yield from (name.strip().lstrip("%") for name in branches.split(","))


def _axes(line: str, mesh: Mapping[str, int]) -> list[str]:
    """The axes along which devices differ that send to each other."""
    groups = _groups(line, math.prod(mesh.values()))
    places = np.stack(np.unravel_index(groups, tuple(mesh.values())))
    differ = (places != places[:, :, :1]).any(axis=(1, 2))
    return [axis for axis, found in zip(mesh, differ, strict=True) if found]


def _groups(line: str, devices: int) -> np.ndarray:
    """int[groups, devices of one]; of a list of groups the first only, since one
    instruction's groups all lie along the same axes."""
    if iota := _IOTA.search(line):
        return _iota(iota[3], iota[4]).reshape(int(iota[1]), int(iota[2]))
    if pairs := _PAIRS.search(line):
        return np.array([int(n) for n in re.findall(r"\d+", pairs[1])]).reshape(-1, 2)
    if listed := _LISTED.search(line):
        return np.array([[int(number) for number in listed[1].split(",")]])
    if named := _NAMED.search(line):
        order = _iota(named[2] or str(devices), named[3])
        return _named_groups(order, named[1], named[4])
    if "replica_groups={}" in line:
        return np.arange(devices)[None]
    raise ValueError(f"no groups of devices are found in {line.strip()[:300]}")


def _iota(dims: str, order: str | None) -> np.ndarray:
    """0, 1, 2 ... in an array of these dims, which are then transposed."""
    shape = [int(size) for size in dims.split(",")]
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return numbers.transpose([int(dim) for dim in order.split(",")] if order else None)


def _named_groups(devices: np.ndarray, mesh: str, axes: str) -> np.ndarray:
    """Groups along some axes of a mesh of the compiler's own, 'a'=4,'b'=2 {'a'}; a part
    of an axis is 'a':(1)2, of size 2 behind a part of size 1."""
    shape: list[int] = []
    kept: list[int] = []
    parts = {name: (int(front), int(size)) for name, front, size in _PART.findall(axes)}
    for name, size in re.findall(r"'(\w+)'=(\d+)", mesh):
        front, inside = parts.get(name, (1, int(size) if f"'{name}'" in axes else 1))
        kept.append(len(shape) + 1)
        shape += [front, inside, int(size) // (front * inside)]
    numbers = devices.reshape(shape)
    numbers = np.moveaxis(numbers, kept, range(-len(kept), 0))
    return numbers.reshape(-1, math.prod(shape[at] for at in kept))


def _bytes(result: str, *, in_pairs: bool) -> int:
    """Of the result before the instruction's name; that of a start instruction has
    the operand before it, and counters of 32 bits behind."""
    sizes = [
        ITEM_BITS[item] // 8 * math.prod(int(n) for n in dims.split(",") if n)
        for item, dims in _SHAPE.findall(result.partition(" = ")[2])
    ]
    return max(sizes, default=0) if in_pairs else sum(sizes)
