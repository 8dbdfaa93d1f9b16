"""The state of a PyTorch run, as capture sees it: the one StateAdapter for torch.

    objects ── survey ──► cells ── plan ──► layout, entries      torch_state, torch_plan
                            └───── bind ──► addresses            torch_plan
    hold:    is the binding still live? values and buffers are copied now
    copy:    memcpy from the addresses into the slot (devices: torch_cuda)
    restore: the way back                                        torch_restore
    restore_stored: the same from storage, for any number of ranks   torch_reshard

Parameters that are written elsewhere than in an optimizer's step (an average of
weights, a re-initialisation) must be written after session.fence(), or between two
steps before after_step(): the copy may be reading them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import xxhash
from torch.nn.parallel import DistributedDataParallel

from twinstep.adapters import torch_values
from twinstep.adapters.torch_cuda import DeviceCopies
from twinstep.adapters.torch_plan import Binding, Plan, bind, is_dense, make_plan
from twinstep.adapters.torch_reshard import restore_stored
from twinstep.adapters.torch_restore import restore
from twinstep.adapters.torch_state import Inventory, ddp_size
from twinstep.capture.manifest import (
    LENGTH_BYTES,
    Region,
    encode_entries,
    encode_manifest,
    write_head,
)
from twinstep.capture.snapshot import (
    Digests,
    Held,
    Layout,
    LayoutChanged,
    Piece,
    Told,
    blank,
    clip,
    copy_hashed,
    copy_pieces,
    fitting,
)
from twinstep.store.stored import StoredStep

TORCH_OWN = "torch.optim."
"""Where the optimizers are that change nothing before they have called a closure."""


class TorchState:
    """The live state of named torch objects. Satisfies StateAdapter."""

    def __init__(self, objects: Mapping[str, object]) -> None:
        """Raises: StateError naming an object that cannot be captured."""
        self.inventory = Inventory.of(objects)
        self.warnings = _warnings(self.inventory)
        self._sharing = True
        self._plan: Plan | None = None
        self._binding: Binding | None = None
        self._staging = torch.empty(0, dtype=torch.uint8)
        self._devices = DeviceCopies()

    def layout(self) -> Layout:
        """Lays the live state out anew. Raises: StateError by name."""
        plan = make_plan(self.inventory, sharing=self._sharing)
        self._staging = torch.zeros(max(1, len(plan.staged)), dtype=torch.uint8)
        self._plan = plan
        self._binding = self._bind(plan)
        return plan.layout

    def unshare(self) -> None:
        """The next layout() treats all tensors as this rank's own."""
        self._sharing = False

    def hold(self, step: int) -> Held:
        """Buffers and values are copied afterwards, and parameters and optimizer
        state are where the layout says. Raises: LayoutChanged."""
        plan, binding = self._current()
        if not binding.is_current():
            binding = self._binding = self._bind(plan)
        values = self.inventory.values()
        manifest = encode_manifest(binding.static, step=step, values=values)
        head_bytes = plan.layout.static.head_bytes
        if LENGTH_BYTES + len(manifest) > head_bytes:
            raise LayoutChanged(
                f"step {step}: the values grew to {len(values)} bytes, and the "
                f"manifest of {len(manifest)} does not fit the {head_bytes} bytes laid "
                "out; keep large state in modules, or as tensors of their own"
            )
        staging = _bytes_of(self._staging)
        copy_pieces(binding.staged, staging)
        for entry, tensor in binding.sparse:
            if entry.offset in plan.staged:
                raw = torch_values.raw_bytes(tensor)
                offset = entry.offset - plan.staged.start
                copy_pieces([Piece(raw.data_ptr(), entry.size, offset)], staging)
        marks = self._devices.hold(binding.devices) if binding.devices else {}
        return Held(step=step, manifest=manifest, mark=(plan, binding, marks))

    def copy(
        self,
        held: Held,
        *,
        own: memoryview,
        shared: memoryview,
        shared_range: range,
        chunk_bytes: int = 0,
    ) -> Callable[[], Digests]:
        """The held step is in the slots when the returned function returns; the next
        update may run as soon as copy() itself has. Digests are taken of what comes
        from host memory without detours."""
        plan, binding, marks = cast("tuple[Plan, Binding, Any]", held.mark)
        own, shared = fitting(plan.layout, own, shared, shared_range)
        targets: dict[Region, tuple[memoryview, range]] = {
            "own": (own, range(len(own))),
            "shared": (shared, shared_range),
        }
        finish = self._devices.copy(binding.devices, marks, targets) if marks else _done
        write_head(own[: plan.layout.static.head_bytes], held.manifest)
        simple = bool(chunk_bytes) and not marks and not binding.sparse
        digests: dict[Region, bytes] = {"own": b"", "shared": b""}
        for region, (view, span) in targets.items():
            blank(binding.blanks[region], view, span)
            pieces = clip(binding.pieces[region], span)
            if simple:
                digests[region] = copy_hashed(pieces, view, chunk_bytes=chunk_bytes)
            else:
                copy_pieces(pieces, view)
        for entry, tensor in binding.sparse:
            if entry.offset not in plan.staged:
                view, span = targets[entry.region]
                raw = torch_values.raw_bytes(tensor)
                piece = Piece(raw.data_ptr(), entry.size, entry.offset)
                copy_pieces(clip([piece], span), view)

        def finished() -> Digests:
            finish()
            return Digests(**digests)

        return finished

    def fence(self, before_update: Callable[[], None]) -> Callable[[], None]:
        """`before_update` runs before each optimizer's step, until the returned
        function is called. Where a step of torch's own optimizers begins with a
        closure, which computes the gradients, it runs after that."""

        def fence() -> None:
            before_update()
            self._devices.fence()

        def before_step(optimizer: Any, args: Any, options: Any) -> Any:
            closure = options.get("closure") or (args[1] if len(args) > 1 else None)
            if closure is None or not type(optimizer).__module__.startswith(TORCH_OWN):
                return fence()

            def gradients() -> Any:
                found = closure()
                fence()
                return found

            return args[:1], {**options, "closure": gradients}

        hooks = [
            optimizer.register_step_pre_hook(before_step)
            for optimizer in self.inventory.updaters()
        ]

        def remove() -> None:
            for hook in hooks:
                hook.remove()

        return remove

    def restore(self, own: memoryview, shared: Sequence[memoryview]) -> int:
        """The live objects have the state of the slots, whose step is returned."""
        views = [view.cast("B") for view in shared]
        return restore(self.inventory, own.cast("B"), views)

    def restore_stored(self, stored: StoredStep, *, rank: int, world_size: int) -> int:
        """The live objects have the stored step's state, whatever number of ranks
        wrote it; returns its step. What the user should know comes to `warnings`."""
        step, warnings = restore_stored(
            self.inventory, stored, rank=rank, world_size=world_size
        )
        self.warnings += warnings
        return step

    def start_from(self, path: str, options: dict[str, str]) -> None:
        """The live objects have the state of a DCP checkpoint (torch_start.py)."""
        from twinstep.adapters.torch_start import start_from

        self.warnings += start_from(self.inventory, path, options)

    def shared_digest(self) -> bytes:
        """xxh3-128 of the shared entries and their live bytes; b"" without any."""
        _, binding = self._current()
        digest = xxhash.xxh3_128()
        entries = [entry for entry in binding.entries if entry.region == "shared"]
        if not entries:
            return b""
        digest.update(encode_entries(entries))
        for cell in binding.cells:
            if cell.place.shared:
                local = cell.local
                dense = local.device.type == "cpu" and is_dense(local)
                raw = local if dense else torch_values.raw_bytes(local).cpu()
                digest.update(_bytes_of(raw))
        return digest.digest()

    def watch(self, pulse: Told, complain: Callable[[str], None]) -> Callable[[], None]:
        """`pulse` is told of all collectives of torch.distributed, until the returned
        function is called."""
        if not torch.distributed.is_available():
            return _done
        from twinstep.adapters.torch_traffic import Traffic

        return Traffic(pulse, complain).close

    def _current(self) -> tuple[Plan, Binding]:
        assert self._plan is not None, "layout() comes first"
        assert self._binding is not None
        return self._plan, self._binding

    def _bind(self, plan: Plan) -> Binding:
        return bind(self.inventory, plan, sharing=self._sharing, staging=self._staging)


def _done() -> None:
    """Nothing is left to wait for."""


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    size = tensor.numel() * tensor.element_size()
    if not size:
        return memoryview(b"")
    array = (ctypes.c_char * size).from_address(tensor.data_ptr())
    return memoryview(array).cast("B")


def _warnings(inventory: Inventory) -> list[str]:
    warnings: list[str] = []
    for name, outer in inventory.modules.items():
        for module in outer.modules():
            if (
                isinstance(module, DistributedDataParallel)
                and ddp_size(module) > 2
                and not module.find_unused_parameters
            ):
                warnings.append(
                    f"{name}: DDP rebuilds its gradient buckets after the first "
                    "backward pass, so that a restarted run sums gradients in another "
                    "order and may differ in the last bits; see docs/bits.md for the "
                    "ways to identical bits"
                )
    return warnings
