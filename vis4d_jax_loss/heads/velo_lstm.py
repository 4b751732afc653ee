"""The losses of VeloLSTM, which refines and predicts the motion of 3D boxes."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import (
    check_integer,
    check_layout,
    check_mask,
    check_number,
    check_numeric,
    check_positive,
    fail,
    shapes_of,
)
from vis4d_jax_loss._mesh_axis import AxisName
from vis4d_jax_loss._numerics import as_array, as_option, fill_masked, to_common_float
from vis4d_jax_loss._reduce_loss import over_shards
from vis4d_jax_loss.base import HeadLoss
from vis4d_jax_loss.losses.common import l1_loss
from vis4d_jax_loss.losses.smooth_l1_loss import smooth_l1_loss
from vis4d_jax_loss.reducer import mean_loss


@jax.named_scope("velo_lstm_loss")
def velo_lstm_loss(
    loc_preds: ArrayLike,
    loc_refines: ArrayLike,
    gt_traj: ArrayLike,
    *,
    loc_dim: int = 7,
    smooth_weight: ArrayLike = 0.001,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> dict[str, jax.Array]:
    r"""Distances of refined and predicted trajectories to the true ones, and changes of motion.

    .. math::
        L_\mathrm{refine} &= \overline{\mathrm{SL1}}(r_t - g_t), \quad t = 2 \dots T \\
        L_\mathrm{pred} &= \overline{\mathrm{SL1}}(p_t - g_t), \quad t = 3 \dots T \\
        L_\mathrm{linear} &= w \, \overline{|(p_t - p_{t-1}) - (p_{t-1} - p_{t-2})|},
        \quad t = 5 \dots T

    with the true states :math:`g_1 \dots g_T`, the refined states :math:`r_2 \dots r_T`, the
    predicted states :math:`p_3 \dots p_{T+1}`, smooth L1 (SL1) and ``smooth_weight`` w. Each mean
    is over the valid trajectories, the times and the numbers of a state. The last prediction is
    about a time after the trajectory: it takes no part.

    Args:
        loc_preds: Predicted states, ``[B, T - 1, loc_dim]``. Entry i predicts entry i + 2 of
            ``gt_traj``. Half precision is computed in float32.
        loc_refines: Refined states, ``[B, T - 1, loc_dim]``. Entry i is the refined entry i + 1 of
            ``gt_traj``.
        gt_traj: True states, ``[B, T, >= loc_dim]``. They are constants without a gradient, and
            numbers after the first ``loc_dim`` are not used.
        loc_dim: Length of a state; 7 for position, angle and dimensions.
        smooth_weight: Factor of the change of motion.
        where: Mask of valid trajectories, ``[B]``. Padding may contain anything, NaN included.
        axis_name: Mesh axis (or axes) of a ``shard_map``. Sums and counts are added over it before
            dividing.

    Returns:
        ``{"refine_loss", "pred_loss", "linear_loss"}``, scalars. All are 0 if no trajectory
        is valid, and ``linear_loss`` is 0 if T < 5.

    Raises:
        ValueError: If the shapes do not match.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> preds = jnp.array([0.0, 1.0, 3.0, 7.0]).reshape(1, 4, 1)  # the 7 takes no part
        >>> gt_traj = jnp.zeros((1, 5, 1))
        >>> losses = velo_lstm_loss(preds, gt_traj[:, 1:], gt_traj, loc_dim=1, smooth_weight=0.5)
        >>> print({name: float(loss) for name, loss in losses.items()})
        {'refine_loss': 0.0, 'pred_loss': 1.0, 'linear_loss': 0.5}

    References:
        Hu et al., Monocular Quasi-Dense 3D Object Tracking, TPAMI 2022.
    """
    name = "velo_lstm_loss"
    arrays = as_array(loc_preds), as_array(loc_refines), as_array(gt_traj)
    _check_states(name, *arrays, loc_dim)
    check_number(name, smooth_weight=smooth_weight)
    mask = check_mask(name, where, arrays[0].shape[:1])
    preds, refines, truth = _read_states(name, *arrays, mask)
    reducer = over_shards(name, mean_loss, axis_name)

    motion = preds[:, 1:] - preds[:, :-1]
    change = motion[:, 1:] - motion[:, :-1]
    linear_loss = l1_loss(change, jnp.zeros_like(change), reducer, where=mask)
    return {
        "refine_loss": smooth_l1_loss(refines, truth, reducer, where=mask),
        "pred_loss": smooth_l1_loss(preds, truth[:, 1:], reducer, where=mask),
        "linear_loss": as_option(smooth_weight, linear_loss.dtype) * linear_loss,
    }


def _check_states(
    function: str, preds: jax.Array, refines: jax.Array, truth: jax.Array, loc_dim: int
) -> None:
    check_integer(function, loc_dim=loc_dim)
    check_positive(function, loc_dim=loc_dim)
    check_numeric(function, loc_preds=preds, loc_refines=refines, gt_traj=truth)
    layout = f"[B, T - 1, {loc_dim}]"
    check_layout(function, loc_preds=(preds, layout), loc_refines=(refines, layout))
    batch, times, _ = preds.shape
    fits = truth.ndim == 3 and truth.shape[:2] == (batch, times + 1)
    if not fits or truth.shape[2] < loc_dim:
        rule = f"gt_traj must be [B, T, >= {loc_dim}] if loc_preds is {layout}"
        remedy = "The first state of gt_traj has no prediction."
        fail(ValueError, function, rule, shapes_of(loc_preds=preds, gt_traj=truth), remedy)


def _read_states(
    function: str,
    preds: jax.Array,
    refines: jax.Array,
    truth: jax.Array,
    mask: jax.Array | None,
) -> list[jax.Array]:
    """The states that take part: predictions 3 to T, the others 2 to T. Padding is replaced."""
    arrays = dict(
        loc_preds=_select(preds, mask, 0, -1, preds.shape[2]),
        loc_refines=fill_masked(refines, mask),
        gt_traj=lax.stop_gradient(_select(truth, mask, 1, truth.shape[1], preds.shape[2])),
    )
    finite = (_value_checks.expect_finite(function, name, x) for name, x in arrays.items())
    return to_common_float(*finite)


# Called without jit, jax.debug_nans would stop at NaN in what is left out.
@partial(jax.jit, static_argnums=(2, 3, 4))
def _select(x: jax.Array, mask: jax.Array | None, first: int, last: int, numbers: int) -> jax.Array:
    return fill_masked(x[:, first:last, :numbers], mask)


class VeloLSTMLoss(HeadLoss):
    """:func:`velo_lstm_loss` as a module.

    Args:
        loc_dim: Length of a state; 7 for position, angle and dimensions.
        smooth_weight: Factor of the change of motion.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the trajectories are sharded.

    Example:
        >>> losses = VeloLSTMLoss(loc_dim=1)(
        ...     jnp.zeros((1, 2, 1)), jnp.ones((1, 2, 1)), jnp.zeros((1, 3, 1)))
        >>> print(losses["refine_loss"], losses["pred_loss"])
        0.5 0.0
    """

    loc_dim: int = 7
    smooth_weight: float = 0.001
    axis_name: AxisName | None = dataclasses.field(default=None, kw_only=True)

    def _check_options(self) -> None:
        name = type(self).__name__
        check_integer(name, loc_dim=self.loc_dim)
        check_positive(name, loc_dim=self.loc_dim)
        check_number(name, smooth_weight=self.smooth_weight)

    def __call__(
        self,
        loc_preds: ArrayLike,
        loc_refines: ArrayLike,
        gt_traj: ArrayLike,
        *,
        where: ArrayLike | None = None,
    ) -> dict[str, jax.Array]:
        """Compute the losses.

        Args:
            loc_preds: Predicted states, ``[B, T - 1, loc_dim]``.
            loc_refines: Refined states, ``[B, T - 1, loc_dim]``.
            gt_traj: True states, ``[B, T, >= loc_dim]``.
            where: Mask of valid trajectories, ``[B]``. Padding may contain anything, NaN included.

        Returns:
            ``{"refine_loss", "pred_loss", "linear_loss"}``, scalars.
        """
        return velo_lstm_loss(
            loc_preds,
            loc_refines,
            gt_traj,
            loc_dim=self.loc_dim,
            smooth_weight=self.smooth_weight,
            where=where,
            axis_name=self.axis_name,
        )
