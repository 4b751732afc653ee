"""Rotation loss: overlapping angle bins, and a residual angle in each."""

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
    check_mask,
    check_numeric,
    check_positive,
    fail,
    shapes_of,
)
from vis4d_jax_loss._numerics import as_array, expand_mask, fill_masked, to_common_float
from vis4d_jax_loss._reduce_loss import over_shards, reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._sigmoid_cross_entropy import sigmoid_cross_entropy
from vis4d_jax_loss.losses._sine_cosine import sine_and_cosine
from vis4d_jax_loss.losses.smooth_l1_loss import smooth_l1_loss
from vis4d_jax_loss.reducer import AxisName, LossReducer, identity_loss, mean_loss


@jax.named_scope("rotation_loss")
def rotation_loss(
    pred: ArrayLike,
    target_bin: ArrayLike,
    target_res: ArrayLike,
    num_bins: int,
    reducer: LossReducer = identity_loss,
    *,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""Rotation as overlapping angle bins: which bins are active, and the residual angle in each.

    .. math::
        \ell = \sum_i \Bigl( \overline{\mathrm{BCE}}(p_i, b_i)
        + \underset{b_i = 1}{\mathrm{red}}\; \mathrm{SL1}(s_i - \sin r_i)
        + \underset{b_i = 1}{\mathrm{red}}\; \mathrm{SL1}(c_i - \cos r_i) \Bigr)

    For bin i, :math:`p_i` is the predicted logit, :math:`b_i` the target (1 if the bin is active),
    :math:`s_i` and :math:`c_i` are the predicted sine and cosine, and :math:`r_i` is the target
    residual angle. BCE is the binary cross-entropy, averaged over the rows for every reducer. SL1
    is smooth L1. The operator red is the reducer over the rows in which the bin is active; it is 0
    if there are none. If the reducer keeps the rows, as ``identity_loss`` does, the result is one
    loss per row: its cross-entropy, summed over bins, plus its residual losses.

    Args:
        pred: ``[B, >= 3 n]`` for n bins: n logits, then (sin, cos) for each bin. Half precision is
            computed in float32.
        target_bin: ``[B, n]``, from 0 to 1, of any numeric dtype or boolean.
        target_res: ``[B, >= n]``, residual angles in radians.
        num_bins: Number n of bins, at least 1.
        reducer: Maps the residual losses of a bin to the result. It must accept ``where``, as
            ``mean_loss``, ``sum_loss`` and ``jnp.mean`` do, since most rows are not active.
        where: Mask of valid rows, ``[B]``. Padding may contain anything, NaN included.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the rows are sharded, for the
            mean of the cross-entropy and for the reducer.

    Returns:
        A scalar, or one loss per row ``[B]`` if the reducer keeps the rows.

    Raises:
        ValueError: If the shapes do not fit ``num_bins`` or one another.
        TypeError: If an input is not numeric, ``where`` is not boolean, or ``reducer`` does not
            accept ``where``.

    Example:
        >>> pred = jnp.array([[0.0, 0.5, 1.0]])  # logit, sin, cos
        >>> loss = rotation_loss(pred, jnp.array([[1.0]]), jnp.array([[0.0]]), 1, mean_loss)
        >>> print(loss, jnp.log(2.0) + 0.125)
        0.8181472 0.8181472

    References:
        Mousavian et al., 3D Bounding Box Estimation Using Deep Learning and Geometry, CVPR 2017;
        the bins follow CenterNet and vis4d.
    """
    name = "rotation_loss"
    pred, target_res = as_array(pred), as_array(target_res)
    target_bin = as_array(target_bin)
    check_integer(name, num_bins=num_bins)
    check_positive(name, num_bins=num_bins)
    check_numeric(name, pred=pred, target_res=target_res)
    check_label_dtype(name, target_bin=target_bin)
    _check_columns(name, num_bins, pred=pred, target_bin=target_bin, target_res=target_res)
    mask = check_mask(name, where, pred.shape[:1])

    # Replace padding. Only active bins have a residual, so other angles are padding as well.
    pred, target_res, target_bin = (fill_masked(x, mask) for x in (pred, target_res, target_bin))
    pred, target_res = to_common_float(pred[:, : 3 * num_bins], target_res[:, :num_bins])
    target_bin = target_bin.astype(pred.dtype)
    active = target_bin == 1
    if mask is not None:
        active &= expand_mask(mask, active.shape)
    angles = _value_checks.expect_finite(name, "target_res", fill_masked(target_res, active))
    columns = jnp.concatenate([jnp.full_like(active, True), jnp.repeat(active, 2, axis=1)], axis=1)
    pred = _value_checks.expect_finite(name, "pred", pred, columns)

    # Which bins are active: one binary cross-entropy per row.
    logits = pred[:, :num_bins]
    target_bin = _value_checks.expect_finite(name, "target_bin", target_bin)
    bins = jnp.sum(sigmoid_cross_entropy(logits, target_bin), axis=-1)

    # The residuals: each bin's sine and cosine are reduced over the bin's active rows.
    sines, cosines = sine_and_cosine(angles)
    reducer = over_shards(name, reducer, axis_name)
    by_column = partial(_residuals_of_columns, reducer)
    by_pair = partial(_residuals_of_pairs, reducer)
    residuals = lax.platform_dependent(
        pred[:, num_bins:], sines, cosines, active, cuda=by_pair, rocm=by_pair, default=by_column
    )

    keeps_rows = residuals.shape == bins.shape
    if keeps_rows:
        return fill_masked(bins, mask) + residuals
    return mean_loss(bins, where=mask, axis_name=axis_name) + residuals


def _residuals_of_columns(
    reducer: LossReducer, pred: jax.Array, sines: jax.Array, cosines: jax.Array, active: jax.Array
) -> jax.Array:
    """Add up the residual losses of the bins."""
    reduce_bin = partial(_residual_loss, reducer)
    over_bins = jax.vmap(reduce_bin, in_axes=1, out_axes=-1)
    residuals = over_bins(pred[:, ::2], sines, active) + over_bins(pred[:, 1::2], cosines, active)
    return jnp.sum(residuals, axis=-1)


def _residuals_of_pairs(
    reducer: LossReducer, pred: jax.Array, sines: jax.Array, cosines: jax.Array, active: jax.Array
) -> jax.Array:
    """The same for pairs of sine and cosine.

    A GPU reduces both in one pass. A TPU needs almost three times as long for pairs, and a CPU half
    as long again.
    """
    goals = jnp.stack([sines, cosines], axis=-1)
    reduce_bin = partial(_residual_loss, reducer)
    over_pairs = jax.vmap(reduce_bin, in_axes=(1, 1, None), out_axes=-1)
    over_bins = jax.vmap(over_pairs, in_axes=1, out_axes=-1)
    return jnp.sum(over_bins(pred.reshape(goals.shape), goals, active), axis=(-2, -1))


def _residual_loss(
    reducer: LossReducer, value: jax.Array, goal: jax.Array, active: jax.Array
) -> jax.Array:
    return reduce_loss(reducer, smooth_l1_loss(fill_masked(value, active), goal), active)


def _check_columns(function: str, num_bins: int, **arrays: jax.Array) -> None:
    shapes = [x.shape for x in arrays.values()]
    rows = {shape[0] for shape in shapes if len(shape) == 2}
    columns = [shape[-1] for shape in shapes if len(shape) == 2]
    if len(columns) == 3 and len(rows) == 1:
        pred, target_bin, target_res = columns
        if pred >= 3 * num_bins and target_bin == num_bins and target_res >= num_bins:
            return
    rule = (
        f"for num_bins={num_bins}, pred must be [B, >= {3 * num_bins}], "
        f"target_bin [B, {num_bins}] and target_res [B, >= {num_bins}]"
    )
    remedy = "Columns of pred are num_bins logits, then (sin, cos) for each bin."
    fail(ValueError, function, rule, shapes_of(**arrays), remedy)


class RotationLoss(Loss):
    """:func:`rotation_loss` as a module.

    Args:
        reducer: Maps the residual losses of a bin to the result; must accept ``where``.
        num_bins: Number of bins, at least 1.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the rows are sharded.

    Example:
        >>> loss = RotationLoss(mean_loss, num_bins=1)
        >>> print(loss(jnp.array([[0.0, 0.5, 1.0]]), jnp.array([[1.0]]), jnp.array([[0.0]])))
        0.8181472
    """

    num_bins: int = 2
    axis_name: AxisName | None = dataclasses.field(default=None, kw_only=True)

    def _check_options(self) -> None:
        check_integer(type(self).__name__, num_bins=self.num_bins)
        check_positive(type(self).__name__, num_bins=self.num_bins)

    def __call__(
        self,
        pred: ArrayLike,
        target_bin: ArrayLike,
        target_res: ArrayLike,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        """Compute and reduce the losses.

        Args:
            pred: ``[B, >= 3 n]`` for n bins: n logits, then (sin, cos) for each bin.
            target_bin: ``[B, n]``, from 0 to 1.
            target_res: ``[B, >= n]``, residual angles in radians.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid rows, ``[B]``. Padding may contain anything, NaN included.

        Returns:
            A scalar, or one loss per row ``[B]`` if the reducer keeps the rows.
        """
        return rotation_loss(
            pred,
            target_bin,
            target_res,
            self.num_bins,
            self._reducer_for_call(reducer),
            where=where,
            axis_name=self.axis_name,
        )
