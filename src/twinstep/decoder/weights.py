"""A model's weights as files: what training leaves, and evaluation and sampling read.

    FOLDER/model.safetensors    tensors named as in the spec: layers/0/attention/query
    FOLDER/model.json           the model's sizes, the step, and a digest of all bits

Files of safetensors hold no code and are checked against the spec, name by name and
shape by shape, before anything is computed with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from twinstep.decoder.config import ModelConfig
from twinstep.decoder.model.decoder import decoder_spec
from twinstep.decoder.run import replace_text
from twinstep.decoder.spec import is_param, names
from twinstep.errors import UsageError

TENSORS, ABOUT = "model.safetensors", "model.json"


class About(msgspec.Struct, kw_only=True):
    """What the weights belong to."""

    step: int
    digest: str
    config: ModelConfig
    state_digest: str = ""
    """Of all that training depended on, the optimizer's moments as well."""


def digest(tree: Any) -> str:
    """Returns xxh3-128 over names, shapes and bits of a tree of arrays: equal for equal
    trees, and for no others that one meets."""
    hashed = xxhash.xxh3_128()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.ascontiguousarray(leaf)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        hashed.update(f"{name} {array.dtype} {array.shape}\n".encode())
        hashed.update(array.tobytes())
    return hashed.hexdigest()


def save(
    folder: Path, params: Any, config: ModelConfig, *, step: int, state_digest: str = ""
) -> About:
    """The folder has the weights; returns what is said about them."""
    folder.mkdir(parents=True, exist_ok=True)
    leaves = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(params)]
    named = dict(zip(_names(params), leaves, strict=True))
    part = folder / f"{TENSORS}.part"
    save_file(named, part)
    part.replace(folder / TENSORS)
    about = About(
        step=step, digest=digest(params), config=config, state_digest=state_digest
    )
    replace_text(folder / ABOUT, msgspec.json.encode(about).decode() + "\n")
    return about


def about(folder: Path) -> About:
    """Returns what is said about a folder's weights. Raises: UsageError."""
    try:
        return msgspec.json.decode((folder / ABOUT).read_bytes(), type=About)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{folder} holds no model: {error}") from error


def load(folder: Path, spec: Any = None) -> tuple[Any, ModelConfig]:
    """Returns the weights as a tree of arrays, and the model's sizes. `spec` is the
    decoder's unless given.

    Raises: UsageError naming a tensor that is missing, too many or of another shape."""
    found = about(folder)
    spec = decoder_spec(found.config) if spec is None else spec
    try:
        tensors = load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{folder / TENSORS} cannot be read: {error}") from error
    leaves, tree = jax.tree.flatten(spec, is_leaf=is_param)
    wanted = dict(zip(names(spec), leaves, strict=True))
    _check(folder, tensors, {name: param.shape for name, param in wanted.items()})
    arrays = [jax.numpy.asarray(tensors[name]) for name in wanted]
    return jax.tree.unflatten(tree, arrays), found.config


def _check(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[int, ...]],
) -> None:
    for name in sorted(set(tensors) ^ set(wanted)):
        which = "is missing" if name in wanted else "belongs to no parameter"
        raise UsageError(f"{folder}: {name} {which}; the model is of another version")
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise UsageError(
                f"{folder}: {name} has shape {tensors[name].shape}, the model {shape}"
            )


def _names(params: Any) -> list[str]:
    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
