"""Rotation loss: overlapping angle bins and a residual angle in each."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss import _checks, _value_checks
from vis4d_jax_loss._numerics import blank, cover, sine_and_cosine, to_float
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses.common import smooth_l1_loss
from vis4d_jax_loss.reducer import AxisName, LossReducer, identity_loss, mean_loss


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
    r"""Rotation as overlapping angle bins: which are active, and the residual angle in each.

    .. math::
        \sum_i \overline{\mathrm{BCE}}(p_i, b_i) + \sum_i \mathrm{red}_{\,b_i = 1}\,
        \mathrm{SL1}(s_i - \sin r_i) + \mathrm{red}_{\,b_i = 1}\, \mathrm{SL1}(c_i - \cos r_i)

    with the mean of the cross-entropy over the rows, whatever the reducer, and the residuals of a
    bin reduced over its active rows (target exactly 1); a bin without any adds 0. If ``reducer``
    keeps the rows, as ``identity_loss`` does, the result is each row's own cross-entropy, summed
    over the bins, plus its reduced residuals.

    Args:
        pred: ``[B, >= 3 n]`` for n bins: n logits, then (sin, cos) for each bin.
        target_bin: ``[B, n]``, from 0 to 1; any dtype, boolean too.
        target_res: ``[B, >= n]``, residual angles in radians.
        num_bins: n, at least 1.
        reducer: Maps a bin's residual losses to the result; must take ``where``, as ``mean_loss``,
            ``sum_loss`` and ``jnp.mean`` do, since most rows are not active.
        where: True for real rows ``[B]``; padding may hold anything.
        axis_name: Mesh axis (or axes) of a ``shard_map`` for the mean of the cross-entropy; give
            the reducer its own with ``OverAxis``.

    Returns:
        A scalar for a reducer that makes one, or one loss a row ``[B]``.

    Raises:
        ValueError: If the shapes do not fit ``num_bins`` or one another, or ``where`` the rows.
        TypeError: If an input is not real, ``where`` not boolean, or ``reducer`` takes no mask.

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
    pred, target_res = jnp.asarray(pred), jnp.asarray(target_res)
    target_bin = jnp.asarray(target_bin)
    _checks.check_positive(name, num_bins=num_bins)
    _checks.check_real(name, pred=pred, target_res=target_res)
    _checks.check_labels(name, target_bin)
    _checks.check_rotation(name, pred, target_bin, target_res, num_bins)
    mask = None if where is None else jnp.asarray(where)
    _checks.check_where(name, mask, pred.shape[:1])

    pred, target_res = to_float(pred[:, : 3 * num_bins], target_res[:, :num_bins])
    pred, target_bin = blank(pred, mask), blank(target_bin.astype(pred.dtype), mask)
    logits, values = jnp.split(pred, [num_bins], axis=-1)
    logits = _value_checks.expect_finite(name, pred=logits)
    bins = jnp.sum(_binary_cross_entropy(logits, target_bin), axis=-1)

    active = target_bin == 1 if mask is None else (target_bin == 1) & cover(mask, target_bin.shape)
    angles = blank(target_res, active)
    goals = jnp.stack(sine_and_cosine(angles), axis=-1)

    def residual(value: jax.Array, goal: jax.Array, active: jax.Array) -> jax.Array:
        return smooth_l1_loss(value, goal, reducer, where=active)

    # Sine and cosine share their bin's mask, whose rows are counted once.
    of_bin = jax.vmap(residual, in_axes=(1, 1, None), out_axes=-1)
    each_bin = jax.vmap(of_bin, in_axes=1, out_axes=-1)
    residuals = jnp.sum(each_bin(values.reshape(goals.shape), goals, active), axis=(-2, -1))
    keeps_rows = residuals.shape == bins.shape
    bins = blank(bins, mask) if keeps_rows else mean_loss(bins, where=mask, axis_name=axis_name)
    return bins + residuals


# optax.sigmoid_binary_cross_entropy takes twice the exponentials, and twice the time on a CPU.
@jax.custom_jvp
def _binary_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    # Not softplus(x) - x t: here the large parts of x and x t cancel exactly.
    rest = jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return jnp.maximum(logits, 0) - logits * target + rest


@_binary_cross_entropy.defjvp
def _(primals, tangents):
    (logits, target), (d_logits, d_target) = primals, tangents
    slope = jax.nn.sigmoid(logits) - target
    return _binary_cross_entropy(logits, target), slope * d_logits - logits * d_target


class RotationLoss(Loss):
    """:func:`rotation_loss` as a module.

    Example:
        >>> loss = RotationLoss(mean_loss, num_bins=1)
        >>> print(loss(jnp.array([[0.0, 0.5, 1.0]]), jnp.array([[1.0]]), jnp.array([[0.0]])))
        0.8181472
    """

    num_bins: int = 2
    axis_name: AxisName | None = dataclasses.field(default=None, kw_only=True)

    def __call__(
        self,
        pred: ArrayLike,
        target_bin: ArrayLike,
        target_res: ArrayLike,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        return rotation_loss(
            pred,
            target_bin,
            target_res,
            self.num_bins,
            self.choose(reducer),
            where=where,
            axis_name=self.axis_name,
        )
