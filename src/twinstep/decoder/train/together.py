"""Gradients of all pods' rows, with one sum over the pods.

Left to the partitioner, each parameter's gradient is summed by itself: 65 small sums a
step for `tiny`, each of which waits for the slowest rank. On two busy cores these waits
took as long as the computing. Here a pod computes the gradients of its own rows, puts
them side by side, and all pods add up one vector. Only for states that are whole in
every pod and not split within one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from twinstep.decoder.model.segments import Packed

Nats = Callable[[Any, Packed], tuple[jax.Array, jax.Array]]
Gradients = Callable[[Any, Packed], tuple[jax.Array, Any]]
POD = "pod"


def mean_of(nats: Nats) -> Gradients:
    """Returns what computes the mean of `nats` (sum, weight) and its gradients."""

    def mean(params: Any, batch: Packed) -> jax.Array:
        total, weight = nats(params, batch)
        return total / jnp.maximum(weight, 1.0)

    return jax.value_and_grad(mean)


def only_pods(where: Sharding) -> bool:
    """Whether it is a mesh of more than one pod, of which each is one device."""
    if not isinstance(where, NamedSharding):
        return False
    sizes = dict(where.mesh.shape)
    return sizes.pop(POD, 1) > 1 and all(size == 1 for size in sizes.values())


def mean_over_pods(nats: Nats, batch: Any) -> Gradients:
    """Returns what computes the mean and its gradients over the rows of all pods.
    `batch` is the tree of the batch's shardings."""
    specs = jax.tree.map(lambda where: where.spec, batch)
    mesh = jax.tree.leaves(batch)[0].mesh

    def pod(params: Any, rows: Packed) -> tuple[jax.Array, Any]:
        def total(params: Any) -> tuple[jax.Array, jax.Array]:
            return nats(params, rows)

        (nat, weight), gradients = jax.value_and_grad(total, has_aux=True)(params)
        flat, apart = ravel_pytree((nat, weight, gradients))
        nat, weight, gradients = apart(jax.lax.psum(flat, POD))
        weight = jnp.maximum(weight, 1.0)
        return nat / weight, jax.tree.map(lambda g: g / weight, gradients)

    whole = PartitionSpec()
    return jax.shard_map(
        pod,
        mesh=mesh,
        in_specs=(whole, specs),
        out_specs=(whole, whole),
        check_vma=False,  # else the gradients of what is whole are summed one by one
    )
