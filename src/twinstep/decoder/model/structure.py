"""Who attends to whom, as three vectors: the only mask there is in this model.

A query at i attends to a key at j if both are of one segment, j's block is not after
i's, and, in a local layer, j lies at most `window` - 1 positions back:

                     keys:  BOS  a  <im> <im>  b        block   0 1 2 2 3
    query BOS                x
    query a                  x   x
    query <im>               x   x   x    x             both directions in a medium
    query <im>               x   x   x    x
    query b                  x   x   x    x    x

Segment 0 is padding: it attends to nothing, nothing attends to it, and its result is 0
in every backend. That is what keeps padding out of every number.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from twinstep.decoder.model.segments import Packed

HIDDEN = -1e30
"""Score of a pair that is not allowed. Not infinity: padding has only these."""


class Structure(NamedTuple):
    """int32[B, T] each; see model/segments.py."""

    segment: jax.Array
    block: jax.Array
    position: jax.Array


def structure_of(batch: Packed) -> Structure:
    """Returns what the batch says of its positions."""
    return Structure(
        jnp.asarray(batch.segment),
        jnp.asarray(batch.block),
        jnp.asarray(batch.position),
    )


def allowed(queries: Structure, keys: Structure, window: int | None) -> jax.Array:
    """Returns bool[B, T, S]: whether query t attends to key s. `window` None: to all
    of its past."""
    segment, block, position = (part[..., :, None] for part in queries)
    key_segment, key_block, key_position = (part[..., None, :] for part in keys)
    seen = (segment == key_segment) & (segment > 0) & (key_block <= block)
    if window is not None:
        seen &= position - key_position < window
    return seen
