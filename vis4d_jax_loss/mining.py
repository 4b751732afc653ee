"""Mining: which elements count, as exact boolean masks with a traced number of them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _checks, _numerics
from vis4d_jax_loss._numerics import cover
from vis4d_jax_loss.reducer import AxisName, across

_INT32_MAX = 2**31 - 1


def top_k_mask(
    values: ArrayLike,
    k: ArrayLike,
    where: ArrayLike | None = None,
    *,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Mark exactly the ``k`` largest elements, ties going to the lowest flat index.

    Finds the k-th largest value by bisecting on the integers that order like the floats, one
    compare-and-count pass a bit, and settles ties the same way on the index: no sort, no gather
    and no dynamic shape, so ``k`` may be traced and the array sharded in any way, at the price of
    a scalar sum a pass. The mask is a constant to differentiation.

    Args:
        values: Any shape, any floating or integer dtype. NaN counts as the largest, -0.0 as 0.0.
        k: Integer scalar, Python's or traced. Of fewer candidates all are marked; below 0, none.
        where: True for candidates, covering the leading axes of ``values``; the others are never
            marked and may hold anything.
        axis_name: Mesh axis (or axes) of a ``shard_map`` whose shards, stacked along their leading
            axis, are one array: ``k`` is then counted over all of them.

    Returns:
        Boolean mask of the shape of ``values`` with ``min(k, candidates)`` times True.

    Raises:
        TypeError: If ``values`` is neither floating nor integer, ``k`` not an integer scalar, or
            ``where`` not boolean.
        ValueError: If ``where`` does not cover the leading axes of ``values``.

    Example:
        >>> print(top_k_mask(jnp.array([1.0, 3.0, 3.0, 3.0, 2.0]), 2))
        [False  True  True False False]
    """
    values = jnp.asarray(values)
    where = jnp.asarray(True if where is None else where)
    k = jnp.asarray(min(k, _INT32_MAX) if isinstance(k, int) else k)
    _checks.check_real("top_k_mask", values=values)
    _checks.check_count("top_k_mask", k)
    _checks.check_where("top_k_mask", where, values.shape)

    keys = _ordered(values)
    where = cover(where, values.shape) & (keys == keys)  # all True, on the mesh of the values
    # Keys are at least 0, and thresholds in the search at least 1: other elements never count.
    keys = jnp.where(where, keys, 0)

    def count(mask: jax.Array) -> jax.Array:
        return across(_numerics.count(mask), axis_name)

    candidates = count(where)
    k = jnp.clip(k, 0, candidates).astype(jnp.int32)
    threshold, reached = _kth_largest(keys, k, candidates, count)

    def with_ties() -> jax.Array:
        above = keys > threshold
        level = where & (keys == threshold)
        return above | _first(level, k - count(above), count, axis_name)

    def without_ties() -> jax.Array:
        return where & (keys >= threshold)

    return lax.cond(reached == k, without_ties, with_ties)


def random_k_mask(
    key: jax.Array, k: ArrayLike, where: ArrayLike, *, axis_name: AxisName | None = None
) -> jax.Array:
    """Mark exactly ``k`` elements chosen at random, each choice equally likely.

    Args:
        key: A ``jax.random`` key.
        k: Integer scalar, Python's or traced. Of fewer candidates all are marked; below 0, none.
        where: Boolean mask of the candidates, of any shape.
        axis_name: Mesh axis (or axes) of a ``shard_map``: ``k`` is then counted over all shards.
            Give every shard the same key; each draws numbers of its own from it.

    Returns:
        Boolean mask of the shape of ``where`` with ``min(k, candidates)`` times True.

    Raises:
        TypeError: If ``where`` is not boolean or ``k`` not an integer scalar.

    Example:
        >>> where = jnp.array([True, False, True, True])
        >>> mask = random_k_mask(jax.random.key(0), 2, where)
        >>> print(mask.sum(), (mask & ~where).any())
        2 False
    """
    where = jnp.asarray(where)
    if axis_name is not None:
        key = jax.random.fold_in(key, lax.axis_index(axis_name))
    draws = jax.random.bits(key, where.shape, jnp.uint32)
    return top_k_mask(draws, k, where, axis_name=axis_name)


def _ordered(values: jax.Array) -> jax.Array:
    """Map numbers to unsigned integers of the same order, equal only where the numbers are."""
    if values.dtype.itemsize == 1:  # 8-bit floats do not share one encoding; integers may be 4-bit
        is_float = jnp.issubdtype(values.dtype, jnp.floating)
        values = values.astype(jnp.float32 if is_float else jnp.int32)
    if jnp.issubdtype(values.dtype, jnp.unsignedinteger):
        return values
    bits = 8 * values.dtype.itemsize
    unsigned = jnp.dtype(f"uint{bits}").type
    sign = unsigned(1 << (bits - 1))
    if jnp.issubdtype(values.dtype, jnp.integer):
        return lax.bitcast_convert_type(values, unsigned) ^ sign
    # All on integers: a compiled float comparison may take subnormal numbers for 0.
    x = lax.bitcast_convert_type(values, unsigned)
    x = jnp.where(x == sign, unsigned(0), x)
    infinity = lax.bitcast_convert_type(jnp.asarray(jnp.inf, values.dtype), unsigned)
    nan = (x & ~sign) > infinity
    return jnp.where(nan, ~unsigned(0), jnp.where(x < sign, x | sign, ~x))


def _kth_largest(keys: jax.Array, k: jax.Array, candidates: jax.Array, count) -> tuple:
    """Find the largest threshold that at least k keys reach, and how many reach it.

    Stops early at any threshold that exactly k keys reach.
    """
    one = keys.dtype.type(1)

    def searching(state):
        bit, _, reached = state
        return (bit > 0) & (reached != k)

    def halve(state):
        bit, threshold, reached = state
        higher = threshold | bit
        reached_higher = count(keys >= higher)
        enough = reached_higher >= k
        threshold = jnp.where(enough, higher, threshold)
        return bit >> one, threshold, jnp.where(enough, reached_higher, reached)

    zero = _zero_like(candidates, keys.dtype)
    top = zero + keys.dtype.type(1 << (8 * keys.dtype.itemsize - 1))
    _, threshold, reached = lax.while_loop(searching, halve, (top, zero, candidates))
    return threshold, reached


def _first(level: jax.Array, k: jax.Array, count, axis_name: AxisName | None) -> jax.Array:
    """Mark the first k of the True elements, in the order of the flat index."""
    # Two digits, shard and place within it, so that the index of a huge array needs no 64 bits.
    place = _flat_index(level.shape)
    digits = [place]
    if axis_name is not None:
        digits.insert(0, jnp.full(level.shape, lax.axis_index(axis_name), jnp.uint32))
    marked = jnp.full(level.shape, False)
    for digit in digits:
        bits = 32 if digit is not place else max(level.size.bit_length(), 1)
        limit = _limit(level, digit, k, count, bits)
        before = level & (digit < limit)
        marked, k, level = marked | before, k - count(before), level & (digit == limit)
    return marked


def _limit(level: jax.Array, digit: jax.Array, k: jax.Array, count, bits: int) -> jax.Array:
    """Find the largest limit below which at most k of the True elements have their digit."""

    def grow(i, limit):
        higher = limit | (jnp.uint32(1) << (bits - 1 - i).astype(jnp.uint32))
        return jnp.where(count(level & (digit < higher)) <= k, higher, limit)

    return lax.fori_loop(0, bits, grow, _zero_like(k, jnp.uint32))


def _zero_like(scalar: jax.Array, dtype: Any) -> jax.Array:
    """Start a loop from zero on the mesh of a scalar: a plain constant has none.

    JAX refuses to batch a loop over an explicitly sharded axis if its state begins without a mesh.
    """
    return (scalar * 0).astype(dtype)


def _flat_index(shape: tuple[int, ...]) -> jax.Array:
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        index = index * jnp.uint32(size) + lax.broadcasted_iota(jnp.uint32, shape, axis)
    return index
