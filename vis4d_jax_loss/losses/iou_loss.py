"""IoU loss: how little of each other a predicted and a target box cover."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss import _checks, _value_checks
from vis4d_jax_loss._numerics import to_float
from vis4d_jax_loss._reduction import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.box import paired_iou
from vis4d_jax_loss.losses.common import paired
from vis4d_jax_loss.reducer import LossReducer, identity_loss

IoUMode = Literal["linear", "square", "log"]


def iou_loss(
    pred: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    mode: IoUMode = "log",
    eps: float = 1e-6,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""IoU loss of box i with box i.

    .. math::
        u = \max(\mathrm{IoU}, \mathrm{eps}) \qquad
        \ell = 1 - u \text{ (linear)}, \quad 1 - u^2 \text{ (square)}, \quad -\log u \text{ (log)}

    Boxes that share no area (apart, touching, degenerate or inverted) have the loss of ``eps`` and
    gradient 0: the IoU cannot tell them in which direction to move.

    Args:
        pred: Boxes ``[..., 4]`` as (x1, y1, x2, y2), any unit; half precision is computed in
            float32, in which boxes of 30,000 pixels are exact enough and 256 are no overflow.
        target: Boxes of the same shape.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        mode: ``"linear"``, ``"square"`` or ``"log"``.
        eps: Lower bound of the IoU, so that the logarithm is finite.
        where: True for real boxes ``[...]``, False for padding, which may hold anything, NaN
            included, and changes neither the value nor the gradient.

    Returns:
        What ``reducer`` returns; by default one loss a box, ``[...]``.

    Raises:
        ValueError: If the shapes differ, the last axis is not 4, ``mode`` is unknown or ``where``
            does not fit.
        TypeError: If the boxes are not real, or ``where`` not boolean.

    Example:
        >>> pred = jnp.array([[0.0, 0.0, 2.0, 2.0]])
        >>> target = jnp.array([[0.0, 0.0, 4.0, 2.0]])
        >>> print(iou_loss(pred, target, mode="linear"))
        [0.5]

    References:
        Yu et al., UnitBox: An Advanced Object Detection Network, ACM MM 2016 (log).
    """
    _check_mode("iou_loss", mode)
    pred, target = jnp.asarray(pred), jnp.asarray(target)
    _checks.check_same_shape("iou_loss", pred=pred, target=target)
    _checks.check_boxes("iou_loss", pred=pred, target=target)
    mask = None if where is None else jnp.asarray(where)
    _checks.check_where("iou_loss", mask, pred.shape[:-1])
    pred, target, mask = paired("iou_loss", pred, target, mask)
    pred, target = _value_checks.expect_ordered_boxes("iou_loss", pred=pred, target=target)

    iou = paired_iou(*to_float(pred, target))
    eps = max(eps, float(jnp.finfo(iou.dtype).tiny))
    # The whole gradient passes at eps itself, as in torch's clamp; NaN stays NaN.
    iou = jnp.where(iou < eps, eps, iou)
    losses = {
        "linear": lambda: 1 - iou,
        "square": lambda: 1 - jnp.square(iou),
        "log": lambda: -jnp.log(iou),
    }
    return reduce_loss(reducer, losses[mode](), mask)


def _check_mode(function: str, mode: str) -> None:
    _checks.check_option(function, "mode", mode, ("linear", "square", "log"))


class IoULoss(Loss):
    """:func:`iou_loss` as a module.

    Example:
        >>> loss = IoULoss(mean_loss, mode="square")
        >>> print(loss(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[0.0, 0.0, 4.0, 2.0]])))
        0.75
    """

    mode: IoUMode = "log"
    eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_mode("IoULoss", self.mode)

    def __call__(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        return iou_loss(
            pred, target, self.choose(reducer), mode=self.mode, eps=self.eps, where=where
        )
