"""Multi-positive cross-entropy: a contrastive loss with any number of positives a row."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss import _checks, _value_checks
from vis4d_jax_loss._numerics import blank, to_float
from vis4d_jax_loss._reduction import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.pairs import pair_masks
from vis4d_jax_loss.reducer import (
    AxisName,
    LossReducer,
    SumWeightedLoss,
    identity_loss,
)


def multi_pos_cross_entropy(
    pred: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Push the similarities of a row's negatives below those of its positives.

    .. math::
        \ell = \log \Bigl( 1 + \sum_{n} \sum_{p} e^{s_n - s_p} \Bigr)
        = \mathrm{softplus} \bigl( \mathrm{LSE}_n(s_n) + \mathrm{LSE}_p(-s_p) \bigr)

    The right-hand form needs memory in proportion to N x M, where the double sum is often written
    out over N x M x M, and keeps its precision where that one rounds to 0.

    Args:
        pred: Similarities ``[N, M]``; half precision is computed in float32.
        target: ``[N, M]``: 1 for the same object, 0 for a different one, -1 for a pair that takes
            no part. Any other value makes its row's loss NaN, and is reported under ``checkify``.
        reducer: Maps the row losses to the result. A row without a single valid pair is not
            counted; one without positives, or without negatives, has loss 0 and is.
        where: True for real rows ``[N]`` or pairs ``[N, M]``; padding may hold anything.

    Returns:
        What ``reducer`` returns; by default one loss a row, ``[N]``.

    Raises:
        ValueError: If the shapes differ or are not ``[N, M]``, or ``where`` does not fit.
        TypeError: If an input is not real, or ``where`` not boolean.

    Example:
        >>> pred = jnp.log(jnp.array([[3.0, 1.0, 2.0]]))
        >>> loss = multi_pos_cross_entropy(pred, jnp.array([[1, 0, 0]]))
        >>> print(loss, jnp.log(1 + (1 + 2) / 3))
        [0.6931472] 0.6931472

    References:
        Pang et al., Quasi-Dense Similarity Learning for Multiple Object Tracking, CVPR 2021, eq. 5;
        the form by log-sum-exp: Sun et al., Circle Loss, CVPR 2020, eq. 1.
    """
    name = "multi_pos_cross_entropy"
    pred, target = jnp.asarray(pred), jnp.asarray(target)
    mask = None if where is None else jnp.asarray(where)
    _checks.check_real(name, pred=pred)
    _checks.check_labels(name, target)
    _checks.check_same_shape(name, pred=pred, target=target)
    _checks.check_rank(name, "[N, M]", pred=pred)
    _checks.check_where(name, mask, pred.shape)

    pairs = pair_masks(name, target, mask)
    valid = pairs.positive | pairs.negative
    (pred,) = to_float(blank(pred, valid))
    pred = _value_checks.expect_finite(name, pred=pred)
    negatives = jax.nn.logsumexp(pred, axis=-1, where=pairs.negative)
    positives = jax.nn.logsumexp(-pred, axis=-1, where=pairs.positive)
    loss = jax.nn.softplus(negatives + positives)
    loss = jnp.where(jnp.any(pairs.unknown, axis=-1), jnp.nan, loss)
    # Rows without a pair are not counted, by a reducer that can leave some out.
    counted = jnp.any(valid | pairs.unknown, axis=-1)
    return reduce_loss(reducer, loss, counted, optional=mask is None)


class MultiPosCrossEntropyLoss(Loss):
    """:func:`multi_pos_cross_entropy` as a module: the weighted sum over rows, divided by a factor.

    Its ``reducer`` sees that one number.

    Args:
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the rows are sharded; weighted
            losses and ``avg_factor`` are then added over it before dividing.

    Example:
        >>> pred = jnp.log(jnp.array([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0]]))
        >>> target = jnp.array([[1, 0, 0], [0, 0, 0]])
        >>> print(MultiPosCrossEntropyLoss()(pred, target, jnp.array([1.0, 0.0]), avg_factor=1.0))
        0.6931472
    """

    axis_name: AxisName | None = dataclasses.field(default=None, kw_only=True)

    def __call__(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        weight: ArrayLike,
        avg_factor: ArrayLike,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        weighted = SumWeightedLoss(weight, avg_factor, axis_name=self.axis_name)
        loss = multi_pos_cross_entropy(pred, target, weighted, where=where)
        return reduce_loss(self.choose(reducer), loss)
