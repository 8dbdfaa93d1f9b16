"""How fast live state becomes bytes in a slot and comes back, over a plain memcpy.

    python -m benchmarks.capture [--json FILE] [--megabytes 256] [--tensors 200]

The state is a module of so many tensors of one size. The yardstick is one memcpy per
tensor in one thread, over the same tensors and the same slot, whose pages have been
touched. Both are alternated, and the ratio is the median of the ratios of each pair:
what else the computer does then meets both alike.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
from pathlib import Path
from typing import Any

import torch
import xxhash

from benchmarks.pairs import alternated, memcpy, seconds, touched_slot
from twinstep.adapters.torch import TorchState

CHUNK_BYTES = 512 * 1024


def measure(*, megabytes: int, tensors: int, pairs: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    items = megabytes * 1_000_000 // tensors // 4
    weights = [torch.nn.Parameter(torch.randn(items)) for _ in range(tensors)]
    model = torch.nn.ParameterList(weights)
    state = TorchState({"model": model})
    layout = state.layout()
    own, empty = touched_slot(layout.own_bytes), memoryview(bytearray())
    size = tensors * items * 4
    slot = ctypes.addressof(ctypes.c_char.from_buffer(own))
    addresses = [weight.data_ptr() for weight in weights]
    places = [slot + layout.static.head_bytes + i * items * 4 for i in range(tensors)]
    assert places[-1] + items * 4 <= slot + layout.own_bytes

    def write_plainly() -> None:
        for place, address in zip(places, addresses, strict=True):
            memcpy(place, address, items * 4)

    def read_plainly() -> None:
        for place, address in zip(places, addresses, strict=True):
            memcpy(address, place, items * 4)

    def capture() -> None:
        state.copy(held, own=own, shared=empty, shared_range=range(0))()

    def verify() -> None:
        for start in range(0, layout.own_bytes, CHUNK_BYTES):
            xxhash.xxh3_128_digest(own[start : start + CHUNK_BYTES])

    def verified_restore() -> None:
        verify()
        state.restore(own, [])

    held = state.hold(1)
    result: dict[str, Any] = {"bytes": size, "tensors": tensors, "pairs": pairs}
    result["capture"] = alternated(capture, write_plainly, pairs=pairs, size=size)
    capture()
    result["restore"] = alternated(
        lambda: state.restore(own, []), read_plainly, pairs=pairs, size=size
    )
    capture()
    result["verified_restore"] = alternated(
        verified_restore, read_plainly, pairs=pairs, size=size
    )
    result["hash_gb_per_s"] = size / seconds(verify) / 1e9
    result["hold_s"] = statistics.median(
        seconds(lambda: state.hold(2)) for _ in range(50)
    )
    result["hold_adamw_s"] = hold_with_optimizer(weights, model)
    result["tunables"] = os.environ.get("GLIBC_TUNABLES", "")
    return result


def hold_with_optimizer(weights: list[Any], model: torch.nn.Module) -> float:
    """Returns the time of hold() with three tensors of AdamW for each weight."""
    optimizer = torch.optim.AdamW(weights, lr=1e-3)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    objects = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    state = TorchState(objects)
    state.layout()
    return statistics.median(seconds(lambda: state.hold(2)) for _ in range(50))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--tensors", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args()
    result = measure(
        megabytes=options.megabytes, tensors=options.tensors, pairs=options.pairs
    )
    for name in ("capture", "restore", "verified_restore"):
        found = result[name]
        print(
            f"{name:17s} {found['gb_per_s']:6.2f} GB/s, "
            f"memcpy {found['memcpy_gb_per_s']:6.2f} GB/s, "
            f"ratio {found['ratio']:.2f} "
            f"({found['ratio_low']:.2f} to {found['ratio_high']:.2f})"
        )
    print(f"hold              {result['hold_s'] * 1e6:6.0f} us")
    print(f"hold with AdamW   {result['hold_adamw_s'] * 1e6:6.0f} us")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
