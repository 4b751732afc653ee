"""Smooth L1: quadratic for small errors, linear for large ones."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import check_positive
from vis4d_jax_loss._numerics import difference, even_in_difference, safe_divide, to_common_float
from vis4d_jax_loss._reduce_loss import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._inputs import read_elements
from vis4d_jax_loss.reducer import LossReducer, identity_loss

_LONG_AXIS = 16  # From this length on, the formula avoids `jnp.where`: see `_smooth_absolute`.


@jax.named_scope("smooth_l1_loss")
def smooth_l1_loss(
    pred: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    beta: float | jax.Array = 1.0,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Smooth L1: quadratic for small errors, linear for large ones.

    .. math::
        \ell(d) = \begin{cases} d^2 / 2\beta & |d| < \beta \\ |d| - \beta / 2 & \text{else}
        \end{cases} \qquad d = \mathrm{pred} - \mathrm{target}

    Args:
        pred: Predictions of any shape and numeric dtype. Half precision is computed in float32.
        target: Targets of the same shape.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        beta: Error at which the quadratic part ends, in the units of ``pred``; positive.
        where: Mask of valid elements over the leading axes, e.g. ``[N]`` for ``[N, 4]``. Padding
            may contain anything, NaN included.

    Returns:
        What ``reducer`` returns; by default one loss per element.

    Raises:
        ValueError: If the shapes do not match, or ``beta`` is not positive.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> print(smooth_l1_loss(jnp.array([0.5, 3.0]), jnp.zeros(2)))
        [0.125 2.5  ]

    References:
        Girshick, Fast R-CNN, ICCV 2015, eq. 3. ``optax.huber_loss`` is ``beta`` times this loss.
    """
    check_positive("smooth_l1_loss", "For beta=0 use l1_loss.", beta=beta)
    pred, target, mask = read_elements("smooth_l1_loss", pred, target, where)

    # Outside of these limits, beta or 4 / beta would round to 0 or infinity, and the loss be NaN.
    limits = jnp.finfo(jnp.float32)
    lowest, largest = 4 * float(limits.tiny), float(limits.max)
    if isinstance(beta, jax.Array):
        error, beta = to_common_float(difference(pred, target), jnp.clip(beta, lowest, largest))
        return reduce_loss(reducer, _with_gradient_of_beta(error, beta), mask)

    beta = min(max(float(beta), lowest), largest)
    value, derivative = (partial(f, beta=beta) for f in (_smooth_absolute, _smooth_sign))
    return reduce_loss(reducer, even_in_difference(value, derivative, pred, target), mask)


def _smooth_absolute(x: jax.Array, beta: Any) -> jax.Array:
    distance = jnp.abs(x)
    length = x.shape[-1] if x.ndim else 1
    # Under jax.export the length may be symbolic.
    if not isinstance(length, int) or length < _LONG_AXIS:
        square = (0.5 / beta) * distance * distance
        return jnp.where(distance < beta, square, distance - 0.5 * beta)
    # The same function without `jnp.where`, whose result XLA on a CPU would store to sum a long
    # axis. It uses 4 / beta and not 1 / beta: the derivative contains 1 / beta, and XLA would store
    # an array for a constant that both share.
    four_slopes = jnp.minimum(distance * (4 / beta), 4)
    return four_slopes * (0.25 * distance - beta / 32 * four_slopes)


def _smooth_sign(x: jax.Array, beta: float) -> jax.Array:
    return jnp.clip(x * (1 / beta), -1, 1)


# JAX's own derivative contains 1 / beta^2, which overflows for small beta.
@jax.custom_jvp
def _with_gradient_of_beta(x: jax.Array, beta: jax.Array) -> jax.Array:
    return _smooth_absolute(x, beta)


@_with_gradient_of_beta.defjvp
def _with_gradient_of_beta_jvp(primals, tangents):
    (x, beta), (dx, dbeta) = primals, tangents
    ratio = safe_divide(jnp.minimum(jnp.abs(x), beta), beta)
    slope = jnp.sign(x) * ratio
    return _with_gradient_of_beta(x, beta), slope * dx - 0.5 * ratio * ratio * dbeta


class SmoothL1Loss(Loss):
    """:func:`smooth_l1_loss` as a module.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        beta: Error at which the quadratic part ends; positive.

    Example:
        >>> print(SmoothL1Loss(jnp.sum, beta=0.5)(jnp.array([0.5, 3.0]), jnp.zeros(2)))
        3.0
    """

    beta: float = 1.0

    def _check_options(self) -> None:
        check_positive(type(self).__name__, "For beta=0 use L1Loss.", beta=self.beta)

    def __call__(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        """Compute and reduce the losses.

        Args:
            pred: Predictions of any shape and numeric dtype.
            target: Targets of the same shape.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid elements. Padding may contain anything, NaN included.

        Returns:
            What the reducer returns; by default one loss per element.
        """
        return smooth_l1_loss(pred, target, self._reducer_for_call(reducer), self.beta, where=where)
