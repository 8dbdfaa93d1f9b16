"""Which boxes of an array this process holds, and which of them it captures.

A sharding says for every device of all processes which box of the array it holds. The
order of devices is the same in all processes, so that each can tell by itself, without
a word to the others, which of those that hold the same box is the first:

    device   0    1    2    3         mesh (data 2, model 2), sharded over model
    process  0    0    1    1         box a is in devices 0 and 2, b in 1 and 3
    box      a    b    a    b
    replica  0    0    1    1         process 0 writes both to storage

Inside a process a box is captured once, whatever devices hold it. What every process
holds all of, in one box or (as above) in several, is `shared`: a copy on each machine
is made already. A box that only some processes hold is captured by each of them, since
a rank is restored from its own slot and nothing else, and goes to storage once
(Entry.replica).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from twinstep.adapters.jax_leaves import api
from twinstep.recovery.reshard import Extent


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A box of an array that devices of this process hold."""

    extent: Extent
    devices: tuple[Any, ...]
    """Those of this process that hold it."""
    replica: int
    """This process's number among those that hold it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """All boxes of an array in this process, each once and in one order in all
    processes; `shared` when every process holds every box."""

    boxes: tuple[Held, ...]
    shared: bool


@lru_cache(maxsize=4096)
def spread_of(sharding: Any, shape: tuple[int, ...]) -> Spread:
    """Returns what this process holds of an array of `shape`."""
    return spread(
        sharding.devices_indices_map(shape),
        shape,
        here=api.process_index(),
        processes=api.process_count(),
    )


def spread(
    indices: Mapping[Any, Any], shape: tuple[int, ...], *, here: int, processes: int
) -> Spread:
    """Returns what process `here` holds. `indices` are a slice a dim for each device,
    in an order that is the same in all processes."""
    holders: dict[Extent, list[Any]] = {}
    for device, index in indices.items():
        holders.setdefault(_extent(index, shape), []).append(device)
    boxes: list[Held] = []
    for extent, devices in holders.items():
        order = list(dict.fromkeys(device.process_index for device in devices))
        if here in order:
            boxes.append(
                Held(
                    extent=extent,
                    devices=tuple(d for d in devices if d.process_index == here),
                    replica=order.index(here),
                )
            )
    shared = processes > 1 and all(
        len({device.process_index for device in devices}) == processes
        for devices in holders.values()
    )
    return Spread(boxes=tuple(boxes), shared=shared)


def _extent(index: Any, shape: tuple[int, ...]) -> Extent:
    spans = [part.indices(size) for part, size in zip(index, shape, strict=True)]
    assert all(step == 1 for _, _, step in spans), index
    return Extent(
        tuple(first for first, _, _ in spans),
        tuple(max(0, final - first) for first, final, _ in spans),
    )


def position_of(array: Any, device: Any) -> int:
    """Returns which of the array's addressable parts lies on `device`."""
    devices = [shard.device for shard in array.addressable_shards]
    return devices.index(device)
