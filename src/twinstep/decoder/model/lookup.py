"""Reading rows of a table so that the gradient is the same bits every time.

The gradient of table[index] adds into rows that repeat. XLA does that with a scatter:
on a CPU one after the other, in order (a test holds the bits to a plain loop), and
faster than anything else; on a GPU with atomic additions in an order that changes from
run to run. So elsewhere than on a CPU:

    tables of at most 4,096 rows   one-hot matrix product
    larger                         sort by row, add up each run by a scan, write each
                                   row once
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

ONE_HOT_ROWS_MAX = 4096


def lookup(table: jax.Array, index: jax.Array, dtype: str = "float32") -> jax.Array:
    """Returns table[index] as `dtype`, [..., D] of table [V, D]. Every index must be in
    0 .. V - 1."""
    return jnp.asarray(_rows(table, index, dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rows(table: jax.Array, index: jax.Array, dtype: str) -> jax.Array:
    return table[index].astype(dtype)


def _forward(table: jax.Array, index: jax.Array, dtype: str):
    # An empty array carries the table's shape and type without its bytes.
    return table[index].astype(dtype), (index, table[:, :0])


def _backward(dtype: str, kept: tuple[jax.Array, jax.Array], gradient: jax.Array):
    index, empty = kept
    flat, rows = index.reshape(-1), empty.shape[0]
    gradient = gradient.reshape(flat.size, -1).astype(jnp.float32)
    elsewhere = by_one_hot if rows <= ONE_HOT_ROWS_MAX else by_sorting
    total = jax.lax.platform_dependent(
        flat,
        gradient,
        cpu=functools.partial(by_scatter, rows=rows),
        default=functools.partial(elsewhere, rows=rows),
    )
    return total.astype(empty.dtype), None


_rows.defvjp(_forward, _backward)


def by_scatter(index: jax.Array, gradient: jax.Array, rows: int) -> jax.Array:
    """Adds each gradient [N, D] into its row, in order (on a CPU)."""
    return jnp.zeros((rows, gradient.shape[1]), gradient.dtype).at[index].add(gradient)


def by_one_hot(index: jax.Array, gradient: jax.Array, rows: int) -> jax.Array:
    """The same sums as one matrix product, of [V, N] by [N, D]."""
    return jax.nn.one_hot(index, rows, dtype=gradient.dtype, axis=0) @ gradient


def by_sorting(index: jax.Array, gradient: jax.Array, rows: int) -> jax.Array:
    """The same sums by a scan over the gradients in the order of their rows."""
    order = jnp.argsort(index, stable=True)
    index, gradient = index[order], gradient[order]
    new = jnp.concatenate([jnp.ones(1, bool), index[1:] != index[:-1]])

    def join(left, right):
        (first, total), (second, more) = left, right
        return first | second, jnp.where(second[:, None], more, total + more)

    _, sums = jax.lax.associative_scan(join, (new, gradient))
    # The last of each run holds its sum; the others are sent out of range.
    last = jnp.concatenate([new[1:], jnp.ones(1, bool)])
    target = jnp.where(last, index, rows + jnp.arange(index.size))
    empty = jnp.zeros((rows, gradient.shape[1]), gradient.dtype)
    return empty.at[target].set(sums, mode="drop", unique_indices=True)


def place(pool: jax.Array, slot: jax.Array) -> jax.Array:
    """Returns [B, T, D]: pool[b, slot[b, t]] of pool [B, S, D], and 0 where slot is -1.
    No slot may occur twice in its row: then the gradient is a gather too."""
    return jnp.asarray(_placed(pool, slot))


def _taken(pool: jax.Array, slot: jax.Array) -> jax.Array:
    taken = jnp.take_along_axis(pool, jnp.maximum(slot, 0)[..., None], axis=1)
    return jnp.where((slot >= 0)[..., None], taken, 0)


@jax.custom_vjp
def _placed(pool: jax.Array, slot: jax.Array) -> jax.Array:
    return _taken(pool, slot)


def _place_forward(pool: jax.Array, slot: jax.Array):
    return _taken(pool, slot), (slot, pool[:, :, :0])


def _place_backward(kept: tuple[jax.Array, jax.Array], gradient: jax.Array):
    slot, empty = kept
    size, length = empty.shape[1], slot.shape[1]
    target = jnp.where(slot >= 0, slot, size + jnp.arange(length))
    position = jnp.full((slot.shape[0], size), -1, jnp.int32)
    position = jax.vmap(
        lambda row, at: row.at[at].set(
            jnp.arange(length, dtype=jnp.int32), mode="drop", unique_indices=True
        )
    )(position, target)
    return _taken(gradient, position).astype(empty.dtype), None


_placed.defvjp(_place_forward, _place_backward)
