"""The losses of QD-3DT's box head: 3D boxes, and the confidence in their depth."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import (
    check_integer,
    check_label_dtype,
    check_layout,
    check_mask,
    check_number,
    check_numeric,
    check_positive,
)
from vis4d_jax_loss._mesh_axis import AxisName
from vis4d_jax_loss._numerics import (
    as_array,
    as_option,
    count_true,
    fill_masked,
    to_common_float,
)
from vis4d_jax_loss._reduce_loss import over_shards
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.heads._assigned import of_class
from vis4d_jax_loss.losses._labels import labels_as_array, read_labels
from vis4d_jax_loss.losses.rotation_loss import rotation_loss
from vis4d_jax_loss.losses.smooth_l1_loss import smooth_l1_loss
from vis4d_jax_loss.reducer import LossReducer, mean_loss
from vis4d_jax_loss.weighted_reducer import SumWeightedLoss

_UNKNOWN_DIMENSION = 100
_smooth_l1 = partial(smooth_l1_loss, beta=1 / 9)


@jax.named_scope("box3d_uncertainty_loss")
def box3d_uncertainty_loss(
    pred: ArrayLike,
    target: ArrayLike,
    labels: ArrayLike,
    reducer: LossReducer = mean_loss,
    *,
    center_loss_weight: ArrayLike = 1.0,
    depth_loss_weight: ArrayLike = 1.0,
    dimension_loss_weight: ArrayLike = 1.0,
    rotation_loss_weight: ArrayLike = 1.0,
    uncertainty_loss_weight: ArrayLike = 1.0,
    num_rotation_bins: int = 2,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> dict[str, jax.Array]:
    r"""Errors of encoded 3D boxes, and of the confidence that a box predicts for its own depth.

    Center, depth and dimensions have the smooth L1 loss with ``beta=1/9``, angles have
    :func:`rotation_loss`, and the confidence c has

    .. math::
        L_\mathrm{unc} = \frac{1}{N} \sum_i w_i \, \mathrm{SL1}(c_i - q_i), \qquad
        q_i = e^{-5 |z_i - \hat z_i|}, \qquad w_i = \begin{cases} 5 & q_i > 0.8 \\ 0.1 &
        \text{else} \end{cases}

    over the N valid boxes, with predicted depths :math:`z_i` and true ones :math:`\hat z_i`. The
    target :math:`q_i` is a constant without a gradient. Each part is multiplied by its weight.

    Args:
        pred: Predictions of each box and class, ``[N, C, 6 + 3 b + 1]`` for b rotation bins: the
            offset of the projected center (2), depth, dimensions (3), rotation as in
            :func:`rotation_loss` (3 b), confidence. Half precision is computed in float32.
        target: Encoded boxes ``[N, 6 + 2 b]``: offset of the center (2), depth, dimensions (3),
            active bins (b), residual angles (b). They are constants without a gradient. A depth of
            0 or less and a dimension of 100 are unknown, and have no loss. A confidence always has
            one, as in vis4d.
        labels: Class of each box, ``[N]``, from 0 to C - 1. Predictions of other classes may
            contain anything. Another label makes the losses NaN, and is reported by ``checkify``.
        reducer: Maps the losses of each part to its result, except those of the confidence. It must
            accept ``where``, as ``mean_loss`` and ``jnp.mean`` do.
        center_loss_weight: Weight of the offset of the center.
        depth_loss_weight: Weight of the depth.
        dimension_loss_weight: Weight of the dimensions.
        rotation_loss_weight: Weight of the rotation.
        uncertainty_loss_weight: Weight of the confidence.
        num_rotation_bins: Number b of rotation bins, at least 1.
        where: Mask of valid boxes, ``[N]``. Padding may contain anything, NaN included.
        axis_name: Mesh axis (or axes) of a ``shard_map``, over which sums and counts are added.

    Returns:
        ``{"loss_ctr3d", "loss_dep3d", "loss_dim3d", "loss_rot3d", "loss_unc3d"}``: scalars, each 0
        if nothing counts in it. With ``identity_loss`` as reducer, all but the last are ``[N, 2]``,
        ``[N]``, ``[N, 3]`` and ``[N]``.

    Raises:
        ValueError: If the shapes do not match ``num_rotation_bins`` or one another.
        TypeError: If an input is not numeric, or ``where`` not boolean or not accepted.

    Example:
        >>> pred, target = jnp.zeros((1, 3, 10)), jnp.zeros((1, 8)).at[0, 2].set(0.5)
        >>> losses = box3d_uncertainty_loss(pred, target, jnp.array([2]), num_rotation_bins=1)
        >>> print(losses["loss_ctr3d"], losses["loss_dep3d"])  # 0.5 - beta / 2
        0.0 0.44444445

    References:
        Hu et al., Monocular Quasi-Dense 3D Object Tracking, TPAMI 2022.
    """
    name = "box3d_uncertainty_loss"
    pred, target, mask = _read_boxes(name, pred, target, labels, num_rotation_bins, where)
    reduce = over_shards(name, reducer, axis_name)
    depth, dimensions, bins = target[:, 2], target[:, 3:6], 6 + num_rotation_bins
    known_depth = fill_masked(depth > 0, mask, False)
    known = fill_masked(dimensions != _UNKNOWN_DIMENSION, mask, False)
    rotation = pred[:, 6:-1], target[:, 6:bins], target[:, bins:], num_rotation_bins
    losses = {
        "loss_ctr3d": _smooth_l1(pred[:, :2], target[:, :2], reduce, where=mask),
        "loss_dep3d": _smooth_l1(pred[:, 2], depth, reduce, where=known_depth),
        "loss_dim3d": _smooth_l1(pred[:, 3:6], dimensions, reduce, where=known),
        "loss_rot3d": rotation_loss(*rotation, reducer, where=mask, axis_name=axis_name),
        "loss_unc3d": _uncertainty_loss(pred[:, -1], pred[:, 2], depth, mask, axis_name),
    }
    weights = {
        "loss_ctr3d": center_loss_weight,
        "loss_dep3d": depth_loss_weight,
        "loss_dim3d": dimension_loss_weight,
        "loss_rot3d": rotation_loss_weight,
        "loss_unc3d": uncertainty_loss_weight,
    }
    return {k: as_option(weights[k], loss.dtype) * loss for k, loss in losses.items()}


def _read_boxes(
    function: str,
    pred: ArrayLike,
    target: ArrayLike,
    labels: ArrayLike,
    num_bins: int,
    where: ArrayLike | None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The predictions of each box's own class, the targets and a mask; padding is replaced by 0."""
    check_integer(function, num_rotation_bins=num_bins)
    check_positive(function, num_rotation_bins=num_bins)
    pred, target, classes = as_array(pred), as_array(target), labels_as_array(labels)
    check_numeric(function, pred=pred, target=target)
    check_label_dtype(function, labels=classes)
    check_layout(
        function,
        pred=(pred, f"[N, C, {7 + 3 * num_bins}]"),
        target=(target, f"[N, {6 + 2 * num_bins}]"),
        labels=(classes, "[N]"),
    )
    mask = check_mask(function, where, classes.shape)
    read = read_labels(function, classes, None, pred.shape[1], mask, "labels")
    own = of_class(pred, read.value, ~(read.skipped | read.invalid))
    own = _value_checks.expect_finite(function, "pred", own)
    target = lax.stop_gradient(fill_masked(target, mask))
    target = _value_checks.expect_finite(function, "target", target)
    own, target = to_common_float(own, target)
    # Without the barrier, a GPU would choose the class in each kernel that reads a column.
    own = lax.optimization_barrier(jnp.where(read.invalid[:, None], jnp.nan, own))
    return own, target, mask


def _uncertainty_loss(
    confidence: jax.Array,
    depth: jax.Array,
    true_depth: jax.Array,
    mask: jax.Array | None,
    axis_name: AxisName | None,
) -> jax.Array:
    """The loss of the confidence in a depth; it counts most where the depth is right."""
    target = jnp.exp(-5 * jnp.abs(lax.stop_gradient(depth) - true_depth))
    weight = jnp.where(target > 0.8, 5, 0.1).astype(target.dtype)
    number = len(target) if mask is None else count_true(mask, target.dtype)
    reducer = SumWeightedLoss(weight, number, axis_name=axis_name)
    return _smooth_l1(confidence, target, reducer, where=mask)


class Box3DUncertaintyLoss(Loss):
    """:func:`box3d_uncertainty_loss` as a module.

    Args:
        reducer: Maps the losses of each part to its result, but not those of the confidence.
        center_loss_weight: Weight of the offset of the center.
        depth_loss_weight: Weight of the depth.
        dimension_loss_weight: Weight of the dimensions.
        rotation_loss_weight: Weight of the rotation.
        uncertainty_loss_weight: Weight of the confidence.
        num_rotation_bins: Number of rotation bins, at least 1.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the boxes are sharded.

    Example:
        >>> loss = Box3DUncertaintyLoss(center_loss_weight=9.0, num_rotation_bins=1)
        >>> losses = loss(jnp.ones((1, 3, 10)), jnp.zeros((1, 8)), jnp.array([2]))
        >>> assert jnp.allclose(losses["loss_ctr3d"], 9 * (1 - 1 / 18))
    """

    reducer: LossReducer = mean_loss
    center_loss_weight: float = 1.0
    depth_loss_weight: float = 1.0
    dimension_loss_weight: float = 1.0
    rotation_loss_weight: float = 1.0
    uncertainty_loss_weight: float = 1.0
    num_rotation_bins: int = 2
    axis_name: AxisName | None = dataclasses.field(default=None, kw_only=True)

    def _check_options(self) -> None:
        name = type(self).__name__
        check_number(name, **self._weights)
        check_integer(name, num_rotation_bins=self.num_rotation_bins)
        check_positive(name, num_rotation_bins=self.num_rotation_bins)

    @property
    def _weights(self) -> dict[str, float]:
        parts = ("center", "depth", "dimension", "rotation", "uncertainty")
        return {f"{part}_loss_weight": getattr(self, f"{part}_loss_weight") for part in parts}

    def __call__(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        labels: ArrayLike,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> dict[str, jax.Array]:
        """Compute and reduce the losses.

        Args:
            pred: Predictions of each box and class, ``[N, C, 6 + 3 b + 1]`` for b rotation bins.
            target: Encoded boxes, ``[N, 6 + 2 b]``.
            labels: Class of each box, ``[N]``, from 0 to C - 1.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid boxes, ``[N]``. Padding may contain anything, NaN included.

        Returns:
            ``{"loss_ctr3d", "loss_dep3d", "loss_dim3d", "loss_rot3d", "loss_unc3d"}``.
        """
        return box3d_uncertainty_loss(
            pred,
            target,
            labels,
            self._reducer_for_call(reducer),
            **self._weights,
            num_rotation_bins=self.num_rotation_bins,
            where=where,
            axis_name=self.axis_name,
        )
