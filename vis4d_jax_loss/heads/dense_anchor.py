"""The losses of a head that classifies and regresses dense anchors, with any two losses."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import (
    check_label_dtype,
    check_layout,
    check_mask,
    check_numeric,
    fail,
    shapes_of,
)
from vis4d_jax_loss._mesh_axis import AxisName, count_elements, psum_over
from vis4d_jax_loss._numerics import as_array, expand_mask, float_dtype
from vis4d_jax_loss.base import HeadLoss
from vis4d_jax_loss.heads._assigned import InnerLoss, average, check_inner_losses
from vis4d_jax_loss.losses._labels import as_int32, labels_as_array
from vis4d_jax_loss.losses._negative_log_prob import is_label


class DenseAnchorHeadLosses(NamedTuple):
    """What :func:`dense_anchor_head_loss` and :func:`retinanet_head_loss` return: scalars.

    Args:
        loss_cls: The classification loss of the counted anchors.
        loss_bbox: The box loss of the counted anchors that have an object.

    Example:
        >>> print(DenseAnchorHeadLosses(1.0, 2.0))
        DenseAnchorHeadLosses(loss_cls=1.0, loss_bbox=2.0)
    """

    loss_cls: jax.Array
    loss_bbox: jax.Array


@jax.named_scope("dense_anchor_head_loss")
def dense_anchor_head_loss(
    cls_outs: ArrayLike,
    reg_outs: ArrayLike,
    labels: ArrayLike,
    bbox_targets: ArrayLike,
    *,
    loss_cls: InnerLoss,
    loss_bbox: InnerLoss,
    label_where: ArrayLike | None = None,
    bbox_where: ArrayLike | None = None,
    avg_factor: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> DenseAnchorHeadLosses:
    r"""Classify anchors, and regress the boxes of those that have an object.

    .. math::
        L_\mathrm{cls} = \frac{1}{n} \sum_{a \in S} \sum_c \ell_\mathrm{cls}(z_{ac}, [y_a = c]),
        \qquad
        L_\mathrm{bbox} = \frac{1}{n} \sum_{a \in F} \sum_{k=1}^4 \ell_\mathrm{bbox}(d_{ak}, t_{ak})

    with the logits z, the labels y, the deltas d and their targets t, the anchors S that are
    counted, those of them F that have an object, and :math:`n = |S|`.

    Args:
        cls_outs: Class logits, ``[B, A, C]``, of A anchors per image.
        reg_outs: Box deltas, ``[B, A, 4]``.
        labels: Class of each anchor, ``[B, A]``: 0 to C - 1, and any other label is background.
            With a single logit per anchor, 1 is an object, and any other label is background.
        bbox_targets: Target deltas, ``[B, A, 4]``. All targets are constants without a gradient.
        loss_cls: Classification loss: a function or a module that is called as ``loss(cls_outs,
            one_hot, reducer=..., where=...)``. The one-hot targets have the shape of ``cls_outs``.
        loss_bbox: Box loss, which is called in the same way.
        label_where: Mask of anchors that are counted, such as sampled ones, ``[B, A]`` or ``[B]``;
            by default all.
        bbox_where: Mask of anchors with a box loss; by default the counted ones with an object.
        avg_factor: Scalar divisor n of both sums; by default the number of ``label_where``. Where
            it is 0, both losses are 0.
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
        >>> losses = dense_anchor_head_loss(cls_outs, reg_outs, labels, jnp.zeros((1, 2, 4)),
        ...     loss_cls=binary_cross_entropy, loss_bbox=l1_loss)
        >>> print(f"{losses.loss_cls / jnp.log(2.0):.3f}", losses.loss_bbox)  # 6 / 2 and 2 / 2
        3.000 1.0
    """
    name = "dense_anchor_head_loss"
    check_inner_losses(name, loss_cls=loss_cls, loss_bbox=loss_bbox)
    cls_outs, reg_outs, targets = map(as_array, (cls_outs, reg_outs, bbox_targets))
    classes = _read_classes(name, cls_outs, reg_outs, labels, targets)
    counted = check_mask(name, label_where, classes.shape, "label_where")
    with_box = check_mask(name, bbox_where, classes.shape, "bbox_where")

    if with_box is None:
        with_box = (classes >= 0) & (classes < cls_outs.shape[-1])
        with_box = with_box if counted is None else with_box & expand_mask(counted, classes.shape)
    if avg_factor is None:
        divisor = _number_of_anchors(counted, classes)
    else:
        divisor = _read_divisor(name, avg_factor)
    divisor = psum_over(divisor, axis_name)
    one_hot = is_label(classes, cls_outs.shape, axis=2).astype(float_dtype(cls_outs))
    return DenseAnchorHeadLosses(
        average(loss_cls, cls_outs, one_hot, counted, divisor, axis_name),
        average(loss_bbox, reg_outs, targets, with_box, divisor, axis_name),
    )


def _read_classes(
    function: str,
    cls_outs: jax.Array,
    reg_outs: jax.Array,
    labels: ArrayLike,
    targets: jax.Array,
) -> jax.Array:
    """Check the inputs, and return the classes of the anchors; out of range is background."""
    label = labels_as_array(labels)
    check_numeric(function, cls_outs=cls_outs, reg_outs=reg_outs, bbox_targets=targets)
    check_label_dtype(function, labels=label)
    check_layout(
        function,
        cls_outs=(cls_outs, "[B, A, C]"),
        reg_outs=(reg_outs, "[B, A, 4]"),
        labels=(label, "[B, A]"),
        bbox_targets=(targets, "[B, A, 4]"),
    )
    classes, _, fits = as_int32(label)
    if cls_outs.shape[-1] == 1:
        return jnp.where(fits & (classes == 1), 0, -1)
    return jnp.where(fits, classes, -1)


def _read_divisor(function: str, avg_factor: ArrayLike) -> jax.Array:
    divisor = as_array(avg_factor)
    check_numeric(function, avg_factor=divisor)
    if divisor.ndim:
        got = shapes_of(avg_factor=divisor)
        fail(ValueError, function, "avg_factor must be a scalar", got)
    return _value_checks.expect_finite(function, "avg_factor", divisor)


def _number_of_anchors(counted: jax.Array | None, classes: jax.Array) -> jax.Array:
    if counted is None:
        return jnp.asarray(classes.size, jnp.float32)
    return count_elements(expand_mask(counted, classes.shape))


class DenseAnchorHeadLoss(HeadLoss):
    """:func:`dense_anchor_head_loss` as a module.

    Args:
        loss_cls: Classification loss, a function or a module.
        loss_bbox: Box loss, a function or a module.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the anchors are sharded.

    Example:
        >>> loss = DenseAnchorHeadLoss(binary_cross_entropy, SmoothL1Loss(beta=1.0))
        >>> losses = loss(jnp.zeros((1, 2, 3)), jnp.ones((1, 2, 4)), jnp.array([[2, -1]]),
        ...     jnp.zeros((1, 2, 4)))
        >>> print(f"{losses.loss_cls / jnp.log(2.0):.3f}", losses.loss_bbox)
        3.000 1.0
    """

    loss_cls: InnerLoss
    loss_bbox: InnerLoss
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
    ) -> DenseAnchorHeadLosses:
        """Compute both losses.

        Args:
            cls_outs: Class logits, ``[B, A, C]``.
            reg_outs: Box deltas, ``[B, A, 4]``.
            labels: Class of each anchor, ``[B, A]``; any label out of range is background. With a
                single logit per anchor, 1 is an object.
            bbox_targets: Target deltas, ``[B, A, 4]``.
            label_where: Mask of anchors that are counted, ``[B, A]`` or ``[B]``; by default all.
            bbox_where: Mask of anchors with a box loss; by default the counted ones with an object.
            avg_factor: Scalar divisor of both sums; by default the number of ``label_where``.

        Returns:
            ``DenseAnchorHeadLosses(loss_cls, loss_bbox)``, scalars.
        """
        return dense_anchor_head_loss(
            *(cls_outs, reg_outs, labels, bbox_targets),
            loss_cls=self.loss_cls,
            loss_bbox=self.loss_bbox,
            label_where=label_where,
            bbox_where=bbox_where,
            avg_factor=avg_factor,
            axis_name=self.axis_name,
        )
