"""Mining: masks of the k largest or of k random elements, where k may be traced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import check_mask, check_numeric, fail
from vis4d_jax_loss._largest import largest_mask
from vis4d_jax_loss._mesh_axis import AxisName
from vis4d_jax_loss._ranking import MAX_COUNT


def top_k_mask(
    values: ArrayLike,
    k: ArrayLike,
    where: ArrayLike | None = None,
    *,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Mark the ``k`` largest elements. Among equal elements, the lowest flat index wins.

    The function maps the values to integers that sort in the same way. Then it finds the threshold
    from the highest bit down: each pass counts the values that reach a candidate. A GPU and a TPU
    try several candidates per pass. A second search, over the index, breaks ties. There is no sort,
    no gather and no dynamic shape: ``k`` may be traced, and the array may be sharded in any way,
    since a pass sends only counts between devices. No gradient flows through the mask.

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


def _checked_mask(
    function: str,
    values: jax.Array,
    k: ArrayLike,
    where: ArrayLike | None,
    axis_name: AxisName | None,
) -> jax.Array:
    check_numeric(function, values=values)
    mask = check_mask(function, where, values.shape)
    return largest_mask(function, values, _read_k(function, k), mask, axis_name)


def _read_k(function: str, k: Any) -> jax.Array:
    """A number of any size, or an integer scalar of any dtype, as uint32."""
    if isinstance(k, np.ndarray) and k.ndim == 0:
        k = k[()]
    if isinstance(k, int | np.integer) and not isinstance(k, bool):
        k = np.uint32(min(max(int(k), 0), MAX_COUNT))
    k = jnp.asarray(k)
    if not jnp.issubdtype(k.dtype, jnp.integer) or k.ndim:
        rule = "k must be an integer scalar"
        fail(TypeError, function, rule, f"k {k.dtype} {k.shape}", "It may be traced.")
    k = jnp.maximum(k, 0)
    return (jnp.minimum(k, MAX_COUNT) if k.dtype.itemsize > 4 else k).astype(jnp.uint32)
