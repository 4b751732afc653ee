"""Regression losses: smooth L1, L1 and L2."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss import _checks, _value_checks
from vis4d_jax_loss._numerics import blank, of_difference
from vis4d_jax_loss._reduction import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.reducer import LossReducer, identity_loss

_LONG = 16  # of a last axis


def smooth_l1_loss(
    pred: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    beta: float = 1.0,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Smooth L1: quadratic below ``beta``, linear above.

    .. math::
        \ell(d) = \begin{cases} d^2 / 2\beta & |d| < \beta \\ |d| - \beta / 2 & \text{else}
        \end{cases} \qquad d = \mathrm{pred} - \mathrm{target}

    Args:
        pred: Predictions of any shape and real dtype; half precision is computed in float32.
        target: Targets of the same shape.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        beta: Where the quadratic part ends, in the units of ``pred``; positive.
        where: True for real elements, covering the leading axes (``[N]`` for ``[N, 4]``). Padding
            may hold anything, NaN included, and changes neither the value nor the gradient.

    Returns:
        What ``reducer`` returns; by default one loss an element.

    Raises:
        ValueError: If the shapes differ, ``beta`` is not positive, or ``where`` does not fit.
        TypeError: If ``pred`` or ``target`` is not real, or ``where`` not boolean.

    Example:
        >>> print(smooth_l1_loss(jnp.array([0.5, 3.0]), jnp.zeros(2)))
        [0.125 2.5  ]

    References:
        Girshick, Fast R-CNN, ICCV 2015, eq. 3. ``optax.huber_loss`` is ``beta`` times this.
    """
    _checks.check_positive("smooth_l1_loss", "For beta=0 use l1_loss.", beta=beta)
    pred, target, mask = paired("smooth_l1_loss", pred, target, where)
    # Beyond, it or 4 / beta would round to 0 or infinity: 0 / 0, or 0 times infinity.
    limits = jnp.finfo(jnp.result_type(pred, target, jnp.float32))
    beta = min(max(beta, 4 * float(limits.tiny)), float(limits.max))
    value, slope = (partial(f, beta=beta) for f in (_smooth_absolute, _smooth_sign))
    loss = of_difference(value, slope, pred, target)
    return reduce_loss(reducer, loss, mask)


def _smooth_absolute(x: jax.Array, beta: float) -> jax.Array:
    distance = jnp.abs(x)
    length = x.shape[-1] if x.ndim else 1
    if not isinstance(length, int) or length < _LONG:  # or a symbol of jax.export
        square = (0.5 / beta) * distance * distance
        return jnp.where(distance < beta, square, distance - 0.5 * beta)
    # The same without a where, which XLA stores before summing it on a CPU: half the time for a
    # vector of 8 million, but three times as long for boxes. And from four times the slope, since
    # a constant that the derivative has too would be stored.
    slopes = jnp.minimum(distance * (4 / beta), 4)
    return slopes * (0.25 * distance - beta / 32 * slopes)


def _smooth_sign(x: jax.Array, beta: float) -> jax.Array:
    return jnp.clip(x * (1 / beta), -1, 1)


def l1_loss(
    pred: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""L1: the absolute error, with gradient 0 at an exact match.

    .. math:: \ell = |\mathrm{pred} - \mathrm{target}|

    Args:
        pred: Predictions of any shape and real dtype; half precision is computed in float32.
        target: Targets of the same shape.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        where: True for real elements, covering the leading axes; padding may hold anything.

    Returns:
        What ``reducer`` returns; by default one loss an element.

    Raises:
        ValueError: If the shapes differ or ``where`` does not fit.
        TypeError: If ``pred`` or ``target`` is not real, or ``where`` not boolean.

    Example:
        >>> print(l1_loss(jnp.array([0.5, 3.0]), jnp.zeros(2), mean_loss))
        1.75

    References:
        ``l1_loss`` of ``vis4d.op.loss.common``, whose gradient is 0 at an exact match as well.
    """
    pred, target, mask = paired("l1_loss", pred, target, where)
    # jnp.abs has gradient 1 at 0, and would pull exact matches apart.
    return reduce_loss(reducer, of_difference(jnp.abs, jnp.sign, pred, target), mask)


def l2_loss(
    pred: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""L2: the squared error, not halved (``optax.l2_loss`` is half of it).

    .. math:: \ell = (\mathrm{pred} - \mathrm{target})^2

    Args:
        pred: Predictions of any shape and real dtype; half precision is computed in float32.
        target: Targets of the same shape.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        where: True for real elements, covering the leading axes; padding may hold anything.

    Returns:
        What ``reducer`` returns; by default one loss an element.

    Raises:
        ValueError: If the shapes differ or ``where`` does not fit.
        TypeError: If ``pred`` or ``target`` is not real, or ``where`` not boolean.

    Example:
        >>> print(l2_loss(jnp.array([0.5, 3.0]), jnp.zeros(2)))
        [0.25 9.  ]

    References:
        ``l2_loss`` of ``vis4d.op.loss.common``.
    """
    pred, target, mask = paired("l2_loss", pred, target, where)
    loss = of_difference(jnp.square, lambda difference: 2 * difference, pred, target)
    return reduce_loss(reducer, loss, mask)


def paired(
    function: str, pred: ArrayLike, target: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Check predictions against targets of the same shape, and make padding harmless."""
    pred, target = jnp.asarray(pred), jnp.asarray(target)
    mask = None if where is None else jnp.asarray(where)
    _checks.check_real(function, pred=pred, target=target)
    _checks.check_same_shape(function, pred=pred, target=target)
    _checks.check_where(function, mask, pred.shape)
    pred, target = blank(pred, mask), blank(target, mask)
    return _value_checks.expect_finite(function, pred=pred), target, mask


class SmoothL1Loss(Loss):
    """:func:`smooth_l1_loss` as a module.

    Example:
        >>> print(SmoothL1Loss(jnp.sum, beta=0.5)(jnp.array([0.5, 3.0]), jnp.zeros(2)))
        3.0
    """

    beta: float = 1.0

    def __call__(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        return smooth_l1_loss(pred, target, self.choose(reducer), self.beta, where=where)


class L1Loss(Loss):
    """:func:`l1_loss` as a module.

    Example:
        >>> print(L1Loss(mean_loss)(jnp.array([0.5, 3.0]), jnp.zeros(2)))
        1.75
    """

    def __call__(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        return l1_loss(pred, target, self.choose(reducer), where=where)


class L2Loss(Loss):
    """:func:`l2_loss` as a module.

    Example:
        >>> print(L2Loss(mean_loss)(jnp.array([0.5, 3.0]), jnp.zeros(2)))
        4.625
    """

    def __call__(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        return l2_loss(pred, target, self.choose(reducer), where=where)
