"""The mask of the k largest elements, with one search for a CPU and one for GPU and TPU.

Both searches find the largest threshold that at least k elements reach, from the highest bit down,
by comparing and counting. There is no sort, no gather and no dynamic shape, and devices send only
counts to each other. There are two searches because different things are expensive:

- On a CPU, comparing is. It tries one bit per pass over the elements, and stops at the first
  threshold that exactly k elements reach.
- On a GPU, a pass is, because it starts several kernels. A loop that stops early is worse: the GPU
  waits for the host after each pass. So the GPU tries all values of several bits in one pass, and
  the number of passes is fixed. A TPU is faster that way too.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vis4d_jax_loss._checks import fail
from vis4d_jax_loss._mesh_axis import AxisName, count_elements, psum_over
from vis4d_jax_loss._numerics import expand_mask
from vis4d_jax_loss._ranking import MAX_COUNT, digits, ordered_codes


def largest_mask(
    function: str,
    values: jax.Array,
    k: jax.Array,
    where: jax.Array | None,
    axis_name: AxisName | None,
) -> jax.Array:
    """Mark the ``k`` largest candidates, or all of them if there are fewer.

    Args:
        function: Name of the function that was called, for errors.
        values: Any shape, any numeric dtype.
        k: Scalar of dtype uint32.
        where: Mask of candidates over the leading axes of ``values``.
        axis_name: Mesh axis (or axes) of a ``shard_map``.
    """
    if isinstance(axis_name, list):
        axis_name = tuple(axis_name)
    _check_size(function, values, axis_name)
    if axis_name is not None and jax.typeof(k) != jax.typeof(psum_over(k, axis_name)):
        # The loops would end at different passes on different shards, and wait forever.
        rule = "k must be the same on all shards of axis_name"
        remedy = "Add the counts of the shards with jax.lax.psum."
        fail(ValueError, function, rule, f"k {jax.typeof(k)}", remedy)
    return _largest_mask(lax.stop_gradient(values), k, where, axis_name)


def _check_size(function: str, values: jax.Array, axis_name: AxisName | None) -> None:
    if not isinstance(values.size, int):
        return  # Under jax.export, sizes may be symbols.
    size = values.size if axis_name is None else values.size * lax.psum(1, axis_name)
    if size > MAX_COUNT:
        rule = "there can be at most 2**32 - 1 elements to choose from"
        remedy = "Choose from parts of the array, e.g. with jax.vmap."
        fail(ValueError, function, rule, f"{size} elements", remedy)


# Under jit, an eager call compiles the search once, and not at every call.
@partial(jax.jit, static_argnames="axis_name", inline=True)
def _largest_mask(
    values: jax.Array, k: jax.Array, where: jax.Array | None, axis_name: Any
) -> jax.Array:
    codes = ordered_codes(values)
    # ``codes == codes`` is always True; it gives the mask the sharding of the values.
    candidates = expand_mask(True if where is None else where, values.shape) & (codes == codes)
    ways = {name: partial(_mark, search, axis_name) for name, search in _SEARCHES.items()}
    mark = partial(lax.platform_dependent, **ways)
    return (mark if axis_name is not None else _hidden(mark))(codes, candidates, k)


def _hidden(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The same function, as one operation for ``checkify``, also under ``vmap``.

    ``checkify`` refuses a loop that stops at a different pass for each element of a batch.
    """
    operation = jax.custom_batching.custom_vmap(function)

    @operation.def_vmap
    def batched(axis_size, in_batched, *args):
        in_axes = [0 if is_batched else None for is_batched in in_batched]
        over_batch = jax.vmap(function, in_axes, axis_size=axis_size)
        return _hidden(over_batch)(*args), True

    return operation


def _mark(
    search: Callable[..., Any], axis_name: Any, codes: jax.Array, tied: jax.Array, k: jax.Array
) -> jax.Array:
    marked = tied & False
    num_tied = count_elements(tied, axis_name)
    for digit, bits in digits(codes, axis_name):
        # The search tries thresholds of at least 1, so that 0 is never counted.
        digit = jnp.where(tied, digit, 0)
        threshold, k, num_tied = search(digit, bits, k, num_tied, axis_name)
        marked, tied = marked | (digit > threshold), tied & (digit == threshold)
    return marked | tied


def _bit_by_bit(
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

    # The loop starts from this count. It must vary over the devices that k varies over.
    reached = reached + _zero_like(k, k.dtype)
    k = jnp.minimum(k, reached)
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


def _several_bits(
    digit: jax.Array,
    bits: int,
    k: jax.Array,
    reached: jax.Array,
    axis_name: Any,
    *,
    bits_per_pass: int,
    count: Callable[[jax.Array, jax.Array], jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Find the same threshold in a fixed number of passes, each for several bits.

    Also returns how many of the k elements are equal to the threshold, and ``reached`` unchanged.
    """
    number = digit.dtype.type
    passes = -(-bits // bits_per_pass)
    ends = [bits * i // passes for i in range(passes, -1, -1)]
    known: np.ndarray | jax.Array = np.zeros(1, number)
    for high, low in itertools.pairwise(ends):
        # Add inside of the maximum: a GPU would compute a sum that follows it in another kernel.
        steps = np.arange(2 ** (high - low), dtype=number) << number(low)
        thresholds = jnp.max(known[:, None] + steps[None], axis=0)
        enough = psum_over(count(digit, thresholds), axis_name) >= k
        known = jnp.where(enough, thresholds, number(0))
    threshold = jnp.max(known)
    return threshold, k - count_elements(digit > threshold, axis_name), reached


def _count_together(digit: jax.Array, thresholds: jax.Array) -> jax.Array:
    """Count the elements that reach each threshold, in one reduction, for a GPU."""
    axes = range(digit.ndim)
    reached = lax.expand_dims(digit, [digit.ndim]) >= lax.expand_dims(thresholds, axes)
    return jnp.sum(reached, tuple(axes), dtype=jnp.uint32)


def _count_separately(digit: jax.Array, thresholds: jax.Array) -> jax.Array:
    """Count the elements that reach each threshold, in one reduction per threshold, for a TPU."""
    return jnp.stack([jnp.sum(digit >= threshold, dtype=jnp.uint32) for threshold in thresholds])


_SEARCHES: dict[str, Callable[..., Any]] = {
    "cpu": _bit_by_bit,
    "tpu": partial(_several_bits, bits_per_pass=4, count=_count_separately),
    "default": partial(_several_bits, bits_per_pass=5, count=_count_together),
}
