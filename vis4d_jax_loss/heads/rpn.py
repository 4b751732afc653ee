"""The losses of a region proposal network (RPN): objectness and boxes of anchors."""

import dataclasses
from typing import NamedTuple

import jax
from jax.typing import ArrayLike

from vis4d_jax_loss._mesh_axis import AxisName
from vis4d_jax_loss.base import HeadLoss
from vis4d_jax_loss.heads._assigned import InnerLoss, check_inner_losses
from vis4d_jax_loss.heads.dense_anchor import dense_anchor_head_loss
from vis4d_jax_loss.losses.binary_cross_entropy import binary_cross_entropy
from vis4d_jax_loss.losses.common import l1_loss


class RPNLosses(NamedTuple):
    """What :func:`rpn_loss` returns: scalars.

    Args:
        rpn_loss_cls: The classification loss of the counted anchors.
        rpn_loss_bbox: The box loss of the counted anchors that have an object.

    Example:
        >>> print(RPNLosses(1.0, 2.0))
        RPNLosses(rpn_loss_cls=1.0, rpn_loss_bbox=2.0)
    """

    rpn_loss_cls: jax.Array
    rpn_loss_bbox: jax.Array


@jax.named_scope("rpn_loss")
def rpn_loss(
    cls_outs: ArrayLike,
    reg_outs: ArrayLike,
    labels: ArrayLike,
    bbox_targets: ArrayLike,
    *,
    loss_cls: InnerLoss = binary_cross_entropy,
    loss_bbox: InnerLoss = l1_loss,
    label_where: ArrayLike | None = None,
    bbox_where: ArrayLike | None = None,
    avg_factor: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> RPNLosses:
    r"""Tell anchors with an object from background, and regress the boxes of the former.

    .. math::
        L_\mathrm{cls} = \frac{1}{n} \sum_{a \in S} \mathrm{BCE}(z_a, y_a), \qquad
        L_\mathrm{bbox} = \frac{1}{n} \sum_{a \in F} \sum_{k=1}^4 |d_{ak} - t_{ak}|

    with the logits z, the labels y, the deltas d and their targets t, the anchors S that are
    counted, those of them F that have an object, and :math:`n = |S|`. It is
    :func:`dense_anchor_head_loss` with other defaults and other names of its results.

    Args:
        cls_outs: Objectness logits, ``[B, A, 1]``, of A anchors per image.
        reg_outs: Box deltas, ``[B, A, 4]``.
        labels: ``[B, A]``: 1 for an object, any other label is background.
        bbox_targets: Target deltas, ``[B, A, 4]``. All targets are constants without a gradient.
        loss_cls: Classification loss: a function or a module that is called as ``loss(cls_outs,
            one_hot, reducer=..., where=...)``.
        loss_bbox: Box loss, which is called in the same way.
        label_where: Mask of anchors that are counted: the sampled ones, ``[B, A]`` or ``[B]``; by
            default all. :func:`random_k_mask` can sample them.
        bbox_where: Mask of anchors with a box loss; by default the counted ones with an object.
        avg_factor: Scalar divisor n of both sums; by default the number of ``label_where``. Where
            it is 0, both losses are 0.
        axis_name: Mesh axis (or axes) of a ``shard_map``. Sums and divisors, also an ``avg_factor``
            that is given, are added over it before dividing.

    Returns:
        ``RPNLosses(rpn_loss_cls, rpn_loss_bbox)``, scalars. Masked anchors may contain anything,
        NaN included.

    Raises:
        ValueError: If the shapes do not match.
        TypeError: If an input is not numeric, a mask is not boolean, or a loss is not callable.

    Example:
        >>> labels = jnp.array([[1, 0, 0]])
        >>> losses = rpn_loss(
        ...     jnp.zeros((1, 3, 1)), jnp.full((1, 3, 4), 0.5), labels, jnp.zeros((1, 3, 4)),
        ...     label_where=jnp.array([[True, True, False]]))
        >>> print(losses.rpn_loss_cls / jnp.log(2.0), losses.rpn_loss_bbox)  # 2 / 2 and 2 / 2
        1.0 1.0

    References:
        Ren et al., Faster R-CNN, NeurIPS 2015, eq. 1.
    """
    losses = dense_anchor_head_loss(
        *(cls_outs, reg_outs, labels, bbox_targets),
        loss_cls=loss_cls,
        loss_bbox=loss_bbox,
        label_where=label_where,
        bbox_where=bbox_where,
        avg_factor=avg_factor,
        axis_name=axis_name,
    )
    return RPNLosses(*losses)


class RPNLoss(HeadLoss):
    """:func:`rpn_loss` as a module.

    Args:
        loss_cls: Classification loss, a function or a module.
        loss_bbox: Box loss, a function or a module.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the anchors are sharded.

    Example:
        >>> losses = RPNLoss()(
        ...     jnp.zeros((1, 2, 1)), jnp.full((1, 2, 4), 0.5), jnp.array([[1, 0]]),
        ...     jnp.zeros((1, 2, 4)))
        >>> print(losses.rpn_loss_cls / jnp.log(2.0), losses.rpn_loss_bbox)
        1.0 1.0
    """

    loss_cls: InnerLoss = binary_cross_entropy
    loss_bbox: InnerLoss = l1_loss
    axis_name: AxisName | None = dataclasses.field(default=None, kw_only=True)

    def _check_options(self) -> None:
        losses = dict(loss_cls=self.loss_cls, loss_bbox=self.loss_bbox)
        check_inner_losses(type(self).__name__, **losses)

    def __call__(
        self,
        cls_outs: ArrayLike,
        reg_outs: ArrayLike,
        labels: ArrayLike,
        bbox_targets: ArrayLike,
        *,
        label_where: ArrayLike | None = None,
        bbox_where: ArrayLike | None = None,
        avg_factor: ArrayLike | None = None,
    ) -> RPNLosses:
        """Compute both losses.

        Args:
            cls_outs: Objectness logits, ``[B, A, 1]``.
            reg_outs: Box deltas, ``[B, A, 4]``.
            labels: ``[B, A]``: 1 for an object, any other label is background.
            bbox_targets: Target deltas, ``[B, A, 4]``.
            label_where: Mask of anchors that are counted, ``[B, A]`` or ``[B]``; by default all.
            bbox_where: Mask of anchors with a box loss; by default the counted ones with an object.
            avg_factor: Scalar divisor of both sums; by default the number of ``label_where``.

        Returns:
            ``RPNLosses(rpn_loss_cls, rpn_loss_bbox)``, scalars.
        """
        return rpn_loss(
            *(cls_outs, reg_outs, labels, bbox_targets),
            loss_cls=self.loss_cls,
            loss_bbox=self.loss_bbox,
            label_where=label_where,
            bbox_where=bbox_where,
            avg_factor=avg_factor,
            axis_name=self.axis_name,
        )
