"""Segmentation cross-entropy at several levels of a network, each with a weight."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import check_integer, describe, fail
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._labels import FROM_MODULE, IgnoreIndex, ignored_labels
from vis4d_jax_loss.losses.seg_cross_entropy_loss import seg_cross_entropy_loss
from vis4d_jax_loss.reducer import LossReducer, mean_loss


@jax.named_scope("multi_level_seg_loss")
def multi_level_seg_loss(
    outputs: Sequence[ArrayLike],
    target: ArrayLike,
    reducer: LossReducer = mean_loss,
    feature_idx: Sequence[int] = (0,),
    weights: Sequence[ArrayLike] | None = None,
    ignore_index: IgnoreIndex = 255,
    *,
    class_axis: int = -1,
    where: ArrayLike | None = None,
) -> dict[str, jax.Array]:
    r"""Segmentation cross-entropy of chosen levels, to train auxiliary heads.

    .. math::
        L_k = w_k \, \underset{i < H,\, j < W}{\mathrm{red}} \Big(
        \log \sum_c e^{z^{(k)}_{ijc}} - z^{(k)}_{ij y_{ij}} \Big)

    with the logits :math:`z^{(k)}_{ijc}` of level k, the label :math:`y_{ij}` of the pixel in row i
    and column j, the level's weight :math:`w_k`, and :math:`\mathrm{red}`, the reducer. Each level
    is :func:`seg_cross_entropy_loss` times its weight.

    Args:
        outputs: Logits of the levels, each ``[..., H', W', C]``, such as ``[N, H', W', C]``, or
            ``[N, C, H', W']`` with ``class_axis=1``, and at least as large as ``target``.
        target: Labels ``[..., H, W]`` from 0 to C - 1, or ``ignore_index``.
        reducer: Maps the losses of one level to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        feature_idx: Indices of the levels to use; negative ones count from the end.
        weights: Weight of each of these levels; 1 by default.
        ignore_index: Label whose loss and gradient are 0; a tuple of several, or None for no label.
        class_axis: Axis of the classes in the outputs.
        where: Mask of valid images ``[N]`` or pixels ``[N, H, W]``. Padding may contain anything,
            NaN included.

    Returns:
        ``{"loss_seg_level{i}": ...}`` for each i of ``feature_idx``, in that order.

    Raises:
        ValueError: If ``feature_idx`` repeats a level or names one that does not exist, ``weights``
            has another length, or the shapes do not match.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> outputs = [jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 4, 4, 4))]
        >>> losses = multi_level_seg_loss(
        ...     outputs, jnp.ones((1, 4, 4)), feature_idx=(0, 1), weights=(1.0, 0.5))
        >>> print({name: round(float(loss / jnp.log(2.0)), 6) for name, loss in losses.items()})
        {'loss_seg_level0': 1.0, 'loss_seg_level1': 1.0}
    """
    name = "multi_level_seg_loss"
    if isinstance(outputs, jax.Array | np.ndarray):
        rule, remedy = "outputs must be a list of levels", "Put a single level into a list."
        fail(TypeError, name, rule, f"an array {outputs.shape}", remedy)
    _check_indices(name, feature_idx, weights)
    weights = (1.0,) * len(feature_idx) if weights is None else weights
    _check_levels(name, feature_idx, len(outputs))
    losses = {}
    for index, weight in zip(feature_idx, weights, strict=True):
        loss = seg_cross_entropy_loss(
            outputs[index], target, reducer, ignore_index, class_axis=class_axis, where=where
        )
        losses[f"loss_seg_level{index}"] = _weighted(name, weight, loss)
    return losses


def _weighted(function: str, weight: ArrayLike, loss: jax.Array) -> jax.Array:
    if jnp.ndim(weight):
        rule = "the weight of a level must be a scalar"
        remedy = "Weights of elements belong in SumWeightedLoss."
        fail(ValueError, function, rule, f"a weight {jnp.shape(weight)}", remedy)
    return jnp.asarray(weight, loss.dtype) * loss


def _check_indices(function: str, feature_idx: Any, weights: Any) -> None:
    """Check what is known without the outputs."""
    if not isinstance(feature_idx, Sequence) or not all(isinstance(i, int) for i in feature_idx):
        rule = "feature_idx must be a list of integers"
        fail(TypeError, function, rule, describe(feature_idx=feature_idx))
    if len(set(feature_idx)) != len(feature_idx):
        rule, got = "feature_idx must not repeat a level", describe(feature_idx=feature_idx)
        fail(ValueError, function, rule, got, "Each level has one loss.")
    if weights is not None and not isinstance(weights, Sequence) and np.ndim(weights) == 0:
        rule = "weights must be a list with one weight per entry of feature_idx"
        fail(TypeError, function, rule, describe(weights=weights))
    if weights is not None and len(weights) != len(feature_idx):
        rule = "weights must hold one weight for each entry of feature_idx"
        fail(ValueError, function, rule, describe(weights=weights, feature_idx=feature_idx))


def _check_levels(function: str, feature_idx: Sequence[int], num_levels: int) -> None:
    got = f"feature_idx {tuple(feature_idx)} and outputs of {num_levels} levels"
    if any(not -num_levels <= i < num_levels for i in feature_idx):
        fail(ValueError, function, "feature_idx must name levels of outputs", got)
    if len({i % num_levels for i in feature_idx}) != len(feature_idx):
        remedy = "Each level has one loss; negative indices count from the end."
        fail(ValueError, function, "feature_idx must not repeat a level", got, remedy)


class MultiLevelSegLoss(Loss):
    """:func:`multi_level_seg_loss` as a module.

    Args:
        reducer: Maps the losses of one level to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        feature_idx: Indices of the levels to use; negative ones count from the end.
        weights: Weight of each of these levels; 1 by default.
        class_axis: Axis of the classes in the outputs.
        ignore_index: Label whose loss and gradient are 0; a tuple of several, or None for no label.

    Example:
        >>> loss = MultiLevelSegLoss(feature_idx=[1], weights=[0.5])
        >>> losses = loss([jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 4, 4, 4))], jnp.ones((1, 4, 4)))
        >>> print({name: round(float(loss / jnp.log(2.0)), 6) for name, loss in losses.items()})
        {'loss_seg_level1': 1.0}
    """

    reducer: LossReducer = mean_loss
    feature_idx: Sequence[int] = (0,)
    weights: Sequence[float] | None = None
    class_axis: int = dataclasses.field(default=-1, kw_only=True)
    ignore_index: IgnoreIndex = dataclasses.field(default=255, kw_only=True)

    def _check_options(self) -> None:
        name = type(self).__name__
        check_integer(name, class_axis=self.class_axis)
        ignored_labels(name, self.ignore_index)
        _check_indices(name, self.feature_idx, self.weights)

    def __call__(
        self,
        outputs: Sequence[ArrayLike],
        target: ArrayLike,
        ignore_index: IgnoreIndex = FROM_MODULE,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> dict[str, jax.Array]:
        """Compute the loss of each level.

        Args:
            outputs: Logits of the levels, each ``[..., H', W', C]``, at least as large as
                ``target``.
            target: Labels ``[..., H, W]`` from 0 to C - 1, or ``ignore_index``.
            ignore_index: Overrides the option of the module in this call.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid images ``[N]`` or pixels ``[N, H, W]``. Padding may contain
                anything, NaN included.

        Returns:
            ``{"loss_seg_level{i}": ...}`` for each i of ``feature_idx``.
        """
        return multi_level_seg_loss(
            outputs,
            target,
            self._reducer_for_call(reducer),
            self.feature_idx,
            self.weights,
            self.ignore_index if ignore_index is FROM_MODULE else ignore_index,
            class_axis=self.class_axis,
            where=where,
        )
