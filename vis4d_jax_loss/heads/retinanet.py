"""The losses of RetinaNet's head: a focal loss of all anchors, and boxes."""

import jax
from jax.typing import ArrayLike

from vis4d_jax_loss._mesh_axis import AxisName
from vis4d_jax_loss.heads._assigned import InnerLoss
from vis4d_jax_loss.heads.dense_anchor import (
    DenseAnchorHeadLoss,
    DenseAnchorHeadLosses,
    dense_anchor_head_loss,
)
from vis4d_jax_loss.losses.common import l1_loss
from vis4d_jax_loss.losses.focal_loss import sigmoid_focal_loss


@jax.named_scope("retinanet_head_loss")
def retinanet_head_loss(
    cls_outs: ArrayLike,
    reg_outs: ArrayLike,
    labels: ArrayLike,
    bbox_targets: ArrayLike,
    *,
    loss_cls: InnerLoss = sigmoid_focal_loss,
    loss_bbox: InnerLoss = l1_loss,
    label_where: ArrayLike | None = None,
    bbox_where: ArrayLike | None = None,
    avg_factor: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> DenseAnchorHeadLosses:
    r"""Classify all anchors with a focal loss, and regress the boxes of those with an object.

    .. math::
        L_\mathrm{cls} = \frac{1}{n} \sum_{a \in S} \sum_c \mathrm{FL}(z_{ac}, [y_a = c]), \qquad
        L_\mathrm{bbox} = \frac{1}{n} \sum_{a \in F} \sum_{k=1}^4 |d_{ak} - t_{ak}|

    with the logits z, the labels y, the deltas d and their targets t, the anchors S that are
    counted, those of them F that have an object, and :math:`n = |S|`. FL is
    :func:`sigmoid_focal_loss`. It is :func:`dense_anchor_head_loss` with other defaults.

    Args:
        cls_outs: Class logits, ``[B, A, C]``, of A anchors per image.
        reg_outs: Box deltas, ``[B, A, 4]``.
        labels: Class of each anchor, ``[B, A]``: 0 to C - 1, and any other label is background.
            With a single logit per anchor, 1 is an object, and any other label is background.
        bbox_targets: Target deltas, ``[B, A, 4]``. All targets are constants without a gradient.
        loss_cls: Classification loss: a function or a module that is called as ``loss(cls_outs,
            one_hot, reducer=..., where=...)``.
        loss_bbox: Box loss, which is called in the same way.
        label_where: Mask of anchors that are counted, ``[B, A]`` or ``[B]``; by default all. Leave
            out anchors that are neither an object nor background.
        bbox_where: Mask of anchors with a box loss; by default the counted ones with an object.
        avg_factor: Scalar divisor n of both sums; by default the number of ``label_where``. The
            paper divides by the number of anchors with an object. Where it is 0, both losses are 0.
        axis_name: Mesh axis (or axes) of a ``shard_map``. Sums and divisors, also an ``avg_factor``
            that is given, are added over it before dividing.

    Returns:
        ``DenseAnchorHeadLosses(loss_cls, loss_bbox)``, scalars. Masked anchors may contain
        anything, NaN included.

    Raises:
        ValueError: If the shapes do not match.
        TypeError: If an input is not numeric, a mask is not boolean, or a loss is not callable.

    Example:
        >>> cls_outs, reg_outs = jnp.zeros((1, 2, 3)), jnp.full((1, 2, 4), 0.5)
        >>> labels = jnp.array([[2, -1]])  # an object of class 2, and background
        >>> losses = retinanet_head_loss(cls_outs, reg_outs, labels, jnp.zeros((1, 2, 4)))
        >>> print(16 * losses.loss_cls / jnp.log(2.0), losses.loss_bbox)  # .25 + 5 * .75 = 4
        8.0 1.0

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
    """
    return dense_anchor_head_loss(
        *(cls_outs, reg_outs, labels, bbox_targets),
        loss_cls=loss_cls,
        loss_bbox=loss_bbox,
        label_where=label_where,
        bbox_where=bbox_where,
        avg_factor=avg_factor,
        axis_name=axis_name,
    )


class RetinaNetHeadLoss(DenseAnchorHeadLoss):
    """:func:`retinanet_head_loss` as a module: :class:`DenseAnchorHeadLoss` with other defaults.

    Args:
        loss_cls: Classification loss, a function or a module.
        loss_bbox: Box loss, a function or a module.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the anchors are sharded.

    Example:
        >>> loss = RetinaNetHeadLoss(SigmoidFocalLoss(gamma=0.0, alpha=None))
        >>> losses = loss(jnp.zeros((1, 2, 3)), jnp.full((1, 2, 4), 0.5), jnp.array([[2, -1]]),
        ...     jnp.zeros((1, 2, 4)))
        >>> print(f"{losses.loss_cls / jnp.log(2.0):.3f}", losses.loss_bbox)
        3.000 1.0
    """

    loss_cls: InnerLoss = sigmoid_focal_loss
    loss_bbox: InnerLoss = l1_loss
