"""Mining: masks of exactly k elements, where k may be traced."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import check_mask, check_numeric, fail
from vis4d_jax_loss._numerics import count_true, expand_mask
from vis4d_jax_loss.reducer import AxisName, psum_over

_INT32_MAX = 2**31 - 1

Count = Callable[[jax.Array], jax.Array]  # counts a mask, over all shards


def top_k_mask(
    values: ArrayLike,
    k: ArrayLike,
    where: ArrayLike | None = None,
    *,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Mark exactly the ``k`` largest elements; ties go to the lowest flat index.

    The function finds the k-th largest value by bisection. It maps the values to integers of the
    same order, and settles one bit of the threshold per pass by comparing and counting. Ties are
    settled in the same way on the index. There is no sort, no gather and no dynamic shape: ``k``
    may be traced, and the array may be sharded in any way, as each pass sends only one scalar
    between devices. The mask is constant under differentiation.

    Args:
        values: Any shape, any numeric dtype. NaN counts as the largest value, -0.0 as 0.0.
        k: Integer scalar, a Python number or traced. If there are fewer candidates, all of them are
            marked; if it is negative, none.
        where: Mask of candidates over the leading axes of ``values``. Other elements are never
            marked and may contain anything, NaN included.
        axis_name: Mesh axis (or axes) of a ``shard_map``. Its shards, stacked along their leading
            axis, are one array, and ``k`` counts elements of all shards.

    Returns:
        Boolean mask of the shape of ``values`` with ``min(k, candidates)`` True elements.

    Raises:
        TypeError: If ``values`` is not numeric, ``k`` is not an integer scalar, or ``where`` is not
            boolean.
        ValueError: If ``where`` does not cover the leading axes of ``values``.

    Example:
        >>> print(top_k_mask(jnp.array([1.0, 3.0, 3.0, 3.0, 2.0]), 2))
        [False  True  True False False]
    """
    values = jnp.asarray(values)
    k = jnp.asarray(min(k, _INT32_MAX) if isinstance(k, int) else k)
    check_numeric("top_k_mask", values=values)
    _check_k("top_k_mask", k)
    mask = check_mask("top_k_mask", where, values.shape)

    codes = _ordered_codes(values)
    # ``codes == codes`` is always True; it gives the mask the sharding of the values.
    candidate = expand_mask(True if mask is None else mask, values.shape) & (codes == codes)
    # Codes are at least 0, and the search tries thresholds of at least 1: no other element counts.
    codes = jnp.where(candidate, codes, 0)

    def count(mask: jax.Array) -> jax.Array:
        return psum_over(count_true(mask), axis_name)

    num_candidates = count(candidate)
    k = jnp.clip(k, 0, num_candidates).astype(jnp.int32)
    threshold, reached = _kth_largest(codes, k, num_candidates, count)

    def with_ties() -> jax.Array:
        above = codes > threshold
        tied = candidate & (codes == threshold)
        return above | _first_true(tied, k - count(above), count, axis_name)

    def without_ties() -> jax.Array:
        return candidate & (codes >= threshold)

    return lax.cond(reached == k, without_ties, with_ties)


def random_k_mask(
    key: jax.Array, k: ArrayLike, where: ArrayLike, *, axis_name: AxisName | None = None
) -> jax.Array:
    """Mark exactly ``k`` elements at random; all choices are equally likely.

    Args:
        key: A ``jax.random`` key.
        k: Integer scalar, a Python number or traced. If there are fewer candidates, all of them are
            marked; if it is negative, none.
        where: Mask of candidates, of any shape.
        axis_name: Mesh axis (or axes) of a ``shard_map``: ``k`` counts elements of all shards. Give
            every shard the same key; each shard draws different numbers from it.

    Returns:
        Boolean mask of the shape of ``where`` with ``min(k, candidates)`` True elements.

    Raises:
        TypeError: If ``where`` is not boolean or ``k`` is not an integer scalar.

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


def _check_k(function: str, k: jax.Array) -> None:
    if not jnp.issubdtype(k.dtype, jnp.integer) or k.ndim:
        rule = "k must be an integer scalar"
        fail(TypeError, function, rule, f"k {k.dtype} {k.shape}", "It may be traced.")


def _ordered_codes(values: jax.Array) -> jax.Array:
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


def _kth_largest(
    codes: jax.Array, k: jax.Array, candidates: jax.Array, count: Count
) -> tuple[jax.Array, jax.Array]:
    """Find the largest threshold that at least k codes reach, and how many codes reach it.

    The search stops early at any threshold that exactly k codes reach.
    """
    one = codes.dtype.type(1)

    def searching(state):
        bit, _, reached = state
        return (bit > 0) & (reached != k)

    def halve(state):
        bit, threshold, reached = state
        higher = threshold | bit
        reached_higher = count(codes >= higher)
        enough = reached_higher >= k
        threshold = jnp.where(enough, higher, threshold)
        return bit >> one, threshold, jnp.where(enough, reached_higher, reached)

    zero = _zero_like(candidates, codes.dtype)
    top_bit = zero + codes.dtype.type(1 << (8 * codes.dtype.itemsize - 1))
    _, threshold, reached = lax.while_loop(searching, halve, (top_bit, zero, candidates))
    return threshold, reached


def _first_true(
    mask: jax.Array, k: jax.Array, count: Count, axis_name: AxisName | None
) -> jax.Array:
    """Mark the first k of the True elements, in the order of the flat index."""
    # The index over all shards has two digits: the shard, then the place within the shard. A single
    # index of a huge array would need 64 bits.
    place = _flat_index(mask.shape)
    digits = [place]
    if axis_name is not None:
        digits.insert(0, jnp.full(mask.shape, lax.axis_index(axis_name), jnp.uint32))
    marked = jnp.full(mask.shape, False)
    for digit in digits:
        bits = 32 if digit is not place else max(mask.size.bit_length(), 1)
        limit = _largest_limit(mask, digit, k, count, bits)
        before = mask & (digit < limit)
        marked, k, mask = marked | before, k - count(before), mask & (digit == limit)
    return marked


def _largest_limit(
    mask: jax.Array, digit: jax.Array, k: jax.Array, count: Count, bits: int
) -> jax.Array:
    """Find the largest limit such that at most k of the True elements have a smaller digit."""

    def grow(i, limit):
        higher = limit | (jnp.uint32(1) << (bits - 1 - i).astype(jnp.uint32))
        return jnp.where(count(mask & (digit < higher)) <= k, higher, limit)

    return lax.fori_loop(0, bits, grow, _zero_like(k, jnp.uint32))


def _zero_like(scalar: jax.Array, dtype: Any) -> jax.Array:
    """Zero on the mesh of a scalar, as the first state of a loop.

    A plain constant has no mesh, and JAX refuses to batch a loop over an explicitly sharded axis if
    its first state has none.
    """
    return (scalar * 0).astype(dtype)


def _flat_index(shape: tuple[int, ...]) -> jax.Array:
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        index = index * jnp.uint32(size) + lax.broadcasted_iota(jnp.uint32, shape, axis)
    return index
