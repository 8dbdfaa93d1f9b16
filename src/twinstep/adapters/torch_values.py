"""How torch's and NumPy's small arrays become plain data, and generators of numbers.

Tensors inside a state_dict() travel in the manifest as blobs of their bytes. The
generators are Python's, NumPy's and torch's global ones (CPU, and every CUDA device
in use); a NumPy Generator of the user's own is captured when it is passed by name.
A CUDA generator's state is a seed and an offset kept on the host, so that to read it
does not wait for the device.
"""

from __future__ import annotations

import random
from array import array as packed
from typing import Any, cast

import numpy
import torch
from torch.distributed.tensor import DTensor

from twinstep.capture.manifest import ITEM_BYTES
from twinstep.capture.plain import Blob
from twinstep.errors import ProtocolError, StateError

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name) for name in ITEM_BYTES if hasattr(torch, name)
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
NUMPY_KINDS = "biufcSU"


def raw_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the items of a tensor in logical order, as a flat tensor of uint8."""
    dense = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return dense.reshape(-1).view(torch.uint8)


def from_raw(data: torch.Tensor, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Returns flat bytes as a tensor of `dtype` and `shape`, without a copy."""
    return data.view(DTYPES[dtype]).reshape(shape)


def to_blob(value: object) -> Blob | None:
    """Returns the blob of a tensor, array or NumPy number; None for all else."""
    if isinstance(value, torch.Tensor):
        if isinstance(value, DTensor) or value.layout is not torch.strided:
            return None
        if value.dtype not in NAMES:
            return None
        kind = "parameter" if isinstance(value, torch.nn.Parameter) else "tensor"
        data = raw_bytes(value).cpu().numpy().tobytes()
        return Blob(
            kind=kind, dtype=NAMES[value.dtype], shape=tuple(value.shape), data=data
        )
    if isinstance(value, numpy.ndarray | numpy.generic):
        kind = "array" if isinstance(value, numpy.ndarray) else "number"
        array: Any = numpy.asarray(cast("Any", value))
        dtype = array.dtype
        if dtype.kind not in NUMPY_KINDS or dtype.hasobject:
            return None
        return Blob(kind=kind, dtype=dtype.str, shape=array.shape, data=array.tobytes())
    return None


def from_blob(blob: Blob) -> Any:
    """Returns what to_blob() was given, on the host. Raises: ProtocolError."""
    try:
        if blob.kind in ("tensor", "parameter"):
            flat = torch.frombuffer(bytearray(blob.data or b"\0"), dtype=torch.uint8)
            tensor = from_raw(flat[: len(blob.data)], blob.dtype, blob.shape)
            return torch.nn.Parameter(tensor) if blob.kind == "parameter" else tensor
        if numpy.dtype(blob.dtype).kind not in NUMPY_KINDS:
            raise ValueError(f"dtype {blob.dtype}")
        flat_array = numpy.frombuffer(bytearray(blob.data), dtype=blob.dtype)
        return flat_array.reshape(blob.shape)[() if blob.kind == "number" else ...]
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ProtocolError(
            f"a {blob.kind} of {blob.dtype} {blob.shape} in {len(blob.data)} bytes: "
            f"{error}"
        ) from error


def generators() -> dict[str, Any]:
    """Returns the state of all global generators, as plain data."""
    version, words, gauss = random.getstate()
    states: dict[str, Any] = {
        "python": [version, packed("I", words).tobytes(), gauss],
        "numpy": numpy.random.get_state(legacy=True),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_generators(states: dict[str, Any]) -> None:
    """The global generators continue from `states` afterwards."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(packed("I", words)), gauss))
    numpy.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count != len(states["cuda"]):
            raise StateError(
                f"state of {len(states['cuda'])} CUDA generators, but {count} devices "
                "are visible; give every rank the same number of devices as before"
            )
        torch.cuda.set_rng_state_all(states["cuda"])


def for_devices_here(states: dict[str, Any]) -> dict[str, Any]:
    """Returns `states` for the CUDA devices that are visible here, though another
    number was: device i continues as device i modulo the number of then."""
    if "cuda" not in states:
        return states
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    then = states["cuda"]
    if count == 0 or not then:
        return {name: state for name, state in states.items() if name != "cuda"}
    return states | {"cuda": [then[index % len(then)] for index in range(count)]}
