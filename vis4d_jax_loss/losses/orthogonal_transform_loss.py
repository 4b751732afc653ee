"""Orthogonal-transform regularisation: how far learned transforms are from rotations."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import check_mask, check_numeric, check_rank, fail
from vis4d_jax_loss._numerics import as_array, fill_masked, safe_divide, to_float
from vis4d_jax_loss._reduce_loss import reduce_scalar
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.reducer import AxisName, LossReducer, identity_loss, mean_loss


@jax.named_scope("orthogonal_transform_regularization_loss")
def orthogonal_transform_regularization_loss(
    transforms: Sequence[ArrayLike],
    reducer: LossReducer = identity_loss,
    *,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""Distance of transforms from orthogonal ones: mean over the batch, summed over the list.

    .. math:: \ell = \sum_i \frac{1}{N_i} \sum_n \lVert X_{in} X_{in}^\top - I \rVert_F

    with transform :math:`X_{in}`, number n of the :math:`N_i` in array i, and the identity
    :math:`I`. At an exactly orthogonal transform the gradient is 0; T-Nets start there, at the
    identity. The norm is not squared, unlike in the paper. Close to an orthogonal transform the
    gradient therefore has length 2, in a direction that rounding errors decide.

    Args:
        transforms: List of arrays ``[N_i, r_i, c_i]``. Half precision is computed in float32.
        reducer: Applied to the scalar loss.
        where: Mask of valid transforms ``[N]``, the same for each array of the list. Padding may
            contain anything, NaN included.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the batch is sharded. Sums and
            counts are added over it before dividing.

    Returns:
        What ``reducer`` returns for the scalar loss, which is 0 for an empty list or batch.

    Raises:
        ValueError: If an array is not ``[N, r, c]``, or ``where`` does not fit.
        TypeError: If ``transforms`` is not a list or tuple, an array is not numeric, or ``where``
            is not boolean.

    Example:
        >>> print(orthogonal_transform_regularization_loss([2 * jnp.eye(4)[None]]))
        6.0

    References:
        Qi et al., PointNet, CVPR 2017, eq. 2.
    """
    name = "orthogonal_transform_regularization_loss"
    _check_list(name, transforms)
    total = jnp.zeros((), jnp.float32)
    for transform in transforms:
        transform = as_array(transform)
        check_numeric(name, transform=transform)
        check_rank(name, "[N, r, c]", transform=transform)
        mask = check_mask(name, where, transform.shape[:1])
        transform = to_float(fill_masked(transform, mask))
        transform = _value_checks.expect_finite(name, "transform", transform)
        total += mean_loss(_distances(transform), where=mask, axis_name=axis_name)
    return reduce_scalar(name, reducer, total)


@jax.custom_jvp
def _distances(x: jax.Array) -> jax.Array:
    """Distance of each transform from an orthogonal one."""
    _, norms, unit = _excess(x)
    return unit * norms


@_distances.defjvp
def _distances_jvp(primals, tangents):
    # The excess is symmetric, so the gradient needs one product of matrices; JAX would take two.
    # Where the norm is 0 it has no gradient: safe_divide makes it 0, as torch does.
    (x,), (change,) = primals, tangents
    excess, norms, unit = _excess(x)
    direction = (excess / unit[:, None, None]) * safe_divide(2.0, norms)[:, None, None]
    gradient = jnp.matmul(direction, x, precision="highest")
    return unit * norms, jnp.sum(gradient * change, axis=(1, 2))


def _excess(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Each transform times its transpose, minus the identity; its norm in a unit; and the unit.

    The unit is 1, except for numbers so large that their squares overflow. Both norms are computed,
    since that takes one pass; to find the unit first would take another.
    """
    excess = jnp.matmul(x, x.mT, precision="highest") - jnp.eye(x.shape[1], dtype=x.dtype)[None]
    limits = jnp.finfo(x.dtype)
    excess = jnp.clip(excess, -float(limits.max) / 16, float(limits.max) / 16)
    large = 2.0 ** (int(limits.maxexp) // 2)
    squares = jnp.sum(excess * excess, axis=(1, 2))
    small_squares = jnp.sum(jnp.square(excess / large), axis=(1, 2))
    overflows = ~(squares < float(limits.max))
    unit = lax.stop_gradient(jnp.where(overflows, large, 1).astype(x.dtype))
    return excess, jnp.sqrt(jnp.where(overflows, small_squares, squares)), unit


def _check_list(function: str, transforms: Any) -> None:
    if not isinstance(transforms, list | tuple):
        rule = "transforms must be a list of arrays [N, r, c]"
        remedy = "Put a single array into a list."
        fail(TypeError, function, rule, f"transforms {type(transforms).__name__}", remedy)


class OrthogonalTransformRegularizationLoss(Loss):
    """:func:`orthogonal_transform_regularization_loss` as a module.

    Args:
        reducer: Applied to the scalar loss.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the batch is sharded. Sums and
            counts are added over it before dividing.

    Example:
        >>> print(OrthogonalTransformRegularizationLoss()([2 * jnp.eye(4)[None]]))
        6.0
    """

    axis_name: AxisName | None = dataclasses.field(default=None, kw_only=True)

    def __call__(
        self,
        transforms: Sequence[ArrayLike],
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        """Compute the loss of a list of transforms.

        Args:
            transforms: List of arrays ``[N_i, r_i, c_i]``.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid transforms ``[N]``. Padding may contain anything, NaN included.

        Returns:
            What the reducer returns for the scalar loss.
        """
        return orthogonal_transform_regularization_loss(
            transforms, self._reducer_for_call(reducer), where=where, axis_name=self.axis_name
        )
