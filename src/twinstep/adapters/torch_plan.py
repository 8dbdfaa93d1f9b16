"""Where each tensor's bytes lie in the regions, and which live memory they are.

The plan gives every tensor of a survey, and those that will come, an offset that does
not change. The binding finds the live memory behind the plan: addresses to copy from,
kept alive, and a cheap test whether they are still those of the live state. When
something was replaced (load_state_dict, param.data = ...), the objects are surveyed
again; as long as all that is found has its place in the plan, only addresses change.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import is_
from typing import Any

import torch

from twinstep.adapters.torch_cuda import DeviceTensor
from twinstep.adapters.torch_room import expected
from twinstep.adapters.torch_state import Bin, Cell, Inventory, Place, parameters_of
from twinstep.capture.manifest import (
    LENGTH_BYTES,
    Entry,
    Region,
    StaticPart,
    aligned,
    encode_entries,
)
from twinstep.capture.snapshot import (
    PAGE_BYTES,
    Layout,
    LayoutChanged,
    Piece,
    coalesced,
    shared_gaps,
)

VALUES_GROWTH = 2
VALUES_ROOM_BYTES = 64 * 1024
"""The head has room for values of twice their size at layout and this: a loader's
state and a scheduler's grow a little, and pages are cheap beside tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The place of every tensor, present or to come. `staged` is a span of the own
    region, right after the head."""

    layout: Layout
    entries: dict[str, Entry]
    staged: range


def make_plan(inventory: Inventory, *, sharing: bool) -> Plan:
    """Lays out the live state. Raises: StateError naming what cannot be captured."""
    cells = inventory.survey(sharing=sharing)
    places = [cell.place for cell in cells]
    by_parameter = {id(cell.tensor): cell for cell in cells}
    for name, optimizer in inventory.optimizers.items():
        places += expected(name, optimizer, by_parameter)
    places.sort(key=lambda place: not place.staged)
    static_bytes = len(encode_entries([_entry(place, 1 << 40) for place in places]))
    values_bytes = len(inventory.values())
    head_bytes = aligned(
        LENGTH_BYTES + static_bytes + VALUES_GROWTH * values_bytes + VALUES_ROOM_BYTES,
        PAGE_BYTES,
    )
    ends: dict[Region, int] = {"own": head_bytes, "shared": 0}
    entries: dict[str, Entry] = {}
    staged_end = head_bytes
    for place in places:
        entry = _entry(place, 0)
        entry = _entry(place, aligned(ends[entry.region]))
        ends[entry.region] = entry.offset + entry.size
        entries[place.name] = entry
        if place.staged:
            staged_end = ends["own"]
    own_bytes, shared_bytes = aligned(ends["own"]), aligned(ends["shared"])
    static = StaticPart(
        head_bytes=head_bytes,
        own_bytes=own_bytes,
        shared_bytes=shared_bytes,
        entries=b"",
    )
    layout = Layout(own_bytes=own_bytes, shared_bytes=shared_bytes, static=static)
    return Plan(layout=layout, entries=entries, staged=range(head_bytes, staged_end))


def _entry(place: Place, offset: int) -> Entry:
    return Entry(
        name=place.name,
        dtype=place.dtype,
        global_shape=place.global_shape,
        box_offsets=place.box_offsets,
        box_shape=place.box_shape,
        offset=offset,
        size=place.size,
        region="shared" if place.shared else "own",
        replica=place.replica,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Binding:
    """The live memory behind a plan, at one time."""

    static: StaticPart
    entries: list[Entry]
    """Those that exist now."""
    pieces: dict[Region, list[Piece]]
    """What copy() reads: plain host memory, and the staging area."""
    staged: list[Piece]
    """What hold() reads; offsets are from the start of the staging area."""
    sparse: list[tuple[Entry, torch.Tensor]]
    """Host tensors that are not contiguous, copied through a dense one."""
    devices: list[DeviceTensor]
    blanks: dict[Region, list[range]]
    cells: list[Cell]
    containers: list[Bin]
    keys: list[Any]
    tensors: list[torch.Tensor]
    locals: list[torch.Tensor]
    addresses: list[int]
    storages: list[Any]
    """Keeps memory alive whose tensor was given another while a copy is running."""
    optimizers: list[tuple[Any, Any, int, int, int]]

    def is_current(self) -> bool:
        """Whether the live state is still this memory: a tenth of a microsecond a
        tensor, since it runs at every step in the training thread."""
        for optimizer, state, count, keys, parameters in self.optimizers:
            if (
                optimizer.state is not state
                or len(state) != count
                or sum(map(len, state.values())) != keys
                or sum(len(group["params"]) for group in optimizer.param_groups)
                != parameters
            ):
                return False
        found = map(dict[Any, Any].get, self.containers, self.keys)
        if not all(map(is_, found, self.tensors)):
            return False
        return list(map(torch.Tensor.data_ptr, self.locals)) == self.addresses


def bind(
    inventory: Inventory, plan: Plan, *, sharing: bool, staging: torch.Tensor
) -> Binding:
    """Returns the live memory of `plan`. Raises: LayoutChanged by name."""
    cells = inventory.survey(sharing=sharing)
    present = {cell.place.name for cell in cells}
    for name, entry in plan.entries.items():
        if name not in present and not _is_room(name):
            raise LayoutChanged(_changed(f"{name} {entry.box_shape} is gone"))
    entries = [_placed(cell.place, plan) for cell in cells]
    pieces: dict[Region, list[Piece]] = {"own": [], "shared": []}
    staged: list[Piece] = []
    sparse: list[tuple[Entry, torch.Tensor]] = []
    devices: list[DeviceTensor] = []
    for cell, entry in zip(cells, entries, strict=True):
        local = cell.local
        if local.device.type != "cpu":
            clone = torch.empty_like(local) if cell.place.staged else None
            devices.append(DeviceTensor(entry=entry, local=local, clone=clone))
        elif not is_dense(local):
            sparse.append((entry, local))
        elif cell.place.staged:
            offset = entry.offset - plan.staged.start
            staged.append(Piece(local.data_ptr(), entry.size, offset))
        else:
            piece = Piece(local.data_ptr(), entry.size, entry.offset)
            pieces[entry.region].append(piece)
    if len(plan.staged):
        piece = Piece(staging.data_ptr(), len(plan.staged), plan.staged.start)
        pieces["own"].append(piece)
    static = plan.layout.static
    blanks: dict[Region, list[range]] = {
        "own": [
            range(entry.offset, entry.offset + entry.size)
            for name, entry in plan.entries.items()
            if name not in present and entry.region == "own"
        ],
        "shared": shared_gaps(entries, static.shared_bytes),
    }
    return Binding(
        static=StaticPart(
            head_bytes=static.head_bytes,
            own_bytes=static.own_bytes,
            shared_bytes=static.shared_bytes,
            entries=encode_entries(entries),
        ),
        entries=entries,
        pieces={region: coalesced(pieces[region]) for region in pieces},
        staged=coalesced(staged),
        sparse=sparse,
        devices=devices,
        blanks=blanks,
        cells=cells,
        containers=[cell.container for cell in cells],
        keys=[cell.key for cell in cells],
        tensors=[cell.tensor for cell in cells],
        locals=[cell.local for cell in cells],
        addresses=[cell.local.data_ptr() for cell in cells],
        storages=[cell.local.untyped_storage() for cell in cells],
        optimizers=_shape_of_optimizers(inventory),
    )


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the memory of a tensor is its items in logical order."""
    return tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()


def _placed(place: Place, plan: Plan) -> Entry:
    entry = plan.entries.get(place.name)
    if entry is None:
        raise LayoutChanged(_changed(f"{place.name} is new"))
    if _entry(place, entry.offset) != entry:
        raise LayoutChanged(
            _changed(
                f"{place.name} is {place.dtype} {place.box_shape}, not {entry.dtype} "
                f"{entry.box_shape}, or belongs to another region"
            )
        )
    return entry


def _is_room(name: str) -> bool:
    """Only optimizer state may be absent: it comes with a parameter's first update."""
    return "]." in name


def _changed(what: str) -> str:
    return (
        f"the state changed after it was laid out: {what}. Create all parameters, "
        "buffers and optimizer state before the first after_step()"
    )


def _shape_of_optimizers(
    inventory: Inventory,
) -> list[tuple[Any, Any, int, int, int]]:
    shapes: list[tuple[Any, Any, int, int, int]] = []
    for optimizer in inventory.optimizers.values():
        state: Any = optimizer.state
        keys = sum(map(len, state.values()))
        count = len(parameters_of(optimizer))
        shapes.append((optimizer, state, len(state), keys, count))
    return shapes
