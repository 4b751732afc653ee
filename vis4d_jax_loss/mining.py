"""Mining: masks of the k largest, of k random elements, or of the hardest negatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import (
    check_mask,
    check_number,
    check_numeric,
    check_same_shape,
    fail,
)
from vis4d_jax_loss._kept_count import negatives_to_keep
from vis4d_jax_loss._largest import largest_mask
from vis4d_jax_loss._mesh_axis import AxisName, count_elements
from vis4d_jax_loss._numerics import expand_mask
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


def hard_negative_mask(
    cost: ArrayLike,
    positive: ArrayLike,
    neg_pos_ub: ArrayLike = 3.0,
    where: ArrayLike | None = None,
    *,
    axis_name: AxisName | None = None,
) -> jax.Array:
    """Mark all positives and the hardest negatives, a few per positive.

    With p positives, or p = 1 if there are none, at most ``int(p * neg_pos_ub)`` negatives are
    marked: those with the largest cost. Among equal costs, the lowest flat index wins. The counts
    are those of the whole array. Use ``jax.vmap`` to count in each image, as SSD does.

    Args:
        cost: How hard each element is, usually its loss. Any shape, any numeric dtype. NaN counts
            as the largest value, -0.0 as 0.0. No gradient flows through the mask.
        positive: Boolean mask of the positives, of the shape of ``cost``. All other candidates are
            negatives.
        neg_pos_ub: Maximum number of negatives per positive; it may be traced. If it is 0 or less,
            all negatives are marked, as in vis4d.
        where: Mask of candidates over the leading axes of ``cost``. Other elements are neither
            counted nor marked, and may contain anything.
        axis_name: Mesh axis (or axes) of a ``shard_map``. The shards are treated as one array,
            stacked along the leading axis.

    Returns:
        Boolean mask of the shape of ``cost``.

    Raises:
        TypeError: If ``cost`` is not numeric, ``positive`` or ``where`` is not boolean, or
            ``neg_pos_ub`` is not a number.
        ValueError: If the shapes do not match, or if all shards together have more than
            ``2**32 - 1`` elements.

    Example:
        >>> cost = jnp.array([0.2, 0.1, 0.9, 0.5, 0.7])
        >>> positive = jnp.array([True, False, False, False, False])
        >>> print(hard_negative_mask(cost, positive, neg_pos_ub=2.0))
        [ True False  True False  True]

    References:
        Liu et al., SSD: Single Shot MultiBox Detector, ECCV 2016, section 2.2.
    """
    name = "hard_negative_mask"
    cost, positive = jnp.asarray(cost), jnp.asarray(positive)
    check_numeric(name, cost=cost)
    if positive.dtype != bool:
        remedy = "Compare the labels first, e.g. labels > 0."
        fail(TypeError, name, "positive must be boolean", f"positive {positive.dtype}", remedy)
    check_same_shape(name, cost=cost, positive=positive)
    check_number(name, neg_pos_ub=neg_pos_ub)
    mask = check_mask(name, where, cost.shape)

    negative = ~positive
    if mask is not None:
        mask = expand_mask(mask, cost.shape)
        positive, negative = positive & mask, negative & mask
    num_pos, num_neg = (count_elements(kind, axis_name) for kind in (positive, negative))
    k = negatives_to_keep(num_pos, num_neg, neg_pos_ub)
    return positive | largest_mask(name, cost, k, negative, axis_name)


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
