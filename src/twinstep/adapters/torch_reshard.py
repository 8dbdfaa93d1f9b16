"""How a stored step becomes the live state of any number of ranks, sharded anyhow.

Every live tensor is a box of a whole, and the stored boxes that overlap with it are
known (recovery/reshard.py): those are read, each once, whole and verified, into one
buffer as large as the largest of them. What a rank has for itself comes from the rank
of the same number, and with another number of ranks from `rank % ranks of then`:

    sharded tensors               the same whole, cut as it is cut now: exact
    what all ranks hold alike     exact
    Adam's step, schedulers,      equal on all ranks in most runs, and exact then;
    running statistics, ...       tensors that differed are named in a warning
    position in the data          load_state_dicts(), see GlobalSampler; or a warning
    random numbers                go on, but cannot be those of the uninterrupted run

Not noticed: tensors that only other ranks hold, as stages of a pipeline do, and that
no rank is there for any more. Of what rank 0 held, rank 0 misses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from twinstep.adapters import torch_values
from twinstep.adapters.torch_state import Inventory, set_state_of
from twinstep.adapters.torch_targets import (
    Parts,
    Targets,
    checked_values,
    load_values,
)
from twinstep.capture.plain import decode_plain
from twinstep.recovery.reshard import Copy, Extent, StoredTensor, StoredTensors
from twinstep.store.contents import Box
from twinstep.store.stored import StoredStep

NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """The rank that reads, of how many; `source` is the rank of then it goes on as."""

    rank: int
    world_size: int
    then: int

    @property
    def source(self) -> int:
        return self.rank % self.then

    @property
    def changed(self) -> bool:
        return self.world_size != self.then


@dataclass(slots=True, kw_only=True)
class _Reads:
    """What each stored box is read for."""

    copies: dict[int, list[tuple[Copy, torch.Tensor]]] = field(
        default_factory=dict[int, list[tuple[Copy, torch.Tensor]]]
    )
    """By identity of the box, since to hash one costs as much as to plan it."""

    def add(self, copies: list[Copy], target: torch.Tensor) -> None:
        for copy in copies:
            self.copies.setdefault(id(copy.box), []).append((copy, target))

    def boxes(self) -> Iterator[tuple[Box, list[tuple[Copy, torch.Tensor]]]]:
        """Yields each box once, in the order in which they lie in their files."""
        boxes = [(copies[0][0].box, copies) for copies in self.copies.values()]
        yield from sorted(boxes, key=lambda item: (item[0].file, item[0].data_at))


def restore_stored(
    inventory: Inventory, stored: StoredStep, *, rank: int, world_size: int
) -> tuple[int, list[str]]:
    """The live objects have the stored state afterwards; returns its step, and what
    the user should know.

    Raises: StateError or ProtocolError before anything was written; Corrupt, OSError.
    """
    assert 0 <= rank < world_size, (rank, world_size)
    contents = stored.contents
    reader = _Reader(rank=rank, world_size=world_size, then=contents.world_size)
    values = checked_values(inventory, _decoded(stored, reader.source))
    every = _states_of_all(inventory, stored, reader)
    targets = Targets(inventory, values)
    tensors = StoredTensors(contents.boxes)
    targets.expect(tensors.names)
    reads = _Reads()
    apart: list[str] = []
    for name in tensors.names:
        tensor = tensors.of(name, owner=reader.source)
        if _plan(tensor, targets, reads, reader):
            apart.append(name)
    targets.refuse()
    _read(stored, reads)
    targets.set_states()
    values["random"]["random"] = torch_values.for_devices_here(
        values["random"]["random"]
    )

    def set_state(name: str, value: Any) -> None:
        if name in every:
            value.load_state_dicts(every[name], rank=rank, world_size=world_size)
        else:
            set_state_of(value, values["others"][name])

    load_values(inventory, values, set_state)
    return contents.step, _warnings(inventory, reader, apart) if reader.changed else []


def _plan(
    tensor: StoredTensor, targets: Targets, reads: _Reads, reader: _Reader
) -> bool:
    """What this rank wants of a stored tensor is among `reads` afterwards, or a
    difference. Returns whether ranks had different ones, and this is one of them."""
    name, dtype, global_shape = tensor.name, tensor.dtype, tensor.global_shape
    if not tensor.is_complete():
        targets.differ(f"{name} {dtype} {global_shape} is stored only in part")
        return False
    needed = tensor.held_by(reader.source)
    cell = targets.take(name, dtype, global_shape, needed=needed)
    if cell is None:
        return False
    wanted = Extent(cell.place.box_offsets, cell.place.box_shape)
    plan, owned = tensor.plan(wanted, owner=reader.source)
    if plan.missing:
        offsets, shape = plan.missing[0]
        targets.differ(f"{name} is stored without the {shape} at {offsets}")
    versions = (reader.changed or not owned) and tensor.has_versions()
    if versions and not owned:
        targets.differ(
            f"{name} was captured differently by several ranks, of which rank "
            f"{reader.source} is none; give each its own name"
        )
    reads.add(plan.copies, cell.local)
    return versions


def _read(stored: StoredStep, reads: _Reads) -> None:
    """Every planned copy is made afterwards."""
    boxes = list(reads.boxes())
    size = max((box.data_bytes for box, _ in boxes), default=0)
    buffer = torch.empty(size, dtype=torch.uint8)
    view = memoryview(cast("Any", buffer.numpy()))
    for box, copies in boxes:
        stored.read(box, view[: box.data_bytes])
        raw = buffer[: box.data_bytes]
        source = torch_values.from_raw(raw, box.dtype, box.shape)
        with torch.no_grad():
            for copy, target in copies:
                target.detach()[copy.target].copy_(source[copy.source])


def _decoded(stored: StoredStep, rank: int) -> Any:
    return decode_plain(stored.values(rank), from_blob=torch_values.from_blob)


def _states_of_all(
    inventory: Inventory, stored: StoredStep, reader: _Reader
) -> dict[str, list[Any]]:
    """Returns the states of all ranks of then, in order, of each object that wants
    them; none when the number of ranks is what it was."""
    names = [name for name, value in inventory.others.items() if _takes_all(value)]
    if not names or not reader.changed:
        return {}
    ranks: list[Parts] = [
        checked_values(inventory, _decoded(stored, rank)) for rank in range(reader.then)
    ]
    return {name: [parts["others"][name] for parts in ranks] for name in names}


def _takes_all(value: object) -> bool:
    return callable(getattr(value, "load_state_dicts", None))


def _warnings(inventory: Inventory, reader: _Reader, apart: list[str]) -> list[str]:
    ranks = f"the step was stored by {reader.then} ranks and there are now "
    ranks += f"{reader.world_size}"
    warnings = [
        f"{ranks}: random numbers (dropout, shuffling) cannot be those of the "
        f"uninterrupted run. Each rank goes on with the generators of rank % "
        f"{reader.then}"
        + (
            f", so that ranks {reader.then} and above draw the numbers of another; "
            "where that matters, seed them anew after restore()"
            if reader.world_size > reader.then
            else ""
        )
    ]
    loaders = [
        name
        for name, value in inventory.others.items()
        if hasattr(value, "__iter__") and not _takes_all(value)
    ]
    if loaders:
        warnings.append(
            f"{ranks}: {_listed(loaders)} continued from the position of rank "
            f"{reader.source}, and samples may be skipped or repeated. Use "
            "twinstep.adapters.sampler.GlobalSampler, or give it load_state_dicts("
            "states, *, rank, world_size), which gets the states of all ranks"
        )
    if apart:
        warnings.append(
            f"{ranks}: {_listed(apart)} differed between the ranks. This rank has what "
            f"rank {reader.source} had"
        )
    return warnings


def _listed(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
