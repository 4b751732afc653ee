"""Mining: masks of the k largest or of k random elements, where k may be traced."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import check_mask, check_numeric, fail
from vis4d_jax_loss._numerics import count_true, expand_mask
from vis4d_jax_loss.reducer import AxisName, psum_over

_MAX_COUNT = 2**32 - 1


def top_k_mask(
    values: ArrayLike,
    k: ArrayLike,
    where: ArrayLike | None = None,
    *,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Mark the ``k`` largest elements. Among equal elements, the lowest flat index wins.

    The function maps the values to integers that sort in the same way. Then it finds the threshold
    bit by bit: each pass counts the values above a candidate. A second search, over the index,
    breaks ties. There is no sort, no gather and no dynamic shape: ``k`` may be traced, and the
    array may be sharded in any way, since a pass sends only one scalar between devices. No gradient
    flows through the mask.

    Args:
        values: Any shape, any numeric dtype. NaN counts as the largest value, -0.0 as 0.0.
        k: Integer scalar of any dtype, a number or traced. If there are fewer candidates, all of
            them are marked; if it is negative, none.
        where: Mask of candidates over the leading axes of ``values``. Other elements are never
            marked and may contain anything, NaN included.
        axis_name: Mesh axis (or axes) of a ``shard_map``. The shards are treated as one array,
            stacked along the leading axis, and ``k`` is the total over all shards.

    Returns:
        Boolean mask of the shape of ``values`` with ``min(k, candidates)`` True elements.

    Raises:
        TypeError: If ``values`` is not numeric, ``k`` is not an integer scalar, or ``where`` is not
            boolean.
        ValueError: If ``where`` does not cover the leading axes of ``values``, if all shards
            together have more than ``2**32 - 1`` elements, or if ``k`` differs between the shards
            of ``axis_name``.

    Example:
        >>> print(top_k_mask(jnp.array([1.0, 3.0, 3.0, 3.0, 2.0]), 2))
        [False  True  True False False]
    """
    return _checked_mask("top_k_mask", jnp.asarray(values), k, where, axis_name)


def random_k_mask(
    key: jax.Array, k: ArrayLike, where: ArrayLike, *, axis_name: AxisName | None = None
) -> jax.Array:
    """Mark exactly ``k`` elements at random.

    Every element draws 32 random bits, and the ``k`` largest numbers are marked. All choices are
    equally likely, except that equal numbers go to the lowest index: two given elements draw the
    same number once in ``2**32`` times.

    Args:
        key: A ``jax.random`` key.
        k: Integer scalar of any dtype, a number or traced. If there are fewer candidates, all of
            them are marked; if it is negative, none.
        where: Mask of candidates, of any shape.
        axis_name: Mesh axis (or axes) of a ``shard_map``: ``k`` counts elements of all shards. Give
            every shard the same key; each shard draws different numbers from it.

    Returns:
        Boolean mask of the shape of ``where`` with ``min(k, candidates)`` True elements.

    Raises:
        TypeError: If ``where`` is not boolean or ``k`` is not an integer scalar.
        ValueError: If all shards together have more than ``2**32 - 1`` elements, or if ``k``
            differs between the shards of ``axis_name``.

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
    return _checked_mask("random_k_mask", draws, k, where, axis_name)


def count_elements(mask: jax.Array, axis_name: AxisName | None = None) -> jax.Array:
    """Count the True elements over all shards, as uint32: exact up to ``2**32 - 1``."""
    # A count that is too large for int32 wraps to a negative number, and this cast undoes that.
    return psum_over(count_true(mask).astype(jnp.uint32), axis_name)


def _checked_mask(
    function: str,
    values: jax.Array,
    k: ArrayLike,
    where: ArrayLike | None,
    axis_name: AxisName | None,
) -> jax.Array:
    check_numeric(function, values=values)
    mask = check_mask(function, where, values.shape)
    if isinstance(axis_name, list):
        axis_name = tuple(axis_name)
    _check_size(function, values, axis_name)
    k = _read_k(function, k)
    return _largest_mask(function, lax.stop_gradient(values), k, mask, axis_name)


def _check_size(function: str, values: jax.Array, axis_name: AxisName | None) -> None:
    if not isinstance(values.size, int):
        return  # Under jax.export, sizes may be symbols.
    size = values.size if axis_name is None else values.size * lax.psum(1, axis_name)
    if size > _MAX_COUNT:
        rule = "there can be at most 2**32 - 1 elements to choose from"
        remedy = "Choose from parts of the array, e.g. with jax.vmap."
        fail(ValueError, function, rule, f"{size} elements", remedy)


def _read_k(function: str, k: Any) -> jax.Array:
    """A number of any size, or an integer scalar of any dtype, as uint32."""
    if isinstance(k, np.ndarray) and k.ndim == 0:
        k = k[()]
    if isinstance(k, int | np.integer) and not isinstance(k, bool):
        k = np.uint32(min(max(int(k), 0), _MAX_COUNT))
    k = jnp.asarray(k)
    if not jnp.issubdtype(k.dtype, jnp.integer) or k.ndim:
        rule = "k must be an integer scalar"
        fail(TypeError, function, rule, f"k {k.dtype} {k.shape}", "It may be traced.")
    k = jnp.maximum(k, 0)
    return (jnp.minimum(k, _MAX_COUNT) if k.dtype.itemsize > 4 else k).astype(jnp.uint32)


# Under jit, an eager call compiles the loops once, and not at every call.
@partial(jax.jit, static_argnames=("function", "axis_name"), inline=True)
def _largest_mask(
    function: str, values: jax.Array, k: jax.Array, mask: jax.Array | None, axis_name: Any
) -> jax.Array:
    codes = _ordered_codes(values)
    # ``codes == codes`` is always True; it gives the mask the sharding of the values.
    tied = expand_mask(True if mask is None else mask, values.shape) & (codes == codes)
    marked = tied & False
    # The loops start from this count. It must vary over the devices that k varies over.
    num_tied = psum_over(count_elements(tied) + _zero_like(k, k.dtype), axis_name)
    k = jnp.minimum(k, num_tied)
    if axis_name is not None and jax.typeof(k) != jax.typeof(num_tied):
        # The loops would end at different passes on different shards, and wait forever.
        rule = "k must be the same on all shards of axis_name"
        remedy = "Add the counts of the shards with jax.lax.psum."
        fail(ValueError, function, rule, f"k {jax.typeof(k)}", remedy)
    for digit, bits in _digits(codes, axis_name):
        # The search tries thresholds of at least 1, so that 0 is never counted.
        digit = jnp.where(tied, digit, 0)
        threshold, k, num_tied = _kth_largest(digit, bits, k, num_tied, axis_name)
        marked, tied = marked | (digit > threshold), tied & (digit == threshold)
    return marked | tied


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


def _digits(codes: jax.Array, axis_name: Any) -> list[tuple[jax.Array, int]]:
    """What ranks the elements: the value, then the lowest index; and the bits of each number.

    The index over all shards has two digits: the shard, then the place within the shard. A single
    index of a huge array would need 64 bits.
    """
    digits = [(codes, 8 * codes.dtype.itemsize)]
    if axis_name is not None:
        shards = lax.psum(1, axis_name)
        shard = (shards - 1 - lax.axis_index(axis_name)).astype(jnp.uint32)
        digits.append((shard, shards.bit_length()))
    size = max(codes.size, 1) if isinstance(codes.size, int) else _MAX_COUNT
    place = np.uint32(size - 1) - _flat_index(codes.shape)
    return [*digits, (place, size.bit_length())]


def _kth_largest(
    digit: jax.Array, bits: int, k: jax.Array, reached: jax.Array, axis_name: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Find the largest threshold that at least k elements reach, starting from 0.

    The search stops early at any threshold that exactly k elements reach. Also returns how many of
    the k elements are equal to the threshold, and how many elements are. After an early stop these
    two numbers are only known to be the same.
    """
    one = digit.dtype.type(1)

    def searching(state):
        bit, _, reached, _ = state
        return (bit > 0) & (reached != k)

    def halve(state):
        bit, threshold, reached, above = state
        higher = threshold | bit
        reached_higher = count_elements(digit >= higher, axis_name)
        enough = reached_higher >= k
        threshold = jnp.where(enough, higher, threshold)
        reached = jnp.where(enough, reached_higher, reached)
        return bit >> one, threshold, reached, jnp.where(enough, above, reached_higher)

    zero, above = _zero_like(reached, digit.dtype), _zero_like(reached, k.dtype)
    start = (zero + (one << (bits - 1)), zero, reached, above)
    _, threshold, reached, above = lax.while_loop(searching, halve, start)
    return threshold, k - above, reached - above


def _zero_like(scalar: jax.Array, dtype: Any) -> jax.Array:
    """Zero on the mesh of a scalar, as the first state of a loop.

    A plain constant has no mesh, and JAX refuses to batch a loop over an explicitly sharded axis if
    its first state has none. Nor does a constant vary over the devices of a ``shard_map``.
    """
    return (scalar * 0).astype(dtype)


def _flat_index(shape: tuple[int, ...]) -> jax.Array:
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        length = np.uint32(size) if isinstance(size, int) else jnp.asarray(size).astype(jnp.uint32)
        index = index * length + lax.broadcasted_iota(jnp.uint32, shape, axis)
    return index
