"""What goes through torch.distributed.checkpoint, as capture sees it: a StateAdapter.

    dcp.save ── put(flat) ── hold ── copy ──► slot
    slot ──► restore ──► restored, read by dcp.load when it knows where to

Nothing is live between two saves: what is to be captured is put here first, and given
up when its copy was made, since it belongs to the caller of dcp.save. On the way back
the bytes are kept until they are asked for. All of it is the rank's own: DCP's items
say nothing of what ranks hold alike that could be trusted to stay so.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlanner, ReadItem

from twinstep.adapters import torch_values
from twinstep.adapters.torch_cuda import DeviceCopies, DeviceTensor
from twinstep.adapters.torch_dcp_items import (
    About,
    Box,
    Dims,
    Flat,
    Span,
    is_empty,
    tensor_metadata,
)
from twinstep.adapters.torch_plan import (
    VALUES_GROWTH,
    VALUES_ROOM_BYTES,
    is_dense,
)
from twinstep.capture.manifest import (
    DIMS_MAX,
    ENTRIES_MAX,
    LENGTH_BYTES,
    Entry,
    StaticPart,
    aligned,
    encode_entries,
    encode_manifest,
    read_manifest,
    write_head,
)
from twinstep.capture.snapshot import (
    PAGE_BYTES,
    Digests,
    Held,
    Layout,
    LayoutChanged,
    Piece,
    Told,
    copy_hashed,
    copy_pieces,
    restore_pieces,
)
from twinstep.errors import ProtocolError, StateError
from twinstep.store.stored import StoredStep

FORMAT = "torch.distributed.checkpoint 1"


class _Values(msgspec.Struct, kw_only=True):
    """What lies beside the boxes in a manifest."""

    format: str
    step: int | None
    checkpoint_id: str
    saved_s: float
    pickled: dict[str, bytes]
    paths: dict[str, list[str | int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A rank's part of a save, as it came out of memory."""

    about: About
    boxes: dict[tuple[str, Dims], Entry]
    pickled: dict[str, bytes]
    paths: dict[str, list[str | int]]
    data: torch.Tensor
    """The whole slot; entries say what is where."""

    def metadata(self) -> dict[str, Any]:
        """Returns what DCP's planner must know of each name."""
        spans: defaultdict[str, list[Span]] = defaultdict(list)
        kinds: dict[str, tuple[str, Dims]] = {}
        for (fqn, offsets), entry in self.boxes.items():
            kinds[fqn] = entry.dtype, entry.global_shape
            if entry.size:
                spans[fqn].append((offsets, entry.box_shape))
        known: dict[str, Any] = {
            fqn: tensor_metadata(dtype, whole, spans[fqn])
            for fqn, (dtype, whole) in kinds.items()
        }
        return known | {fqn: BytesStorageMetadata() for fqn in self.pickled}

    def lacks(self, items: Sequence[ReadItem]) -> str:
        """Returns the name of the first item that is not here; empty: all are."""
        for item in items:
            found: object = self.pickled.get(item.storage_index.fqn)
            if item.type is LoadItemType.TENSOR:
                found = is_empty(item) or self._entry(item)
            if found is None:
                return item.storage_index.fqn
        return ""

    def read(self, item: ReadItem, planner: LoadPlanner) -> None:
        """The planner's target has the item's content afterwards."""
        if is_empty(item):
            return
        if item.type is LoadItemType.BYTE_IO:
            planner.load_bytes(item, io.BytesIO(self.pickled[item.storage_index.fqn]))
            return
        entry = self._entry(item)
        assert entry is not None
        raw = self.data[entry.offset : entry.offset + entry.size]
        source = torch_values.from_raw(raw, entry.dtype, entry.box_shape)
        for dim, (first, length) in enumerate(
            zip(item.storage_offsets, item.lengths, strict=True)
        ):
            source = source.narrow(dim, first, length)
        target = planner.resolve_tensor(item).detach()
        if target.size() != source.size():
            raise StateError(
                f"{entry.name}: {tuple(source.size())} saved, {tuple(target.size())} "
                "live"
            )
        target.copy_(source)
        planner.commit_tensor(item, target)

    def _entry(self, item: ReadItem) -> Entry | None:
        index = item.storage_index
        return self.boxes.get((index.fqn, tuple(index.offset or ())))


@dataclass(slots=True, kw_only=True)
class _Bound:
    """The memory of what is held. Emptied when its copy was made."""

    pieces: list[Piece] = field(default_factory=list[Piece])
    devices: list[DeviceTensor] = field(default_factory=list[DeviceTensor])
    marks: dict[Any, Any] = field(default_factory=dict[Any, Any])
    alive: list[torch.Tensor] = field(default_factory=list[torch.Tensor])


class DcpState:
    """What DCP saves and loads. Satisfies capture's StateAdapter."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.restored: Restored | None = None
        self._flat: Flat | None = None
        self._why = "nothing was given"
        self._layout: Layout | None = None
        self._entries: list[Entry] = []
        self._bound = _Bound()
        self._devices = DeviceCopies()

    def put(self, flat: Flat | None, *, why: str = "") -> None:
        """What is captured next; None, and why there is nothing."""
        self._flat, self._why = flat, why

    def give_up(self) -> None:
        """The caller's tensors are referred to no more. No copy is under way."""
        self._flat, self._why = None, "nothing was given"
        bound, self._bound = self._bound, _Bound()
        for content in (bound.pieces, bound.devices, bound.alive):
            content.clear()
        bound.marks.clear()

    def layout(self) -> Layout:
        """Lays out what was put here. Raises: LayoutChanged when nothing was."""
        flat = self._given()
        static_bytes = len(encode_entries(_entries(flat.boxes, 1 << 40)))
        head_bytes = aligned(
            LENGTH_BYTES
            + static_bytes
            + VALUES_GROWTH * len(_encoded(flat))
            + VALUES_ROOM_BYTES,
            PAGE_BYTES,
        )
        self._entries = _entries(flat.boxes, head_bytes)
        ends = [entry.offset + entry.size for entry in self._entries]
        own_bytes = aligned(max([head_bytes, *ends]))
        static = StaticPart(
            head_bytes=head_bytes,
            own_bytes=own_bytes,
            shared_bytes=0,
            entries=encode_entries(self._entries),
        )
        self._layout = Layout(own_bytes=own_bytes, shared_bytes=0, static=static)
        return self._layout

    def unshare(self) -> None:
        """Nothing is shared."""

    def hold(self, step: int) -> Held:
        """What was put here is known to fit its layout. Raises: LayoutChanged."""
        flat, layout = self._given(), self._layout
        assert layout is not None, "layout() comes first"
        static = layout.static
        if _entries(flat.boxes, static.head_bytes) != self._entries:
            raise LayoutChanged(
                "the state that is saved has other tensors than the one before; save "
                "one state, under the same names"
            )
        manifest = encode_manifest(static, step=step, values=_encoded(flat))
        if LENGTH_BYTES + len(manifest) > static.head_bytes:
            raise LayoutChanged(
                f"what is no tensor grew to {len(manifest)} bytes, beyond the "
                f"{static.head_bytes} laid out"
            )
        self._bound = bound = _Bound()
        for box, entry in zip(flat.boxes, self._entries, strict=True):
            tensor = box.tensor
            if tensor.device.type != "cpu":
                bound.devices.append(DeviceTensor(entry=entry, local=tensor))
                continue
            if not is_dense(tensor):
                tensor = torch_values.raw_bytes(tensor)
            bound.alive.append(tensor)
            bound.pieces.append(Piece(tensor.data_ptr(), entry.size, entry.offset))
        bound.marks = self._devices.hold(bound.devices) if bound.devices else {}
        return Held(step=step, manifest=manifest, mark=bound)

    def copy(
        self,
        held: Held,
        *,
        own: memoryview,
        shared: memoryview,
        shared_range: range,
        chunk_bytes: int = 0,
    ) -> Callable[[], Digests]:
        """What is held is in the slot when the returned function returns."""
        bound, layout = cast("_Bound", held.mark), self._layout
        assert layout is not None
        own = own.cast("B")[: layout.own_bytes]
        if len(own) < layout.own_bytes:
            raise StateError(
                f"a slot of {len(own)} bytes for a layout of {layout.own_bytes}"
            )
        finish: Callable[[], None] | None = None
        if bound.devices:
            targets: Any = {"own": (own, range(len(own)))}
            finish = self._devices.copy(bound.devices, bound.marks, targets)
        write_head(own[: layout.static.head_bytes], held.manifest)
        digests = b""
        if chunk_bytes and finish is None:
            digests = copy_hashed(bound.pieces, own, chunk_bytes=chunk_bytes)
        else:
            copy_pieces(bound.pieces, own)

        def finished() -> Digests:
            if finish is not None:
                finish()
            return Digests(own=digests)

        return finished

    def fence(self, before_update: Callable[[], None]) -> Callable[[], None]:
        """Nobody changes what was put here: dcp.save waits for its copy."""
        return _nothing

    def restore(self, own: memoryview, shared: Sequence[memoryview]) -> int:
        """What the slot holds is kept until it is read; returns its step."""
        own = own.cast("B")
        manifest = read_manifest(own)
        try:
            values = msgspec.msgpack.decode(manifest.values, type=_Values)
        except (msgspec.MsgspecError, ValueError) as error:
            raise ProtocolError(f"not a state that DCP saved: {error}") from error
        if values.format != FORMAT:
            raise ProtocolError(f"a state of format {values.format!r}, not {FORMAT!r}")
        boxes: dict[tuple[str, Dims], Entry] = {}
        for entry in manifest.entries:
            if entry.region != "own" or entry.dtype not in torch_values.DTYPES:
                raise ProtocolError(f"{entry.name} is shared, or of {entry.dtype}")
            boxes[entry.name.rpartition("@")[0], entry.box_offsets] = entry
        data = torch.empty(manifest.own_bytes, dtype=torch.uint8)
        restore_pieces([Piece(data.data_ptr(), len(data), 0)], own)
        self.restored = Restored(
            about=About(
                step=values.step,
                checkpoint_id=values.checkpoint_id,
                saved_s=values.saved_s,
            ),
            boxes=boxes,
            pickled=values.pickled,
            paths=values.paths,
            data=data,
        )
        return manifest.step

    def restore_stored(self, stored: StoredStep, *, rank: int, world_size: int) -> int:
        """Raises: StateError, as what is saved through DCP has its own files."""
        raise _own_files(f"step {stored.contents.step} in storage.path")

    def start_from(self, path: str, options: dict[str, str]) -> None:
        """Raises: StateError, as what is saved through DCP has its own files."""
        raise _own_files(f"storage.start ({path})")

    def shared_digest(self) -> bytes:
        """Nothing is shared."""
        return b""

    def watch(self, pulse: Told, complain: Callable[[str], None]) -> Callable[[], None]:
        """`pulse` is told of all collectives of torch.distributed, until the returned
        function is called."""
        if not torch.distributed.is_available():
            return _nothing
        from twinstep.adapters.torch_traffic import Traffic

        return Traffic(pulse, complain).close

    def _given(self) -> Flat:
        if self._flat is None:
            raise LayoutChanged(self._why)
        return self._flat


def _own_files(what: str) -> StateError:
    return StateError(
        f"{what} is not for state that the script saves through TwinstepWriter: that "
        "has its own files, which TwinstepReader loads; leave storage out of the job's "
        "settings"
    )


def _nothing() -> None:
    """Nothing is to be undone."""


def _entries(boxes: Sequence[Box], first: int) -> list[Entry]:
    """Returns the boxes' entries, one after the other from `first` on."""
    if len(boxes) > ENTRIES_MAX:
        raise LayoutChanged(f"{len(boxes)} boxes of tensors; at most {ENTRIES_MAX}")
    numbers: Counter[str] = Counter()
    entries: list[Entry] = []
    for box in boxes:
        name = f"{box.fqn}@{numbers[box.fqn]}"
        numbers[box.fqn] += 1
        size = box.tensor.numel() * box.tensor.element_size()
        if len(box.global_shape) > DIMS_MAX or len(name) > 4096:
            raise LayoutChanged(
                f"{box.fqn} has too many dimensions, or too long a name"
            )
        first = aligned(first)
        entries.append(
            Entry(
                name=name,
                dtype=box.dtype,
                global_shape=box.global_shape,
                box_offsets=box.offsets,
                box_shape=tuple(box.tensor.shape),
                offset=first,
                size=size,
                region="own",
            )
        )
        first += size
    return entries


def _encoded(flat: Flat) -> bytes:
    values = _Values(
        format=FORMAT,
        step=flat.about.step,
        checkpoint_id=flat.about.checkpoint_id,
        saved_s=flat.about.saved_s,
        pickled=flat.pickled,
        paths=flat.paths,
    )
    return msgspec.msgpack.encode(values)
