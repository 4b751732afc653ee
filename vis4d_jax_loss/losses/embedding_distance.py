"""Embedding distance: moves similarities to 1 or 0, and mines hard negatives."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import check_numeric, check_same_shape
from vis4d_jax_loss._mesh_axis import count_elements
from vis4d_jax_loss._numerics import as_array, as_option, clamp, fill_masked, to_common_float
from vis4d_jax_loss._reduce_loss import reduce_scalar
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._inputs import read_pairs
from vis4d_jax_loss.losses._pairs import Mining, check_mining, mined_negatives, pair_masks
from vis4d_jax_loss.losses.common import l2_loss
from vis4d_jax_loss.reducer import AxisName, LossReducer, identity_loss
from vis4d_jax_loss.weighted_reducer import SumWeightedLoss

_INT32_MAX = 2**31 - 1


@jax.named_scope("embedding_distance_loss")
def embedding_distance_loss(
    pred: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    reducer: LossReducer = identity_loss,
    neg_pos_ub: ArrayLike = 3.0,
    pos_margin: ArrayLike = 0.0,
    neg_margin: ArrayLike = 0.3,
    hard_mining: bool = True,
    *,
    key: jax.Array | None = None,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""Mean squared difference of similarities and targets, over positives and mined negatives.

    .. math::
        \ell = \frac{1}{\#\{w_i > 0\}} \sum_i w_i (x_i - t_i)^2, \qquad
        x_i = \mathrm{clamp}(s_i - \mathrm{margin}_i, 0, 1)

    with the similarity :math:`s_i` of pair i, its target :math:`t_i` and weight :math:`w_i`, which
    is 0 for pairs that take no part; the margin is ``pos_margin`` for positives and ``neg_margin``
    for negatives.

    If there are more than ``neg_pos_ub`` negatives per positive, only
    ``int(max(1, positives) * neg_pos_ub)`` of them take part: those with the largest :math:`x`
    (ties go to the lowest index), or as many at random. Where :math:`s_i - \mathrm{margin}_i` is
    outside of [0, 1], the gradient is 0, as in vis4d. This includes positives whose similarity is
    negative.

    Args:
        pred: Cosine similarities, usually ``[N, M]``. -inf is limited to 0 like any negative
            number. Half precision is computed in float32.
        target: Same shape: 1 for the same object, 0 for a different one, -1 for a pair that is
            ignored. Any other value makes the loss NaN, and is reported under ``checkify``.
        weight: Same shape, 1 by default. A pair of weight 0 or less takes no part. Weights scale
            the sum; the divisor counts pairs.
        reducer: Applied to the scalar loss.
        neg_pos_ub: Maximum number of negatives per positive; 0 or less means no limit. This and the
            margins may be traced.
        pos_margin: If above 0, subtracted from the similarities of positives, as in vis4d.
        neg_margin: If above 0, subtracted from the similarities of negatives. Negatives with a
            smaller similarity have loss 0.
        hard_mining: Keep the negatives with the largest :math:`x`. Otherwise keep random ones,
            chosen with ``key``.
        key: A ``jax.random`` key, needed if ``hard_mining`` is False.
        where: Mask of valid rows ``[N]`` or pairs ``[N, M]``. Padding may contain anything, NaN
            included.
        axis_name: Mesh axis (or axes) of a ``shard_map``. Its shards, stacked along their leading
            axis, are one array: negatives are mined, and pairs are counted, over all of them.

    Returns:
        What ``reducer`` returns for the scalar loss, which is 0 if no pair takes part.

    Raises:
        ValueError: If the shapes do not match, an option is not a scalar, or ``key`` is missing.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> pred = jnp.array([[0.9, 0.5, 0.2, 0.31, 0.8, 0.7]])
        >>> target = jnp.array([[1, 0, 0, 0, 0, 0]])
        >>> loss = embedding_distance_loss(pred, target)  # 3 negatives: 0.5, 0.7, 0.8
        >>> print(round(float(loss), 6))  # (0.1**2 + 0.2**2 + 0.4**2 + 0.5**2) / 4
        0.115

    References:
        Pang et al., Quasi-Dense Similarity Learning for Multiple Object Tracking, CVPR 2021, eq. 6.
    """
    mining = Mining(neg_pos_ub, pos_margin, neg_margin, hard_mining, axis_name)
    function = "embedding_distance_loss"
    x, weight, avg_factor = _update_weight(function, pred, target, weight, where, key, mining)
    weighted = SumWeightedLoss(weight, avg_factor, axis_name=axis_name)
    loss = l2_loss(x, jnp.asarray(target, x.dtype), weighted, where=weight != 0)
    return reduce_scalar("embedding_distance_loss", reducer, loss)


def _update_weight(
    function: str,
    pred: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None,
    where: ArrayLike | None,
    key: jax.Array | None,
    mining: Mining,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Similarities minus margin, weights (0 for pairs that take no part), number of pairs."""
    pred, target, mask = read_pairs(function, pred, target, where)
    weight = jnp.ones(pred.shape, pred.dtype) if weight is None else as_array(weight)
    check_numeric(function, weight=weight)
    check_same_shape(function, pred=pred, weight=weight)
    check_mining(function, mining)

    # Replace padding.
    x, weight = to_common_float(fill_masked(pred, mask), fill_masked(weight, mask))
    labelled = target.astype(x.dtype) != -1
    weight = _value_checks.expect_finite(function, "weight", weight, labelled)

    # A pair takes part if it has a weight and is not padding. NaN is a weight: it must not be lost.
    positive, negative, unknown = pair_masks(function, target, ~(weight <= 0))
    x = _similarities(function, x, positive, negative, mining)
    kept = mined_negatives(function, x, positive, negative, key, mining)

    # An unknown target gives NaN, never a plausible number.
    weight = jnp.where(positive | kept | unknown, weight, 0)
    x = jnp.where(unknown, jnp.nan, x)
    return x, weight, _count_pairs(weight)


def _similarities(
    function: str, x: jax.Array, positive: jax.Array, negative: jax.Array, mining: Mining
) -> jax.Array:
    """Similarities minus the margin, limited to [0, 1]."""
    # A similarity of -inf, e.g. to an empty memory, is limited to 0 like any other.
    reported = (positive | negative) & (x != -jnp.inf)
    x = _value_checks.expect_finite(function, "pred", x, reported)
    for mask, margin in ((positive, mining.pos_margin), (negative, mining.neg_margin)):
        margin = as_option(margin, x.dtype)
        # Only a margin of 0 or less has no effect; NaN must not be lost.
        x = jnp.where(mask & jnp.logical_not(margin <= 0), x - margin, x)
    return clamp(x, 0.0, 1.0)


def _count_pairs(weight: jax.Array) -> jax.Array:
    """Count the pairs of this shard, as int32; a count that is too large for it is rounded."""
    count = count_elements(weight > 0)
    large = isinstance(weight.size, int) and weight.size > _INT32_MAX
    return count.astype(weight.dtype if large else jnp.int32)


class EmbeddingDistanceLoss(Loss):
    """:func:`embedding_distance_loss` as a module.

    Args:
        reducer: Applied to the scalar loss.
        neg_pos_ub: Maximum number of negatives per positive; 0 or less means no limit.
        pos_margin: If above 0, subtracted from the similarities of positives.
        neg_margin: If above 0, subtracted from the similarities of negatives.
        hard_mining: Keep the negatives with the largest similarity; otherwise random ones.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the pairs are sharded.

    Example:
        >>> loss = EmbeddingDistanceLoss(neg_pos_ub=1.0)
        >>> print(loss(jnp.array([[1.0, 0.5, 0.8]]), jnp.array([[1, 0, 0]])))
        0.125
    """

    neg_pos_ub: float = 3.0
    pos_margin: float = 0.0
    neg_margin: float = 0.3
    hard_mining: bool = True
    axis_name: AxisName | None = dataclasses.field(default=None, kw_only=True)

    def _check_options(self) -> None:
        check_mining(type(self).__name__, self._mining)

    def __call__(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        weight: ArrayLike | None = None,
        key: jax.Array | None = None,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        """Mine negatives and compute the loss.

        Args:
            pred: Cosine similarities, usually ``[N, M]``.
            target: Same shape: 1 for the same object, 0 for a different one, -1 for ignored.
            weight: Same shape, 1 by default. A pair of weight 0 or less takes no part.
            key: A ``jax.random`` key, needed if ``hard_mining`` is False.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid rows ``[N]`` or pairs ``[N, M]``. Padding may contain anything, NaN
                included.

        Returns:
            What the reducer returns for the scalar loss.
        """
        reducer, mining = self._reducer_for_call(reducer), self._mining._asdict()
        return embedding_distance_loss(
            pred, target, weight, reducer, key=key, where=where, **mining
        )

    def update_weight(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        weight: ArrayLike | None = None,
        key: jax.Array | None = None,
        *,
        where: ArrayLike | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Choose the pairs that take part, without computing the loss. No input is changed.

        Args:
            pred: Cosine similarities, usually ``[N, M]``.
            target: Same shape: 1 for the same object, 0 for a different one, -1 for ignored.
            weight: Same shape, 1 by default. A pair of weight 0 or less takes no part.
            key: A ``jax.random`` key, needed if ``hard_mining`` is False.
            where: Mask of valid rows ``[N]`` or pairs ``[N, M]``. Padding may contain anything, NaN
                included.

        Returns:
            ``(pred, weight, avg_factor)``: similarities minus their margin and limited to [0, 1];
            weights, 0 for pairs that take no part; and the number of pairs that do (those of this
            shard, in a ``shard_map``). These are the arguments of ``SumWeightedLoss``.

        Example:
            >>> loss = EmbeddingDistanceLoss(neg_pos_ub=1.0)
            >>> pred, target = jnp.array([[1.0, 0.5, 0.75]]), jnp.array([[1, 0, 0]])
            >>> _, weight, avg_factor = loss.update_weight(pred, target, jnp.ones((1, 3)))
            >>> print(weight, avg_factor)
            [[1. 0. 1.]] 2
        """
        name = "EmbeddingDistanceLoss.update_weight"
        return _update_weight(name, pred, target, weight, where, key, self._mining)

    @property
    def _mining(self) -> Mining:
        return Mining(*(getattr(self, name) for name in Mining._fields))
