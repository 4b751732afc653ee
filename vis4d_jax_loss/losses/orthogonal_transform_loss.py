"""Orthogonal-transform regularisation: how far learned transforms are from rotations."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss import _checks, _value_checks
from vis4d_jax_loss._numerics import blank, safe_divide, to_float
from vis4d_jax_loss._reduction import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.reducer import AxisName, LossReducer, identity_loss, mean_loss


def orthogonal_transform_regularization_loss(
    transforms: Sequence[ArrayLike],
    reducer: LossReducer = identity_loss,
    *,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""Distance of transforms from orthogonal ones: mean over the batch, summed over the list.

    .. math:: \ell = \sum_i \frac{1}{N_i} \sum_n \lVert X_{in} X_{in}^\top - I \rVert_F

    The gradient at an exactly orthogonal transform, such as the identity with which a T-Net
    starts, is 0. The norm is not squared, unlike in the paper, so that close to it the gradient
    has the length 2 in the direction of rounding errors.

    Args:
        transforms: List of arrays ``[N_i, r_i, c_i]``; the products are taken in full float32,
            of half precision too.
        reducer: Sees the one number that this loss is.
        where: True for real transforms ``[N]``, of every array in the list; padding may hold
            anything.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the batch is sharded; sums and
            counts are then added over it before dividing.

    Returns:
        What ``reducer`` makes of the scalar loss; 0 for an empty list or an empty batch.

    Raises:
        ValueError: If an array is not ``[N, r, c]``, or ``where`` does not fit.
        TypeError: If ``transforms`` is no list, an array not real, or ``where`` not boolean.

    Example:
        >>> print(orthogonal_transform_regularization_loss([2 * jnp.eye(4)[None]]))
        6.0

    References:
        Qi et al., PointNet, CVPR 2017, eq. 2.
    """
    name = "orthogonal_transform_regularization_loss"
    _checks.check_transforms(name, transforms)
    mask = None if where is None else jnp.asarray(where)
    total = jnp.zeros((), jnp.float32)
    for transform in transforms:
        transform = jnp.asarray(transform)
        _checks.check_real(name, transform=transform)
        _checks.check_rank(name, "[N, r, c]", transform=transform)
        _checks.check_where(name, mask, transform.shape[:1])
        (x,) = to_float(blank(transform, mask))
        x = _value_checks.expect_finite(name, transform=x)
        total += mean_loss(_distances(x), where=mask, axis_name=axis_name)
    return reduce_loss(reducer, total)


@jax.custom_jvp
def _distances(x: jax.Array) -> jax.Array:
    return jnp.linalg.norm(_excess(x), axis=(1, 2))


# The excess is symmetric: its gradient needs one product of matrices, where JAX would take two.
@_distances.defjvp
def _(primals, tangents):
    (x,), (change,) = primals, tangents
    norms = _distances(x)
    # 0 at an orthogonal transform, where the norm has no gradient.
    direction = _excess(x) * safe_divide(2.0, norms)[:, None, None]
    slope = jnp.matmul(direction, x, precision="highest")
    return norms, jnp.sum(slope * change, axis=(1, 2))


def _excess(x: jax.Array) -> jax.Array:
    """What each transform's product with its transpose has beyond the identity."""
    return jnp.matmul(x, x.mT, precision="highest") - jnp.eye(x.shape[1], dtype=x.dtype)[None]


class OrthogonalTransformRegularizationLoss(Loss):
    """:func:`orthogonal_transform_regularization_loss` as a module.

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
        return orthogonal_transform_regularization_loss(
            transforms, self.choose(reducer), where=where, axis_name=self.axis_name
        )
