"""A run that starts from a checkpoint which Orbax has written.

Orbax reads it itself, into the shardings that the live state has. The folder may be
that of PyTreeCheckpointer or StandardCheckpointer, or a step's of CheckpointManager,
where the state lies one folder deeper. A step that twinstep has stored in Orbax's form
is such a checkpoint, too. Every leaf of the live state must be there, with its shape;
what else the checkpoint has is left alone.
"""

# Orbax and jax leave the types of trees open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from twinstep.errors import StateError

NAMES_SHOWN = 8
DEEPER = ("default", "state", "params")
"""Where CheckpointManager and its users put the state within a step's folder."""
TREE = "_METADATA"


def start_from(
    like_state: Mapping[str, Any], path: str, options: dict[str, str]
) -> dict[str, Any]:
    """Returns the checkpoint's state, shaped, typed and sharded as `like_state` is.

    Args:
      like_state: trees by the names that the Session was given. Where it is only one,
        the checkpoint may be of that tree itself.
      path: a folder, or an address that TensorStore knows (gs://, s3://).
      options: are fsspec's; Orbax does not take any.

    Raises: StateError naming what does not fit, or that Orbax is not installed; OSError
    when the checkpoint cannot be read."""
    ocp = _orbax()
    if options and "://" in path:
        warnings.warn(
            f"storage.options ({', '.join(sorted(options))}) are not used to read "
            f"{path}: Orbax takes what the environment says",
            stacklevel=2,
        )
    folder = _folder(path)
    checkpointer = ocp.PyTreeCheckpointer()
    try:
        there = checkpointer.metadata(folder).item_metadata.tree
    except (KeyError, ValueError, AttributeError) as error:
        raise StateError(
            f"{folder} is no checkpoint that Orbax can read as a tree: {error}"
        ) from error
    names = list(like_state)
    inner = len(names) == 1 and names[0] not in there
    live = like_state[names[0]] if inner else dict(like_state)
    target = jax.tree.map(_plain_key, live)
    _check(target, there, folder)
    args = ocp.args.PyTreeRestore(
        item=target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
    )
    found = checkpointer.restore(folder, args=args)
    state = jax.tree.map(_as_live, live, found)
    return {names[0]: state} if inner else state


def _orbax() -> Any:
    try:
        return importlib.import_module("orbax.checkpoint")
    except ImportError as error:
        raise StateError(
            "storage.start names a checkpoint of Orbax, which is not installed: pip "
            "install 'twinstep[orbax]'"
        ) from error


def _folder(path: str) -> Any:
    """Returns the folder with the tree, which may be one below."""
    epath: Any = importlib.import_module("etils.epath")  # Orbax brings it
    root = epath.Path(path if "://" in path else path.removeprefix("file://"))
    if not root.exists():
        raise StateError(f"storage.start is {path}, which does not exist")
    for folder in (root, *(root / name for name in DEEPER)):
        if (folder / TREE).exists():
            return folder.resolve() if "://" not in path else folder
    deeper = ", ".join(DEEPER)
    raise StateError(
        f"storage.start is {path}, which has no {TREE}, nor has a folder in it "
        f"({deeper}): name the folder of one checkpoint that Orbax has written"
    )


def _check(target: Any, there: Any, folder: Any) -> None:
    """Raises: StateError unless each leaf of `target` is there with its shape."""
    wanted, found = _leaves(target), _leaves(there)
    missing = [name for name in wanted if name not in found]
    if missing:
        has = ", ".join(list(found)[:NAMES_SHOWN])
        raise StateError(
            f"the checkpoint {folder} has no {', '.join(missing[:NAMES_SHOWN])}"
            f"{_more(missing)}; it has: {has}{_more(list(found))}. Pass the state to "
            "twinstep.Session as it was saved"
        )
    cast: list[str] = []
    for name, leaf in wanted.items():
        if not hasattr(leaf, "shape"):
            continue
        stored = found[name]
        shape = tuple(getattr(stored, "shape", None) or ())
        if shape != tuple(leaf.shape):
            raise StateError(
                f"the checkpoint {folder} has {name} of shape {shape}, the live state "
                f"of {tuple(leaf.shape)}; start from one of the same model"
            )
        if getattr(stored, "dtype", leaf.dtype) != leaf.dtype:
            cast.append(f"{name} ({stored.dtype} to {leaf.dtype})")
    if cast:
        some = ", ".join(cast[:NAMES_SHOWN])
        warnings.warn(
            f"the checkpoint {folder} has other dtypes, which are cast: "
            f"{some}{_more(cast)}",
            stacklevel=3,
        )


def _more(names: list[str]) -> str:
    return f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""


def _leaves(tree: Any) -> dict[str, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in flat
    }


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _plain_key(leaf: Any) -> Any:
    """A key of random numbers is stored as the numbers in it; of other arrays only
    shape, dtype and sharding are told, so that nothing of them is read."""
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return leaf


def _as_live(live: Any, found: Any) -> Any:
    if _is_key(live):
        return jax.random.wrap_key_data(found, impl=jax.random.key_impl(live))
    return found
