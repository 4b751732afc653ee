"""Segmentation cross-entropy at several levels of a network, each with its weight."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss import _checks
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses.seg_cross_entropy_loss import seg_cross_entropy_loss
from vis4d_jax_loss.reducer import LossReducer, mean_loss


def multi_level_seg_loss(
    outputs: Sequence[ArrayLike],
    target: ArrayLike,
    reducer: LossReducer = mean_loss,
    feature_idx: Sequence[int] = (0,),
    weights: Sequence[ArrayLike] | None = None,
    ignore_index: int = 255,
    *,
    class_axis: int = -1,
    where: ArrayLike | None = None,
) -> dict[str, jax.Array]:
    r"""Segmentation cross-entropy of chosen levels, as auxiliary heads are trained.

    .. math::
        L_k = w_k \, \underset{i < H,\, j < W}{\mathrm{red}} \Big(
        \log \sum_c e^{z^{(k)}_{ijc}} - z^{(k)}_{ij y_{ij}} \Big)

    Each level is :func:`seg_cross_entropy_loss` times its weight.

    Args:
        outputs: Logits of the levels, each ``[..., H', W', C]``, such as ``[N, H', W', C]``, or
            ``[N, C, H', W']`` with ``class_axis=1``, and at least as large as ``target``.
        target: Labels ``[..., H, W]`` from 0 to C - 1, or ``ignore_index``.
        reducer: Maps the losses of one level to the result.
        feature_idx: Which levels take part; may count from the end.
        weights: Weight of each of them; 1 by default.
        ignore_index: Label whose loss is 0, with gradient 0.
        class_axis: Axis of the classes in the outputs.
        where: True for real images ``[N]`` or pixels ``[N, H, W]``; padding may hold anything.

    Returns:
        ``{"loss_seg_level{i}": ...}`` for each i of ``feature_idx``, in its order.

    Raises:
        ValueError: If ``feature_idx`` repeats a level or names one that is not there, ``weights``
            has another length, or shapes do not fit.
        TypeError: If an input is not real, or ``where`` not boolean.

    Example:
        >>> outputs = [jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 4, 4, 4))]
        >>> losses = multi_level_seg_loss(
        ...     outputs, jnp.ones((1, 4, 4)), feature_idx=(0, 1), weights=(1.0, 0.5))
        >>> print({name: float(loss / jnp.log(2.0)) for name, loss in losses.items()})
        {'loss_seg_level0': 1.0, 'loss_seg_level1': 1.0}
    """
    name = "multi_level_seg_loss"
    weights = (1.0,) * len(feature_idx) if weights is None else weights
    _checks.check_one_weight_each(name, weights, feature_idx)
    _checks.check_levels(name, feature_idx, len(outputs))
    return {
        f"loss_seg_level{index}": jnp.multiply(
            weight,
            seg_cross_entropy_loss(
                outputs[index], target, reducer, ignore_index, class_axis=class_axis, where=where
            ),
        )
        for index, weight in zip(feature_idx, weights, strict=True)
    }


class MultiLevelSegLoss(Loss):
    """:func:`multi_level_seg_loss` as a module.

    Example:
        >>> loss = MultiLevelSegLoss(feature_idx=[1], weights=[0.5])
        >>> losses = loss([jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 4, 4, 4))], jnp.ones((1, 4, 4)))
        >>> print({name: float(loss / jnp.log(2.0)) for name, loss in losses.items()})
        {'loss_seg_level1': 1.0}
    """

    reducer: LossReducer = mean_loss
    feature_idx: Sequence[int] = (0,)
    weights: Sequence[float] | None = None
    class_axis: int = dataclasses.field(default=-1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None:
            _checks.check_one_weight_each("MultiLevelSegLoss", self.weights, self.feature_idx)

    def __call__(
        self,
        outputs: Sequence[ArrayLike],
        target: ArrayLike,
        ignore_index: int = 255,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> dict[str, jax.Array]:
        return multi_level_seg_loss(
            outputs,
            target,
            self.choose(reducer),
            self.feature_idx,
            self.weights,
            ignore_index,
            class_axis=self.class_axis,
            where=where,
        )
