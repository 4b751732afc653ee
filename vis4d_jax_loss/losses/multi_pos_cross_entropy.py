"""Multi-positive cross-entropy: a contrastive loss with any number of positives per row."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import check_rank
from vis4d_jax_loss._numerics import is_integer, safe_divide, to_float
from vis4d_jax_loss._reduce_loss import reduce_loss, reduce_scalar
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._inputs import read_pairs
from vis4d_jax_loss.losses._pairs import IGNORED, NEGATIVE, POSITIVE, UNKNOWN, pair_kinds
from vis4d_jax_loss.reducer import AxisName, LossReducer, identity_loss
from vis4d_jax_loss.weighted_reducer import SumWeightedLoss


@jax.named_scope("multi_pos_cross_entropy")
def multi_pos_cross_entropy(
    pred: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Push the similarities of the negatives in a row below those of its positives.

    .. math::
        \ell = \log \Bigl( 1 + \sum_{n} \sum_{p} e^{s_n - s_p} \Bigr)
        = \mathrm{softplus} \bigl( \mathrm{LSE}_n(s_n) + \mathrm{LSE}_p(-s_p) \bigr)

    with the similarities :math:`s_p` of the positives and :math:`s_n` of the negatives in the row,
    and :math:`\mathrm{LSE}`, the logarithm of a sum of exponentials. The right-hand form is
    computed: its memory grows with N x M, whereas the double sum expands to N x M x M numbers, and
    it keeps the digits of small losses.

    Args:
        pred: Similarities ``[N, M]``. Half precision is computed in float32.
        target: ``[N, M]``: 1 for the same object, 0 for a different one, -1 for a pair that is
            ignored. Any other value makes its row's loss NaN, and is reported under ``checkify``.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``. A row without
            any valid pair is not counted. A row without positives or without negatives is counted,
            and its loss is 0.
        where: Mask of valid rows ``[N]`` or pairs ``[N, M]``. Padding may contain anything, NaN
            included.

    Returns:
        What ``reducer`` returns; by default one loss per row, ``[N]``.

    Raises:
        ValueError: If the shapes do not match or are not ``[N, M]``.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> pred = jnp.log(jnp.array([[3.0, 1.0, 2.0]]))
        >>> loss = multi_pos_cross_entropy(pred, jnp.array([[1, 0, 0]]))
        >>> print(loss, jnp.log(1 + (1 + 2) / 3))
        [0.6931472] 0.6931472

    References:
        Pang et al., Quasi-Dense Similarity Learning for Multiple Object Tracking, CVPR 2021, eq. 5;
        the form with two log-sum-exps: Sun et al., Circle Loss, CVPR 2020, eq. 1.
    """
    name = "multi_pos_cross_entropy"
    pred, target, mask = read_pairs(name, pred, target, where)
    check_rank(name, "[N, M]", pred=pred)

    # Tell positives and negatives apart; other pairs have no kind. The kinds get the sharding of
    # pred, with which they choose between arrays.
    kind = pair_kinds(name, target, mask)
    kind |= jnp.zeros_like(pred, kind.dtype)
    valid = (kind == POSITIVE) | (kind == NEGATIVE)
    pred = to_float(pred) if is_integer(pred) else pred
    pred = _value_checks.expect_finite_or_off(name, "pred", pred, valid)
    loss = jax.nn.softplus(_log_sum_of_ratios(pred, kind))

    # Rows without a valid pair are not counted, if the reducer can leave rows out.
    _, largest, _ = _exponentials(lax.stop_gradient(pred), kind)
    counted = jnp.maximum(*largest) != _lowest(largest[0])  # NaN is counted
    return reduce_loss(reducer, loss, counted, optional=mask is None)


# The derivatives are written out: in each order they contain the weights, which are finite, and no
# logarithm of 0.
@jax.custom_jvp
def _log_sum_of_ratios(pred: jax.Array, kind: jax.Array) -> jax.Array:
    """For each row, the logarithm of the double sum over negatives and positives.

    It is a huge negative number, not -inf, if the row has no positives or no negatives.
    """
    _, largest, sums = _exponentials(pred, kind)
    both_kinds = (sums[0] != 0) & (sums[1] != 0)  # NaN is not 0, and stays NaN
    logs = [jnp.log(jnp.where(both_kinds, total, 1)) for total in sums]
    largest = [jnp.where(both_kinds, number, _lowest(number) / 4) for number in largest]
    # The largest are added first: large similarities cancel exactly, and the logarithms remain.
    return (largest[0] + largest[1]) + (logs[0] + logs[1])


@_log_sum_of_ratios.defjvp
def _log_sum_of_ratios_jvp(primals, tangents):
    (pred, kind), (change, _) = primals, tangents
    weights = _weights(pred, kind)
    change = jnp.where(kind == IGNORED, 0, change.astype(weights.dtype))  # it may be NaN
    return _log_sum_of_ratios(pred, kind), jnp.sum(weights * change, axis=-1)


@jax.custom_jvp
def _weights(pred: jax.Array, kind: jax.Array) -> jax.Array:
    """Softmax over the negatives of a row, minus softmax over its positives; 0 elsewhere."""
    exponentials, _, sums = _exponentials(pred, kind)
    shares = [e * safe_divide(1.0, s)[:, None] for e, s in zip(exponentials, sums, strict=True)]
    return shares[0] - shares[1]


@_weights.defjvp
def _weights_jvp(primals, tangents):
    (pred, kind), (change, _) = primals, tangents
    weights = _weights(pred, kind)
    moved = weights * jnp.where(kind == IGNORED, 0, change.astype(weights.dtype))
    mean_of_negatives, mean_of_positives = (
        jnp.sum(moved, axis=-1, where=kind == k, keepdims=True) for k in (NEGATIVE, POSITIVE)
    )
    return weights, jnp.where(
        kind == POSITIVE, -moved - weights * mean_of_positives, moved - weights * mean_of_negatives
    )


# Called without jit, jax.debug_nans and jax.debug_infs would stop at NaN in padding, and at -inf.
@jax.jit
def _exponentials(
    pred: jax.Array, kind: jax.Array
) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
    """Exponentials relative to the largest of their kind, these largest numbers, and the sums.

    Each list holds negatives first. In a row without pairs of a kind, the largest is the lowest
    number. Similarities may be infinite. A target without a meaning makes its row NaN.
    """
    # Finite, so that no difference is NaN. Every pair has its kind's number in one array, and -inf
    # in the other, whose exponential is 0: a CPU stores nothing else.
    pred = to_float(pred)
    limit = -_lowest(pred) / 2
    # Adding 0 compiles to nothing; it gives pred the sharding of the kinds.
    finite = jnp.clip(pred, -limit, limit) + jnp.zeros_like(kind, pred.dtype)
    negatives = jnp.where(kind == UNKNOWN, jnp.nan, -jnp.inf)
    negatives = jnp.where(kind == NEGATIVE, finite, negatives)
    positives = jnp.where(kind == POSITIVE, -finite, -jnp.inf)
    kinds = negatives, positives
    largest = [jnp.max(x, axis=-1, initial=_lowest(pred)) for x in kinds]
    exponentials = [jnp.exp(x - m[:, None]) for x, m in zip(kinds, largest, strict=True)]
    return exponentials, largest, [jnp.sum(x, axis=-1) for x in exponentials]


def _lowest(x: jax.Array) -> float:
    return float(jnp.finfo(x.dtype).min)


class MultiPosCrossEntropyLoss(Loss):
    """:func:`multi_pos_cross_entropy` as a module: a weighted sum over rows, divided by a factor.

    Args:
        reducer: Applied to the scalar loss.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the rows are sharded. Weighted
            losses and ``avg_factor`` are added over it before dividing.

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
        """Compute the loss of each row, and the weighted sum divided by ``avg_factor``.

        Args:
            pred: Similarities ``[N, M]``.
            target: ``[N, M]``: 1 for the same object, 0 for a different one, -1 for ignored.
            weight: Weight of each row, ``[N]``.
            avg_factor: Scalar divisor, usually the sum of the weights. Where it is 0, the loss and
                its gradient are 0.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid rows ``[N]`` or pairs ``[N, M]``. Padding may contain anything, NaN
                included.

        Returns:
            What the reducer returns for the scalar loss.
        """
        weighted = SumWeightedLoss(weight, avg_factor, axis_name=self.axis_name)
        loss = multi_pos_cross_entropy(pred, target, weighted, where=where)
        return reduce_scalar(type(self).__name__, self._reducer_for_call(reducer), loss)
