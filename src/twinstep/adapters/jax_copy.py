"""How the arrays of a step outlive the next update, and how their bytes are read.

Arrays never change, so that to keep them is to hold on to them: the twin copies while
training goes on, no update waits, and one more state is alive until the copy ends.

A loop that donates its state (jit with donate_argnums) gives the memory to the next
update, which is dispatched before the twin could read it: the arrays are deleted then,
which shows, and never overwritten under a reader. On a CPU, whoever looks at an array's
memory keeps it from being donated; but to begin to look waits until the array has been
computed, and the training thread must not. So from the first deletion on every step
that is held is copied by the device itself, in the order of its other work: on a CPU to
other memory, on an accelerator to pinned memory of the host.

    references    0 copies in training; + 1 state, until the twin has read it
    donating      1 copy by the device; + 1 state
    with fence()  0 copies; + 0; the loop waits for the twin before it dispatches

Measured on jax 0.10.2: a donated array whose NumPy view is alive keeps its bytes, and
XLA computes into new memory; of one whose view is only waited for, the same.

What is said of accelerators has never run on one.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

import jax
import jax.numpy as jnp
import numpy

from twinstep.adapters.jax_leaves import api
from twinstep.adapters.jax_plan import Part, Plan
from twinstep.capture.manifest import Region
from twinstep.capture.snapshot import Piece
from twinstep.errors import StateError

PINNED = "pinned_host"
WORK = 4096
"""Items of a product beside the copies: what takes less than 1000 operations is run by
XLA's CPU client in the thread that dispatches it, which here is the training thread."""
DELETED = methodcaller("is_deleted")


@dataclass(slots=True, kw_only=True, weakref_slot=True)
class Kept:
    """What is alive of one step: for each part, the array on one device or host that
    has it. `whole` says that the arrays are the user's, over all devices."""

    parts: list[Part]
    arrays: list[Any]
    whole: bool

    def is_deleted(self) -> bool:
        arrays = [array for array in self.arrays if isinstance(array, jax.Array)]
        return any(map(DELETED, arrays))


class Keeper:
    """Keeps the arrays of steps, and finds out what that takes in this loop."""

    def __init__(self) -> None:
        self.donates = False
        self._last: weakref.ref[Kept] | None = None
        self._copy = api.jit(_copies)
        self._work_of: dict[Any, Any] = {}
        self._grouped: list[Part] | None = None
        self._groups: dict[Any, list[tuple[int, bool]]] = {}

    def keep(self, plan: Plan, leaves: Sequence[Any]) -> Kept:
        """The arrays' bytes can be read until what is returned is dropped. Never waits
        for the device."""
        last = self._last() if self._last is not None else None
        if last is not None and last.whole and last.is_deleted():
            self.donates = True
        arrays = [leaves[at] for at in plan.sources]
        for at in plan.hosts:
            arrays[at] = numpy.array(arrays[at], order="C")
        kept = Kept(parts=plan.parts, arrays=arrays, whole=not self.donates)
        if self.donates:
            kept.arrays = self._copied(kept)
        self._last = weakref.ref(kept)
        return kept

    def views(self, kept: Kept) -> list[Any]:
        """Returns the parts as arrays of NumPy, once they have been computed; their
        memory stays as it is while they are alive.

        Raises: StateError when the loop has donated some of them."""
        try:
            fresh = [
                _fresh(array, part.position if kept.whole else 0)
                for array, part in zip(kept.arrays, kept.parts, strict=True)
            ]
            for array in fresh:
                if isinstance(array, jax.Array) and not _on_cpu(array):
                    array.copy_to_host_async()
            return [numpy.ascontiguousarray(numpy.asarray(each)) for each in fresh]
        except RuntimeError as error:
            if not (kept.whole and kept.is_deleted()):
                raise
            self.donates = True
            raise StateError(
                "the loop donated this state to the next update before it was copied; "
                "states are copied on the device from now on. session.fence() before "
                "each update saves that memory"
            ) from error

    def _copied(self, kept: Kept) -> list[Any]:
        """Returns copies of the parts, of which each device makes its own in turn."""
        copies = list(kept.arrays)
        if self._grouped is not kept.parts:
            self._grouped, self._groups = kept.parts, _by_device(kept)
        for device, places in self._groups.items():
            given = [copies[at] for at, _ in places]
            for number, (at, cut) in enumerate(places):
                if cut:
                    local = copies[at].addressable_data(kept.parts[at].position)
                    given[number] = local
            if device.platform == "cpu":
                made = self._copy(given, self._work(device))[0]
            else:
                made = api.device_put(given, _pinned(device), may_alias=False)
            for (at, _), copy in zip(places, made, strict=True):
                copies[at] = copy
        return copies

    def _work(self, device: Any) -> Any:
        if device not in self._work_of:
            self._work_of[device] = api.device_put(numpy.ones(WORK, "float32"), device)
        return self._work_of[device]


def _by_device(kept: Kept) -> dict[Any, list[tuple[int, bool]]]:
    """Returns which parts each device copies, and whether a part is not all that the
    array has in this process. The same for all steps of a plan."""
    found: dict[Any, list[tuple[int, bool]]] = {}
    for at, (part, array) in enumerate(zip(kept.parts, kept.arrays, strict=True)):
        if isinstance(array, jax.Array):
            local: Any = array.addressable_data(part.position)
            sharding: Any = array.sharding
            cut = len(sharding.device_set) > 1
            found.setdefault(next(iter(local.devices())), []).append((at, cut))
    return found


def _copies(arrays: list[Any], work: Any) -> tuple[list[Any], Any]:
    return [jnp.copy(array) for array in arrays], jnp.dot(work, work)


def pieces_of(parts: Iterable[Part], views: Iterable[Any]) -> dict[Region, list[Piece]]:
    """Returns what is to be copied to where, by offset."""
    pieces: dict[Region, list[Piece]] = {"own": [], "shared": []}
    for part, view in zip(parts, views, strict=True):
        assert view.nbytes == part.entry.size, (part.entry, view.shape)
        if part.entry.size:
            address = view.__array_interface__["data"][0]
            pieces[part.entry.region].append(
                Piece(address, part.entry.size, part.entry.offset)
            )
    for region in pieces.values():
        region.sort(key=lambda piece: piece.offset)
    return pieces


def _fresh(array: Any, position: int) -> Any:
    """Returns an object of its own for the part's memory: an array keeps the view that
    it has given, and could not be donated from then on."""
    if not isinstance(array, jax.Array):
        return array
    local: Any = array.addressable_data(position)
    return local.addressable_data(0)


def _pinned(device: Any) -> Any:
    """Returns the host memory that `device` writes to by itself; its own, if none."""
    kinds = [memory.kind for memory in device.addressable_memories()]
    if PINNED not in kinds:
        return device
    return jax.sharding.SingleDeviceSharding(device, memory_kind=PINNED)


def _on_cpu(array: Any) -> bool:
    return all(device.platform == "cpu" for device in array.devices())
