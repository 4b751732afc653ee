"""IoU loss: 1 - IoU, 1 - IoU squared, or -log(IoU) of two boxes."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from vis4d_jax_loss._box_pairs import on_pairs
from vis4d_jax_loss._checks import check_number, fail
from vis4d_jax_loss._reduce_loss import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.box import IOU
from vis4d_jax_loss.losses._inputs import read_boxes
from vis4d_jax_loss.reducer import LossReducer, identity_loss

#: The formula of :func:`iou_loss`.
IoUMode = Literal["linear", "square", "log"]


@jax.named_scope("iou_loss")
def iou_loss(
    pred: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    mode: IoUMode = "log",
    eps: float | jax.Array = 1e-6,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""IoU loss of each predicted box and the target box at the same index.

    .. math::
        u = \max(\mathrm{IoU}, \mathrm{eps}) \qquad
        \ell = 1 - u \text{ (linear)}, \quad 1 - u^2 \text{ (square)}, \quad -\log u \text{ (log)}

    IoU is the area of the intersection divided by the area of the union. If it is below ``eps``,
    the loss is that of ``eps`` and the gradient is 0. This includes boxes that do not overlap and
    boxes without area, even identical ones.

    Args:
        pred: Boxes ``[..., 4]`` as (x1, y1, x2, y2), in pixels or normalised. Half precision is
            computed in float32.
        target: Boxes of the same shape.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        mode: ``"linear"``, ``"square"`` or ``"log"``.
        eps: Lower limit of the IoU. It keeps the logarithm finite.
        where: Mask of valid boxes, ``[...]``. Padding may contain anything, NaN included.

    Returns:
        What ``reducer`` returns; by default one loss per box, ``[...]``.

    Raises:
        ValueError: If the shapes do not match, the last axis is not 4, ``mode`` is unknown, or
            ``eps`` is not below 1.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> pred = jnp.array([[0.0, 0.0, 2.0, 2.0]])
        >>> target = jnp.array([[0.0, 0.0, 4.0, 2.0]])
        >>> print(iou_loss(pred, target, mode="linear"))
        [0.5]

    References:
        Yu et al., UnitBox: An Advanced Object Detection Network, ACM MM 2016 (mode "log").
    """
    _check_mode_and_eps("iou_loss", mode, eps)
    pred, target, mask = read_boxes("iou_loss", pred, target, where)

    iou = on_pairs(IOU, pred, target)
    # XLA may round an eps below the smallest normal number to 0, and log(0) is infinite. At eps
    # itself the whole gradient passes, as in vis4d; jnp.maximum would halve it. NaN stays NaN.
    tiny = float(jnp.finfo(iou.dtype).tiny)
    eps = jnp.maximum(eps, tiny) if isinstance(eps, jax.Array) else max(float(eps), tiny)
    iou = jnp.where(iou < eps, eps, iou)

    match mode:
        case "linear":
            loss = 1 - iou
        case "square":
            loss = 1 - jnp.square(iou)
        case "log":
            loss = 0 - jnp.log(iou)  # -jnp.log(1) would be -0
    return reduce_loss(reducer, loss, mask)


def _check_mode_and_eps(function: str, mode: Any, eps: Any) -> None:
    check_number(function, eps=eps)
    if mode not in ("linear", "square", "log"):
        rule = "mode must be one of 'linear', 'square', 'log'"
        fail(ValueError, function, rule, f"mode {mode!r}")
    if not isinstance(eps, Tracer) and not eps < 1:
        fail(ValueError, function, "eps must be below 1", f"eps {eps}")


class IoULoss(Loss):
    """:func:`iou_loss` as a module.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        mode: ``"linear"``, ``"square"`` or ``"log"``.
        eps: Lower limit of the IoU. It keeps the logarithm finite.

    Example:
        >>> loss = IoULoss(mean_loss, mode="square")
        >>> print(loss(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[0.0, 0.0, 4.0, 2.0]])))
        0.75
    """

    mode: IoUMode = "log"
    eps: float = 1e-6

    def _check_options(self) -> None:
        _check_mode_and_eps(type(self).__name__, self.mode, self.eps)

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
            pred: Boxes ``[..., 4]`` as (x1, y1, x2, y2).
            target: Boxes of the same shape.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid boxes, ``[...]``. Padding may contain anything, NaN included.

        Returns:
            What the reducer returns; by default one loss per box, ``[...]``.
        """
        reducer = self._reducer_for_call(reducer)
        return iou_loss(pred, target, reducer, self.mode, self.eps, where=where)
