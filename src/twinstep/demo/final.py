"""Says what a rank's state is at the end, to the bit: a digest for each part of it.

It looks at the live objects by itself, not through what twinstep captures, so that
something that twinstep forgets is seen as a difference.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Protocol, cast

import numpy
import torch
import xxhash
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...


def digest(value: Tensor) -> dict[str, Any]:
    """Returns the size and xxh3-128 of this rank's part of a tensor."""
    local = value.to_local() if isinstance(value, DTensor) else value
    raw = local.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return {"bytes": raw.nbytes, "xxh3_128": xxhash.xxh3_128_hexdigest(raw.data)}


def digests(
    *,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: Stateful,
    loader: Stateful,
    ballast: nn.Module | None = None,
) -> dict[str, dict[str, Any]]:
    """Returns, by name, a digest of everything that the next step depends on."""
    found = {f"parameter {n}": digest(p) for n, p in model.named_parameters()}
    found |= {f"buffer {n}": digest(b) for n, b in model.named_buffers()}
    if ballast is not None:
        found |= {f"ballast {n}": digest(p) for n, p in ballast.named_parameters()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            found[f"optimizer {name} {key}"] = digest(torch.as_tensor(value))
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    numbers = cast("tuple[Any, ...]", numpy.random.get_state(legacy=True))
    plain: dict[str, object] = {
        "optimizer groups": groups,
        "scheduler": scheduler.state_dict(),
        "loader": loader.state_dict(),
        "random of Python": random.getstate(),
        "random of NumPy": [numpy.asarray(part).tolist() for part in numbers],
    }
    for name, value in plain.items():
        raw = repr(value).encode()
        found[name] = {"bytes": len(raw), "xxh3_128": xxhash.xxh3_128_hexdigest(raw)}
    found["random of torch"] = digest(torch.get_rng_state())
    return found


def write_digests(folder: Path, *, rank: int, **objects: Any) -> None:
    """The folder has this rank's digests, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"rank{rank}.part"
    part.write_text(json.dumps(digests(**objects), indent=1))
    part.replace(folder / f"rank{rank}.json")
