"""GIoU, DIoU and CIoU: IoU losses that also have a gradient for boxes that do not overlap."""

import jax
from jax.typing import ArrayLike

from vis4d_jax_loss._box_pairs import on_pairs
from vis4d_jax_loss._reduce_loss import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._giou import CIOU, DIOU, GIOU
from vis4d_jax_loss.losses._inputs import read_boxes
from vis4d_jax_loss.reducer import LossReducer, identity_loss


@jax.named_scope("giou_loss")
def giou_loss(
    pred: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Generalized IoU loss of each predicted box and the target box at the same index.

    .. math:: \ell = 1 - \mathrm{IoU} + \frac{C - U}{C}

    with the area :math:`U` of the union and the area :math:`C` of the smallest box around both. It
    is 0 for identical boxes and close to 2 for boxes that are far apart.

    An inverted box has area 0. If :math:`C` is 0, the loss is 1 and the gradient is 0.

    Args:
        pred: Boxes ``[..., 4]`` as (x1, y1, x2, y2), in pixels or normalised. Half precision is
            computed in float32.
        target: Boxes of the same shape.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        where: Mask of valid boxes, ``[...]``. Padding may contain anything, NaN included.

    Returns:
        What ``reducer`` returns; by default one loss per box, ``[...]``.

    Raises:
        ValueError: If the shapes do not match, or the last axis is not 4.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> pred, target = jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.array([2.0, 0.0, 3.0, 1.0])
        >>> print(giou_loss(pred, target).round(4))  # 1 - 0 + (3 - 2) / 3
        1.3333

    References:
        Rezatofighi et al., Generalized Intersection over Union, CVPR 2019.
    """
    pred, target, mask = read_boxes("giou_loss", pred, target, where)
    return reduce_loss(reducer, on_pairs(GIOU, pred, target), mask)


@jax.named_scope("diou_loss")
def diou_loss(
    pred: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Distance IoU loss of each predicted box and the target box at the same index.

    .. math:: \ell = 1 - \mathrm{IoU} + \frac{d^2}{c^2}

    with the distance :math:`d` of the centers and the diagonal :math:`c` of the smallest box around
    both. If :math:`c` is 0, the loss is 1 and the gradient is 0.

    Args:
        pred: Boxes ``[..., 4]``, as in :func:`giou_loss`.
        target: Boxes of the same shape.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        where: Mask of valid boxes, ``[...]``. Padding may contain anything, NaN included.

    Returns:
        What ``reducer`` returns; by default one loss per box, ``[...]``.

    Raises:
        ValueError: If the shapes do not match, or the last axis is not 4.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> pred, target = jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.array([2.0, 0.0, 3.0, 1.0])
        >>> print(diou_loss(pred, target))  # 1 - 0 + 2**2 / (3**2 + 1**2)
        1.4

    References:
        Zheng et al., Distance-IoU Loss, AAAI 2020.
    """
    pred, target, mask = read_boxes("diou_loss", pred, target, where)
    return reduce_loss(reducer, on_pairs(DIOU, pred, target), mask)


@jax.named_scope("ciou_loss")
def ciou_loss(
    pred: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Complete IoU loss of each predicted box and the target box at the same index.

    .. math::
        \ell = 1 - \mathrm{IoU} + \frac{d^2}{c^2} + \alpha v \qquad
        v = \frac{4}{\pi^2} (\theta_t - \theta_p)^2 \qquad
        \alpha = \frac{v}{1 - \mathrm{IoU} + v}

    This is :func:`diou_loss` and a penalty for a different ratio of width :math:`w` to height
    :math:`h`. The angle :math:`\theta` of a box is ``atan2(w, h)``. The weight :math:`\alpha` has
    no gradient, and it is 0 where :math:`v` is 0.

    Args:
        pred: Boxes ``[..., 4]``, as in :func:`giou_loss`.
        target: Boxes of the same shape.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        where: Mask of valid boxes, ``[...]``. Padding may contain anything, NaN included.

    Returns:
        What ``reducer`` returns; by default one loss per box, ``[...]``.

    Raises:
        ValueError: If the shapes do not match, or the last axis is not 4.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> pred, target = jnp.array([0.0, 0.0, 2.0, 2.0]), jnp.array([0.0, 0.0, 2.0, 1.0])
        >>> print(ciou_loss(pred, target).round(4))  # DIoU loss of 1 - 1/2 + 0.5**2 / (2**2 + 2**2)
        0.5345

    References:
        Zheng et al., Distance-IoU Loss, AAAI 2020.
    """
    pred, target, mask = read_boxes("ciou_loss", pred, target, where)
    return reduce_loss(reducer, on_pairs(CIOU, pred, target), mask)


class GIoULoss(Loss):
    """:func:`giou_loss` as a module.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.

    Example:
        >>> boxes = jnp.array([[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0]])
        >>> print(GIoULoss(mean_loss)(boxes, boxes))
        0.0
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
            pred: Boxes ``[..., 4]`` as (x1, y1, x2, y2).
            target: Boxes of the same shape.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid boxes, ``[...]``. Padding may contain anything, NaN included.

        Returns:
            What the reducer returns; by default one loss per box, ``[...]``.
        """
        return giou_loss(pred, target, self._reducer_for_call(reducer), where=where)


class DIoULoss(Loss):
    """:func:`diou_loss` as a module.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.

    Example:
        >>> boxes = jnp.array([[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0]])
        >>> print(DIoULoss(mean_loss)(boxes, boxes[::-1]))
        1.4
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
            pred: Boxes ``[..., 4]`` as (x1, y1, x2, y2).
            target: Boxes of the same shape.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid boxes, ``[...]``. Padding may contain anything, NaN included.

        Returns:
            What the reducer returns; by default one loss per box, ``[...]``.
        """
        return diou_loss(pred, target, self._reducer_for_call(reducer), where=where)


class CIoULoss(Loss):
    """:func:`ciou_loss` as a module.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.

    Example:
        >>> boxes = jnp.array([[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0]])
        >>> print(CIoULoss(mean_loss)(boxes, boxes[::-1]))
        1.4
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
            pred: Boxes ``[..., 4]`` as (x1, y1, x2, y2).
            target: Boxes of the same shape.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid boxes, ``[...]``. Padding may contain anything, NaN included.

        Returns:
            What the reducer returns; by default one loss per box, ``[...]``.
        """
        return ciou_loss(pred, target, self._reducer_for_call(reducer), where=where)
