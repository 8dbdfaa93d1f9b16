"""The state before the first step, drawn by NumPy.

The same numbers on every kind of device and with any version of XLA, and nothing is
compiled for them: drawing with JAX takes ten seconds of compiling for sixty shapes.
Each parameter's numbers follow from the seed and its name. A model that no host holds
is made by spec.init under jit instead, where each device makes its part.
"""

from __future__ import annotations

import zlib
from typing import Any

import jax
import numpy as np

from twinstep.decoder.config import ModelConfig
from twinstep.decoder.model.decoder import decoder_spec
from twinstep.decoder.spec import Param, is_param, names
from twinstep.decoder.train.settings import TrainConfig
from twinstep.decoder.train.step import State, optimizer


def initial_state(
    config: ModelConfig,
    train: TrainConfig,
    seed: int | None = None,
    *,
    spec: Any = None,
    where: Any = None,
) -> State:
    """Returns the state before the first step.

    Args:
      seed: that of `train` by default.
      spec: the decoder's by default.
      where: a state of shardings; without, everything is on the first device."""
    spec = decoder_spec(config) if spec is None else spec
    params = drawn(spec, train.seed if seed is None else seed)
    begin = optimizer(train, spec).init
    step = np.zeros((), np.int32)
    if where is None:
        params = jax.device_put(params)
        made = jax.jit(begin)(params)
        return {"params": params, "optimizer": made, "step": jax.device_put(step)}
    params = jax.tree.map(_placed, params, where["params"])
    made = jax.jit(begin, out_shardings=where["optimizer"])(params)
    return {
        "params": params,
        "optimizer": made,
        "step": _placed(step, where["step"]),
    }


def shapes(config: ModelConfig, train: TrainConfig, *, spec: Any = None) -> State:
    """Returns the state's shapes and dtypes; nothing is drawn."""
    spec = decoder_spec(config) if spec is None else spec
    params = jax.tree.map(_shape, spec, is_leaf=is_param)
    return {
        "params": params,
        "optimizer": jax.eval_shape(optimizer(train, spec).init, params),
        "step": jax.ShapeDtypeStruct((), np.int32),
    }


def drawn(spec: Any, seed: int) -> Any:
    """Returns the tree of initial parameters, as NumPy's arrays."""
    leaves, tree = jax.tree.flatten(spec, is_leaf=is_param)
    arrays = [
        _drawn(param, np.random.default_rng([seed, zlib.crc32(name.encode())]))
        for name, param in zip(names(spec), leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, arrays)


def _drawn(param: Param, random: np.random.Generator) -> np.ndarray:
    dtype = jax.numpy.dtype(param.dtype)
    if param.init != "normal":
        return np.full(param.shape, param.init == "ones", dtype)
    scale = param.scale if param.scale is not None else param.shape[0] ** -0.5
    return (scale * random.standard_normal(param.shape, np.float32)).astype(dtype)


def _placed(array: np.ndarray, where: Any) -> jax.Array:
    """The array over the devices of all processes, each of which has it whole."""
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index])


def _shape(param: Param) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(param.shape, jax.numpy.dtype(param.dtype))
