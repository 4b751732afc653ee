"""Embedding distance: similarities drawn to 0 or 1, with mined negatives."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss import _checks, _value_checks
from vis4d_jax_loss._numerics import blank, clamp, count, cover, to_float
from vis4d_jax_loss._reduction import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses.common import l2_loss
from vis4d_jax_loss.mining import random_k_mask, top_k_mask
from vis4d_jax_loss.pairs import negatives_to_keep, pair_masks
from vis4d_jax_loss.reducer import (
    AxisName,
    LossReducer,
    SumWeightedLoss,
    across,
    identity_loss,
)


def embedding_distance_loss(
    pred: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    reducer: LossReducer = identity_loss,
    neg_pos_ub: float = 3.0,
    pos_margin: float = 0.0,
    neg_margin: float = 0.3,
    hard_mining: bool = True,
    *,
    key: jax.Array | None = None,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""Squared distance of similarities to their targets, over positives and mined negatives.

    .. math::
        \ell = \frac{1}{\#\{w_i > 0\}} \sum_i w_i (x_i - t_i)^2, \qquad
        x_i = \mathrm{clamp}(s_i - \mathrm{margin}_i, 0, 1)

    If there are more than ``neg_pos_ub`` negatives a positive, only the
    ``int(max(1, positives) * neg_pos_ub)`` with the largest ``x`` take part, ties going to the
    lowest index, or as many chosen at random. Outside [0, 1] the gradient is 0, also for the worst
    positives, those of negative similarity.

    Args:
        pred: Cosine similarities, usually ``[N, M]``; half precision is computed in float32.
        target: Same shape: 1 for the same object, 0 for a different one, -1 for a pair that takes
            no part. Any other value makes the loss NaN, and is reported under ``checkify``.
        weight: Same shape, 1 by default. A pair of weight 0 or less takes no part; weights scale
            the sum, while the denominator counts pairs.
        reducer: Sees the one number that this loss is.
        neg_pos_ub: Upper bound of negatives a positive; 0 or less for no bound.
        pos_margin: Subtracted from positives if positive. It moves their goal to
            ``1 + pos_margin``, as in vis4d.
        neg_margin: Subtracted from negatives if positive: smaller similarities cost nothing.
        hard_mining: Whether to keep the hardest negatives or, with ``key``, random ones.
        key: A ``jax.random`` key, needed if ``hard_mining`` is False.
        where: True for real rows ``[N]`` or pairs ``[N, M]``; padding may hold anything.
        axis_name: Mesh axis (or axes) of a ``shard_map`` whose shards, stacked along their leading
            axis, are one array: negatives are then mined, and pairs counted, over all of them.

    Returns:
        What ``reducer`` makes of the scalar loss; 0 if no pair takes part.

    Raises:
        ValueError: If the shapes differ, ``where`` does not fit, or ``key`` is missing.
        TypeError: If an input is not real, or ``where`` not boolean.

    Example:
        >>> pred = jnp.array([[0.9, 0.5, 0.2, 0.31, 0.8, 0.7]])
        >>> target = jnp.array([[1, 0, 0, 0, 0, 0]])
        >>> loss = embedding_distance_loss(pred, target)  # keeps 0.5, 0.7 and 0.8
        >>> print(round(float(loss), 6))  # (0.1**2 + 0.2**2 + 0.4**2 + 0.5**2) / 4
        0.115

    References:
        Pang et al., Quasi-Dense Similarity Learning for Multiple Object Tracking, CVPR 2021, eq. 6.
    """
    x, weight, avg_factor = _update_weight(
        "embedding_distance_loss",
        pred,
        target,
        weight,
        where,
        key,
        neg_pos_ub=neg_pos_ub,
        pos_margin=pos_margin,
        neg_margin=neg_margin,
        hard_mining=hard_mining,
        axis_name=axis_name,
    )
    weighted = SumWeightedLoss(weight, avg_factor, axis_name=axis_name)
    loss = l2_loss(x, jnp.asarray(target, x.dtype), weighted, where=weight != 0)
    return reduce_loss(reducer, loss)


def _update_weight(
    function: str,
    pred: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None,
    where: ArrayLike | None,
    key: jax.Array | None,
    *,
    neg_pos_ub: float,
    pos_margin: float,
    neg_margin: float,
    hard_mining: bool,
    axis_name: AxisName | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Similarities less their margin, weights with 0 for pairs left out, number of pairs left."""
    pred, target = jnp.asarray(pred), jnp.asarray(target)
    weight = jnp.ones(pred.shape, pred.dtype) if weight is None else jnp.asarray(weight)
    mask = None if where is None else jnp.asarray(where)
    _checks.check_real(function, pred=pred, weight=weight)
    _checks.check_labels(function, target)
    _checks.check_same_shape(function, pred=pred, target=target, weight=weight)
    _checks.check_where(function, mask, pred.shape)
    if not hard_mining:
        _checks.check_key(function, key)

    weighted = ~(weight <= 0) if mask is None else ~(weight <= 0) & cover(mask, pred.shape)
    positive, negative, unknown = pair_masks(function, target, weighted)
    valid = positive | negative
    x, weight = to_float(blank(pred, mask), weight)
    x = _value_checks.expect_finite(function, valid, pred=x)
    x = jnp.where(positive, x - max(pos_margin, 0.0), x)
    x = clamp(jnp.where(negative, x - max(neg_margin, 0.0), x), 0.0, 1.0)

    num_pos, num_neg = (across(count(pairs), axis_name) for pairs in (positive, negative))
    k = negatives_to_keep(num_pos, num_neg, neg_pos_ub)
    if key is None or hard_mining:
        kept = top_k_mask(x, k, negative, axis_name=axis_name)  # x orders like its square
    else:
        kept = random_k_mask(key, k, negative, axis_name=axis_name)
    weight = jnp.where(positive | kept | unknown, weight, 0)
    x = jnp.where(unknown, jnp.nan, x)
    return x, weight, count(weight > 0)


class EmbeddingDistanceLoss(Loss):
    """:func:`embedding_distance_loss` as a module.

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
        return embedding_distance_loss(
            pred,
            target,
            weight,
            self.choose(reducer),
            key=key,
            where=where,
            **self._mining,
        )

    def update_weight(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        weight: ArrayLike,
        key: jax.Array | None = None,
        *,
        where: ArrayLike | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Choose the pairs that take part, without computing the loss; nothing is edited in place.

        Args:
            pred: Cosine similarities, usually ``[N, M]``.
            target: Same shape: 1 for the same object, 0 for a different one, -1 for neither.
            weight: Same shape; a pair of weight 0 or less takes no part.
            key: A ``jax.random`` key, needed if ``hard_mining`` is False.
            where: True for real rows ``[N]`` or pairs ``[N, M]``; padding may hold anything.

        Returns:
            ``(pred, weight, avg_factor)``: similarities less their margins and limited to [0, 1],
            weights with 0 for the pairs left out, and the number of pairs left (in a
            ``shard_map``, those of this shard): what ``SumWeightedLoss`` needs.

        Example:
            >>> loss = EmbeddingDistanceLoss(neg_pos_ub=1.0)
            >>> pred, target = jnp.array([[1.0, 0.5, 0.75]]), jnp.array([[1, 0, 0]])
            >>> _, weight, avg_factor = loss.update_weight(pred, target, jnp.ones((1, 3)))
            >>> print(weight, avg_factor)
            [[1. 0. 1.]] 2
        """
        name = "EmbeddingDistanceLoss.update_weight"
        return _update_weight(name, pred, target, weight, where, key, **self._mining)

    @property
    def _mining(self) -> dict[str, Any]:
        options = dataclasses.asdict(self)  # type: ignore[call-overload]
        del options["reducer"]
        return options
