"""Sums and counts over the shards of a mesh axis."""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jax import lax

from vis4d_jax_loss._numerics import count_true

#: Name of a mesh axis of ``shard_map``, or a tuple of names.
AxisName = Hashable | tuple[Hashable, ...]


def psum_over(x: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """Add over the shards of a mesh axis; without an axis, return ``x``."""
    return x if axis_name is None else lax.psum(x, axis_name)


def count_elements(mask: jax.Array, axis_name: AxisName | None = None) -> jax.Array:
    """Count the True elements over all shards, as uint32: exact up to ``2**32 - 1``."""
    # A count that is too large for int32 wraps to a negative number, and this cast undoes that.
    return psum_over(count_true(mask).astype(jnp.uint32), axis_name)
