"""How tensors on a CUDA device reach a slot while the next forward pass runs.

Copies go through a stream of their own into slot memory that the driver has pinned,
so that the copy engine works beside the kernels. hold() puts an event into the
current stream: what the copy reads is what the update wrote. The fence makes the
current stream, not the processor, wait for the copies, so that the training thread
queues on. Buffers change in a forward pass and are cloned on the device by hold().

Not tested on hardware: written where no GPU was at hand. Importing this file and
making a DeviceCopies without device tensors touch no CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from twinstep.adapters import torch_values
from twinstep.capture.manifest import Entry, Region
from twinstep.capture.snapshot import address_of
from twinstep.errors import StateError

REGISTERED_MAX = 16
"""Views that stay pinned: two slots for the own shard and the shared range, and
those of a layout before."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceTensor:
    """A device tensor to copy; `clone` is what hold() fills when it is staged."""

    entry: Entry
    local: torch.Tensor
    clone: torch.Tensor | None = None


@dataclass(slots=True, kw_only=True)
class DeviceCopies:
    """The side streams, the events and the pinned views of one rank."""

    streams: dict[torch.device, Any] = field(default_factory=dict[torch.device, Any])
    pinned: dict[tuple[int, int], memoryview] = field(
        default_factory=dict[tuple[int, int], memoryview]
    )
    copied: list[Any] = field(default_factory=list[Any])
    """Events of the last copy, which the next update must wait for."""

    def hold(self, tensors: Sequence[DeviceTensor]) -> dict[torch.device, Any]:
        """Staged tensors are cloned; returns an event for each device in use."""
        marks: dict[torch.device, Any] = {}
        with torch.no_grad():
            for item in tensors:
                if item.clone is not None:
                    item.clone.copy_(item.local)
        for device in dict.fromkeys(item.local.device for item in tensors):
            marks[device] = torch.cuda.Event()
            marks[device].record(torch.cuda.current_stream(device))
        return marks

    def copy(
        self,
        tensors: Sequence[DeviceTensor],
        marks: dict[torch.device, Any],
        targets: dict[Region, tuple[memoryview, range]],
    ) -> Callable[[], None]:
        """All copies are queued afterwards; the returned function waits for them.

        `targets` gives for each region a view and the span of the region it is."""
        host = {
            region: (self._pin(view), span)
            for region, (view, span) in targets.items()
            if view.nbytes
        }
        for device, mark in marks.items():
            self._stream(device).wait_event(mark)
        with torch.no_grad():
            for item in tensors:
                if item.entry.region in host and item.entry.size:
                    self._queue(item, *host[item.entry.region])
        events: list[Any] = []
        for device in marks:
            event = torch.cuda.Event()
            event.record(self._stream(device))
            events.append(event)
        self.copied = events

        def finish() -> None:
            for event in events:
                event.synchronize()

        return finish

    def fence(self) -> None:
        """The current stream of each device waits for the last copies."""
        for event in self.copied:
            event.wait(torch.cuda.current_stream(event.device))
        self.copied = []

    def release(self) -> None:
        """No view is pinned any more."""
        for address, _ in self.pinned:
            _driver().cudaHostUnregister(address)
        self.pinned.clear()

    def _queue(self, item: DeviceTensor, target: torch.Tensor, span: range) -> None:
        entry = item.entry
        first = max(entry.offset, span.start)
        final = min(entry.offset + entry.size, span.stop)
        if first >= final:
            return
        source = item.local if item.clone is None else item.clone
        with torch.cuda.stream(self._stream(source.device)):
            raw = torch_values.raw_bytes(source)
            raw.record_stream(torch.cuda.current_stream())
            part = raw[first - entry.offset : final - entry.offset]
            start = first - span.start
            target[start : start + len(part)].copy_(part, non_blocking=True)

    def _stream(self, device: torch.device) -> Any:
        if device not in self.streams:
            self.streams[device] = torch.cuda.Stream(device)
        return self.streams[device]

    def _pin(self, view: memoryview) -> torch.Tensor:
        """Returns the bytes of `view` as a tensor, registered with the driver once."""
        key = (address_of(view), view.nbytes)
        if key not in self.pinned:
            if len(self.pinned) >= REGISTERED_MAX:
                self.release()
            status = int(_driver().cudaHostRegister(*key, 0))
            if status != 0:
                raise StateError(
                    f"the CUDA driver cannot pin a slot of {view.nbytes} bytes (error "
                    f"{status}); raise the limit of locked memory (ulimit -l)"
                )
            self.pinned[key] = view
        return torch.frombuffer(view, dtype=torch.uint8)


def _driver() -> Any:
    return cast("Any", torch.cuda).cudart()
