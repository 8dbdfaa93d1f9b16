"""Where each leaf's bytes lie in the regions; made from a real state, once.

Host arrays come first in the own region, then what devices hold, box by box. The plan
also knows what a state must look like to fit it, and finds that out in a microsecond a
leaf, since it does so at every step in the training thread: the outputs of one compiled
function have the same types and shardings by identity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter, is_
from typing import Any

from twinstep.adapters.jax_leaves import (
    Form,
    Kind,
    Leaf,
    bare_of,
    flat,
    form_of,
    generator_of,
    kind_of,
    leaves_of,
    numbers_of,
)
from twinstep.adapters.jax_spread import Held, position_of, spread_of
from twinstep.adapters.jax_values import encode_values
from twinstep.capture.manifest import (
    ITEM_BYTES,
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
    shared_gaps,
)
from twinstep.recovery.reshard import Extent

VALUES_GROWTH = 2
VALUES_ROOM_BYTES = 64 * 1024
TYPE, SHARDING = attrgetter("aval"), attrgetter("sharding")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A box of one leaf, and its place."""

    entry: Entry
    position: int
    """Among the addressable parts of the array; 0 of a host array."""


@dataclass(slots=True, kw_only=True)
class Seat:
    """What is planned for one leaf."""

    name: str
    kind: Kind
    form: Form | None
    sharding: Any
    parts: list[Part]
    generator: str = ""
    """Of a key."""
    weak: bool = False


class Plan:
    """The place of every leaf of states of one structure."""

    def __init__(
        self,
        structure: Any,
        seats: list[Seat],
        layout: Layout,
        *,
        bare: dict[str, str],
    ) -> None:
        """`bare` are the nodes without leaves, by name."""
        self.seats = seats
        self.bare = bare
        self.layout = layout
        self.parts = [part for seat in seats for part in seat.parts]
        self.sources = [at for at, seat in enumerate(seats) for _ in seat.parts]
        """For each part, which leaf it is of."""
        self.gaps = shared_gaps(
            [part.entry for part in self.parts], layout.shared_bytes
        )
        """What of the shared region no part has."""
        self.hosts = [
            at for at, leaf in enumerate(self.sources) if seats[leaf].kind is Kind.HOST
        ]
        """The parts that are host arrays."""
        self._structure = structure
        kinds = [seat.kind for seat in seats]
        self._arrays = [at for at, kind in enumerate(kinds) if kind is Kind.ARRAY]
        self._others = [at for at, kind in enumerate(kinds) if kind is not Kind.ARRAY]
        self._seen: tuple[list[Any], list[Any]] = ([], [])
        """Types and shardings of the arrays that fitted last."""

    def fit(self, state: object) -> list[Any]:
        """Returns the leaves of `state`, in the order of the seats, keys as numbers.

        Raises: LayoutChanged naming what does not fit."""
        leaves, structure = flat(state)
        if structure != self._structure:
            raise LayoutChanged(_changed(f"its structure is {structure}"))
        arrays = [leaves[at] for at in self._arrays]
        if not self._as_before(arrays):
            for at in self._arrays:
                _fitting(self.seats[at], leaves[at])
            self._seen = (list(map(TYPE, arrays)), list(map(SHARDING, arrays)))
        for at in self._others:
            leaves[at] = _fitting(self.seats[at], leaves[at])
        return leaves

    def values(self, leaves: list[Any], others: Mapping[str, Any]) -> bytes:
        """Returns the encoded values of a state and the objects beside it."""
        return _values(self.seats, self.bare, leaves, others)

    def _as_before(self, arrays: list[Any]) -> bool:
        types, shardings = self._seen
        try:
            return (
                len(types) == len(arrays)
                and all(map(is_, map(TYPE, arrays), types))
                and all(map(is_, map(SHARDING, arrays), shardings))
            )
        except AttributeError:
            return False  # not even arrays


def _fitting(seat: Seat, leaf: Any) -> Any:
    """Returns what of `leaf` has bytes. Raises: LayoutChanged when it does not fit."""
    found = kind_of(leaf)
    form = None
    if found is seat.kind is not Kind.PLAIN:
        form = form_of(Leaf(name=seat.name, kind=seat.kind, value=leaf))
    if found is not seat.kind or form != seat.form:
        raise LayoutChanged(
            _changed(f"{seat.name} is {form or found}, not {seat.form}")
        )
    if seat.kind in (Kind.HOST, Kind.PLAIN):
        return leaf
    if seat.kind is Kind.KEY:
        if generator_of(leaf) != seat.generator:
            raise LayoutChanged(_changed(f"{seat.name} is of {generator_of(leaf)}"))
        leaf = numbers_of(leaf)
    if not leaf.sharding.is_equivalent_to(seat.sharding, leaf.ndim):
        raise LayoutChanged(
            _changed(f"{seat.name} has {leaf.sharding}, not {seat.sharding}")
        )
    seat.weak = bool(leaf.weak_type)
    return leaf


def make_plan(state: object, others: Mapping[str, Any], *, sharing: bool) -> Plan:
    """Lays out a state. Raises: StateError naming what cannot be captured."""
    leaves = leaves_of(state)
    seats: list[Seat] = []
    held: list[tuple[Seat, Form, list[tuple[Extent, int, int]], Region]] = []
    for leaf in leaves:
        form = None if leaf.kind is Kind.PLAIN else form_of(leaf)
        array = numbers_of(leaf.value) if leaf.kind is Kind.KEY else leaf.value
        seat = Seat(
            name=leaf.name,
            kind=leaf.kind,
            form=form,
            sharding=getattr(array, "sharding", None),
            parts=[],
            generator=generator_of(leaf.value) if leaf.kind is Kind.KEY else "",
            weak=leaf.kind is Kind.ARRAY and bool(leaf.value.weak_type),
        )
        seats.append(seat)
        if form is not None:
            boxes, shared = _boxes(leaf.kind, array, form)
            held.append((seat, form, boxes, "shared" if shared and sharing else "own"))
    held.sort(key=lambda item: item[0].kind is not Kind.HOST)
    sample = [
        _entry(seat.name, form, box, replica, region, at=1 << 40)
        for seat, form, boxes, region in held
        for box, _, replica in boxes
    ]
    bare = bare_of(state)
    values = _values(seats, bare, [leaf.value for leaf in leaves], others)
    head_bytes = aligned(
        LENGTH_BYTES
        + len(encode_entries(sample))
        + VALUES_GROWTH * len(values)
        + VALUES_ROOM_BYTES,
        PAGE_BYTES,
    )
    ends: dict[Region, int] = {"own": head_bytes, "shared": 0}
    entries: list[Entry] = []
    for seat, form, boxes, region in held:
        for box, position, replica in boxes:
            at = aligned(ends[region])
            entry = _entry(seat.name, form, box, replica, region, at=at)
            ends[region] = at + entry.size
            seat.parts.append(Part(entry=entry, position=position))
            entries.append(entry)
    own_bytes, shared_bytes = aligned(ends["own"]), aligned(ends["shared"])
    static = StaticPart(
        head_bytes=head_bytes,
        own_bytes=own_bytes,
        shared_bytes=shared_bytes,
        entries=encode_entries(entries),
    )
    layout = Layout(own_bytes=own_bytes, shared_bytes=shared_bytes, static=static)
    return Plan(flat(state)[1], seats, layout, bare=bare)


def _values(
    seats: list[Seat],
    bare: dict[str, str],
    leaves: list[Any],
    others: Mapping[str, Any],
) -> bytes:
    plain = dict(others)
    for seat, leaf in zip(seats, leaves, strict=True):
        if seat.kind is Kind.PLAIN:
            plain[seat.name] = leaf
    keys = {seat.name: seat.generator for seat in seats if seat.generator}
    weak = [seat.name for seat in seats if seat.weak]
    return encode_values(plain, keys=keys, weak=weak, bare=bare)


def _boxes(
    kind: Kind, array: Any, form: Form
) -> tuple[list[tuple[Extent, int, int]], bool]:
    """Returns the boxes to capture, each with its position and replica, and whether
    all processes hold the whole."""
    if kind is Kind.HOST:
        return [(Extent((0,) * len(form.shape), form.shape), 0, 0)], False
    spread = spread_of(array.sharding, form.shape)

    def place(box: Held) -> tuple[Extent, int, int]:
        return box.extent, position_of(array, box.devices[0]), box.replica

    return [place(box) for box in spread.boxes], spread.shared


def _entry(
    name: str, form: Form, box: Extent, replica: int, region: Region, *, at: int
) -> Entry:
    return Entry(
        name=name,
        dtype=form.dtype,
        global_shape=form.shape,
        box_offsets=box.offsets,
        box_shape=box.shape,
        offset=at,
        size=math.prod(box.shape) * ITEM_BYTES[form.dtype],
        region=region,
        replica=0 if region == "shared" else replica,
    )


def _changed(what: str) -> str:
    return (
        f"the state changed after it was laid out: {what}. Structure, shapes, dtypes "
        "and shardings must stay; cast and shard in the update, and keep what grows "
        "out of the state"
    )
