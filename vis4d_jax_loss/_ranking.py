"""The integers that rank elements: first those of the value, then those of the index."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

#: The most elements that uint32 counts.
MAX_COUNT = 2**32 - 1


def ordered_codes(values: jax.Array) -> jax.Array:
    """Map numbers to unsigned integers of the same order, equal only where the numbers are."""
    if values.dtype.itemsize == 1:
        # 8-bit floats have several encodings, and 4-bit integers are stored in 8 bits: widen them.
        is_float = jnp.issubdtype(values.dtype, jnp.floating)
        values = values.astype(jnp.float32 if is_float else jnp.int32)
    if jnp.issubdtype(values.dtype, jnp.unsignedinteger):
        return values
    bits = 8 * values.dtype.itemsize
    unsigned = jnp.dtype(f"uint{bits}").type
    sign = unsigned(1 << (bits - 1))
    if jnp.issubdtype(values.dtype, jnp.integer):
        return lax.bitcast_convert_type(values, unsigned) ^ sign
    # Compare integers only: a compiled float comparison may treat subnormal numbers as 0.
    x = lax.bitcast_convert_type(values, unsigned)
    x = jnp.where(x == sign, unsigned(0), x)  # -0.0 ties with 0.0
    infinity = lax.bitcast_convert_type(jnp.asarray(jnp.inf, values.dtype), unsigned)
    nan = (x & ~sign) > infinity
    return jnp.where(nan, ~unsigned(0), jnp.where(x < sign, x | sign, ~x))


def digits(codes: jax.Array, axis_name: Any) -> list[tuple[jax.Array, int]]:
    """What ranks the elements: the value, then the lowest index; and the bits of each number.

    The index over all shards has two digits: the shard, then the place within the shard. A single
    index of a huge array would need 64 bits. No place and no shard has all of its bits set.
    """
    numbers = [(codes, 8 * codes.dtype.itemsize)]
    if axis_name is not None:
        shards = lax.psum(1, axis_name)
        shard = (shards - 1 - lax.axis_index(axis_name)).astype(jnp.uint32)
        numbers.append((shard, shards.bit_length()))
    size = max(codes.size, 1) if isinstance(codes.size, int) else MAX_COUNT
    place = np.uint32(size - 1) - _flat_index(codes.shape)
    return [*numbers, (place, size.bit_length())]


def _flat_index(shape: tuple[int, ...]) -> jax.Array:
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        length = np.uint32(size) if isinstance(size, int) else jnp.asarray(size).astype(jnp.uint32)
        index = index * length + lax.broadcasted_iota(jnp.uint32, shape, axis)
    return index
