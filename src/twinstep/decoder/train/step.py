"""One step of training as a pure function: state and batch in, the next state out.

    state = {"params": ..., "optimizer": ..., "step": int32}
    step = make_step(config, train)
    state, metrics = step(state, batch)

The state is plain nested dicts and tuples of arrays, and all that training depends on:
`step` counts the batches seen, so batch `step` is the next, and the learning rate
follows from it. A step whose loss or gradients are not finite changes nothing but
`step`, and says so in its metrics.

AdamW is Optax's; what of it is our own choice is said in settings.py. Norms, and what
else starts at ones or zeros, are not decayed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from twinstep.decoder.config import ModelConfig
from twinstep.decoder.model import decoder
from twinstep.decoder.model.segments import Packed
from twinstep.decoder.spec import walk
from twinstep.decoder.train.settings import TrainConfig
from twinstep.decoder.train.together import mean_of, mean_over_pods, only_pods

State = dict[str, Any]
Metrics = dict[str, jax.Array]
Loss = Callable[[Any, Packed], tuple[jax.Array, jax.Array]]
"""(sum of weighted nats, sum of weights) of parameters and a batch."""
Step = Callable[[State, Packed], tuple[State, Metrics]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shardings:
    """Where the parts of a step lie: trees of shardings, or one for a whole part."""

    state: Any
    batch: Any
    metrics: Any


def learning_rate(train: TrainConfig, step: jax.Array | int) -> jax.Array:
    """Returns the rate of the update that comes after `step` batches."""
    at = jnp.asarray(step, jnp.float32)
    warm = jnp.minimum(1.0, (at + 1) / max(1, train.warm_up))
    if train.schedule == "cosine":
        begins = train.warm_up
    else:
        begins = max(train.warm_up, round(train.steps * (1 - train.decay_share)))
    share = jnp.clip((at - begins) / max(1, train.steps - 1 - begins), 0.0, 1.0)
    falls = share if train.schedule == "wsd" else (1 - jnp.cos(jnp.pi * share)) / 2
    return train.learning_rate * warm * (1 - (1 - train.final_share) * falls)


def optimizer(train: TrainConfig, spec: Any) -> optax.GradientTransformation:
    """AdamW without its rate, which the step multiplies with."""
    decayed = walk(lambda param: param.init == "normal", spec)
    return optax.chain(
        optax.scale_by_adam(train.beta1, train.beta2, train.epsilon),
        optax.add_decayed_weights(train.weight_decay, decayed),
    )


def make_step(
    config: ModelConfig,
    train: TrainConfig,
    *,
    loss: Loss | None = None,
    spec: Any = None,
    shardings: Shardings | None = None,
    donate: bool = False,
    backend: str = "auto",
) -> Any:
    """Returns the compiled step(state, batch) -> (state, metrics); it is compiled when
    first called, or by .lower(state, batch).compile().

    Args:
      loss: the decoder's by default; another one for distillation, and in tests.
      donate: whether the old state's memory may become the new one's. Not where a
        session still copies the old state while the step runs.

    Metrics are scalars: loss (nats a token that is learnt), grad_norm (before
    clipping), tokens (positions that are no padding), lr, and finite."""
    spec = decoder.decoder_spec(config) if spec is None else spec
    nats = loss or partial(_decoder_loss, config=config, backend=backend)
    adam = optimizer(train, spec)

    if shardings is not None and only_pods(shardings.metrics):
        mean = mean_over_pods(nats, shardings.batch)
    else:
        mean = mean_of(nats)

    def step(state: State, batch: Packed) -> tuple[State, Metrics]:
        params = state["params"]
        value, gradients = mean(params, batch)
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        shrink = jnp.minimum(1.0, train.clip / jnp.maximum(norm, 1e-12))
        gradients = jax.tree.map(lambda g: g * shrink.astype(g.dtype), gradients)
        updates, moments = adam.update(gradients, state["optimizer"], params)
        rate = learning_rate(train, state["step"])
        moved = jax.tree.map(lambda p, u: p - rate.astype(p.dtype) * u, params, updates)
        old = (params, state["optimizer"])
        new = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (moved, moments), old
        )
        metrics = {
            "loss": value,
            "grad_norm": norm,
            "tokens": jnp.sum(batch.segment > 0),
            "lr": rate,
            "finite": finite,
        }
        return {
            "params": new[0],
            "optimizer": new[1],
            "step": state["step"] + 1,
        }, metrics

    donated = ("state",) if donate else ()
    if shardings is None:
        return jax.jit(step, donate_argnames=donated)
    return jax.jit(
        step,
        donate_argnames=donated,
        in_shardings=(shardings.state, shardings.batch),
        out_shardings=(shardings.state, shardings.metrics),
    )


def _decoder_loss(
    params: Any, batch: Packed, *, config: ModelConfig, backend: str
) -> tuple[jax.Array, jax.Array]:
    return decoder.loss(params, batch, config, backend=backend)
