"""L1 and L2: the absolute and the squared error."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss._numerics import even_in_difference
from vis4d_jax_loss._reduce_loss import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._inputs import read_elements
from vis4d_jax_loss.reducer import LossReducer, identity_loss


@jax.named_scope("l1_loss")
def l1_loss(
    pred: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""L1: the absolute error, with gradient 0 at an exact match, as in torch and vis4d.

    .. math:: \ell = |\mathrm{pred} - \mathrm{target}|

    Args:
        pred: Predictions of any shape and numeric dtype. Half precision is computed in float32.
        target: Targets of the same shape.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        where: Mask of valid elements over the leading axes, e.g. ``[N]`` for ``[N, 4]``. Padding
            may contain anything, NaN included.

    Returns:
        What ``reducer`` returns; by default one loss per element.

    Raises:
        ValueError: If the shapes do not match.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> print(l1_loss(jnp.array([0.5, 3.0]), jnp.zeros(2), mean_loss))
        1.75
    """
    pred, target, mask = read_elements("l1_loss", pred, target, where)
    # The derivative of jnp.abs at 0 is 1, and would move predictions that match exactly.
    return reduce_loss(reducer, even_in_difference(jnp.abs, jnp.sign, pred, target), mask)


@jax.named_scope("l2_loss")
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
        pred: Predictions of any shape and numeric dtype. Half precision is computed in float32.
        target: Targets of the same shape.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        where: Mask of valid elements over the leading axes, e.g. ``[N]`` for ``[N, 4]``. Padding
            may contain anything, NaN included.

    Returns:
        What ``reducer`` returns; by default one loss per element.

    Raises:
        ValueError: If the shapes do not match.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> print(l2_loss(jnp.array([0.5, 3.0]), jnp.zeros(2)))
        [0.25 9.  ]
    """
    pred, target, mask = read_elements("l2_loss", pred, target, where)
    loss = even_in_difference(jnp.square, lambda difference: 2 * difference, pred, target)
    return reduce_loss(reducer, loss, mask)


class L1Loss(Loss):
    """:func:`l1_loss` as a module.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.

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
        """Compute and reduce the losses.

        Args:
            pred: Predictions of any shape and numeric dtype.
            target: Targets of the same shape.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid elements. Padding may contain anything, NaN included.

        Returns:
            What the reducer returns; by default one loss per element.
        """
        return l1_loss(pred, target, self._reducer_for_call(reducer), where=where)


class L2Loss(Loss):
    """:func:`l2_loss` as a module.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.

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
        """Compute and reduce the losses.

        Args:
            pred: Predictions of any shape and numeric dtype.
            target: Targets of the same shape.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid elements. Padding may contain anything, NaN included.

        Returns:
            What the reducer returns; by default one loss per element.
        """
        return l2_loss(pred, target, self._reducer_for_call(reducer), where=where)
