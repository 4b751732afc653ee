"""The losses of the second stage of Faster R-CNN: a class and a box per proposal."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import (
    check_integer,
    check_label_dtype,
    check_layout,
    check_mask,
    check_numeric,
    fail,
    shapes_of,
)
from vis4d_jax_loss._mesh_axis import AxisName, count_elements
from vis4d_jax_loss._numerics import as_array
from vis4d_jax_loss._reduce_loss import parameters_of
from vis4d_jax_loss.base import HeadLoss
from vis4d_jax_loss.heads._assigned import (
    InnerLoss,
    average,
    check_inner_losses,
    of_class,
)
from vis4d_jax_loss.losses._labels import labels_as_array, read_labels
from vis4d_jax_loss.losses.common import l1_loss
from vis4d_jax_loss.losses.cross_entropy import cross_entropy


class RCNNLosses(NamedTuple):
    """What :func:`rcnn_loss` returns: scalars.

    Args:
        rcnn_loss_cls: The classification loss of the valid proposals.
        rcnn_loss_bbox: The box loss of the proposals that have an object.

    Example:
        >>> print(RCNNLosses(1.0, 2.0))
        RCNNLosses(rcnn_loss_cls=1.0, rcnn_loss_bbox=2.0)
    """

    rcnn_loss_cls: jax.Array
    rcnn_loss_bbox: jax.Array


@jax.named_scope("rcnn_loss")
def rcnn_loss(
    class_outs: ArrayLike,
    regression_outs: ArrayLike,
    labels: ArrayLike,
    bbox_targets: ArrayLike,
    *,
    num_classes: int = 80,
    loss_cls: InnerLoss = cross_entropy,
    loss_bbox: InnerLoss = l1_loss,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> RCNNLosses:
    r"""Classify proposals, background included, and regress the boxes of those with an object.

    .. math::
        L_\mathrm{cls} = \frac{1}{P} \sum_p \mathrm{CE}(z_p, y_p), \qquad
        L_\mathrm{bbox} = \frac{1}{P} \sum_{p:\, y_p < C} \sum_{k=1}^4 |d_{p y_p k} - t_{p k}|

    with the logits :math:`z_p` of proposal p, its label :math:`y_p`, the deltas :math:`d_{pck}` of
    its box for class c and the target :math:`t_p`. Both sums are divided by the number P of valid
    proposals. Deltas of other classes, and those of background proposals, are not used and may
    contain anything.

    Args:
        class_outs: Logits ``[P, C + 1]``; the last class is the background.
        regression_outs: Box deltas, ``[P, 4 * C]`` with the four of a class side by side, or
            ``[P, 4]`` for all classes.
        labels: Class of each proposal, ``[P]``: 0 to C - 1, or C for background. No label is
            ignored. Any other label makes the classification loss NaN, and is reported under
            ``checkify``.
        bbox_targets: Target deltas, ``[P, 4]``. They are constants without a gradient.
        num_classes: The number C of classes without background.
        loss_cls: Classification loss: a function or a module that is called as ``loss(class_outs,
            labels, reducer=..., where=...)``. If it takes ``ignore_index``, it gets None.
        loss_bbox: Box loss of ``[P, 4]``, which is called in the same way.
        where: Mask of valid proposals, ``[P]``. Padding may contain anything, NaN included.
        axis_name: Mesh axis (or axes) of a ``shard_map``. Sums and count are added over it before
            dividing.

    Returns:
        ``RCNNLosses(rcnn_loss_cls, rcnn_loss_bbox)``, scalars. Both are 0 if no proposal is valid.

    Raises:
        ValueError: If the shapes do not match each other or ``num_classes``.
        TypeError: If an input is not numeric, ``where`` is not boolean, or a loss is not callable.

    Example:
        >>> class_outs, labels = jnp.zeros((2, 3)), jnp.array([1, 2])  # an object, background
        >>> regression_outs = jnp.array([[9.0, 9, 9, 9, 1, 1, 1, 1], [9.0] * 8])
        >>> losses = rcnn_loss(
        ...     class_outs, regression_outs, labels, jnp.zeros((2, 4)), num_classes=2)
        >>> print(f"{jnp.exp(losses.rcnn_loss_cls):.3f}", losses.rcnn_loss_bbox)
        3.000 2.0

    References:
        Ren et al., Faster R-CNN, NeurIPS 2015; Girshick, Fast R-CNN, ICCV 2015, eq. 1.
    """
    name = "rcnn_loss"
    check_inner_losses(name, loss_cls=loss_cls, loss_bbox=loss_bbox)
    class_outs, deltas, targets = map(as_array, (class_outs, regression_outs, bbox_targets))
    label = labels_as_array(labels)
    _check_arrays(name, class_outs, deltas, label, targets, num_classes)
    mask = check_mask(name, where, label.shape)
    read = read_labels(name, label, None, num_classes + 1, mask, "labels")

    has_object = ~(read.skipped | read.invalid) & (read.value < num_classes)
    if deltas.shape[1] != 4:
        deltas = _of_class(deltas, read.value, has_object, num_classes)
    count = count_elements(~read.skipped, axis_name)
    if _can_ignore(loss_cls):
        loss_cls = partial(loss_cls, ignore_index=None)
    return RCNNLosses(
        average(loss_cls, class_outs, label, mask, count, axis_name),
        average(loss_bbox, deltas, targets, has_object, count, axis_name),
    )


# Called without jit, jax.debug_nans would stop at NaN in padding.
@partial(jax.jit, static_argnums=3)
def _of_class(
    deltas: jax.Array, classes: jax.Array, where: jax.Array, num_classes: int
) -> jax.Array:
    return of_class(deltas.reshape(deltas.shape[0], num_classes, 4), classes, where)


def _can_ignore(loss: InnerLoss) -> bool:
    """Whether the loss would ignore a label by default, such as 255, which is a class of LVIS."""
    return "ignore_index" in (parameters_of(loss) or {})


def _check_arrays(
    function: str,
    class_outs: jax.Array,
    deltas: jax.Array,
    labels: jax.Array,
    targets: jax.Array,
    num_classes: int,
) -> None:
    check_integer(function, num_classes=num_classes)
    numbers = dict(class_outs=class_outs, regression_outs=deltas, bbox_targets=targets)
    check_numeric(function, **numbers)
    check_label_dtype(function, labels=labels)
    check_layout(
        function,
        class_outs=(class_outs, f"[P, {num_classes + 1}]"),
        regression_outs=(deltas, "[P, D]"),
        labels=(labels, "[P]"),
        bbox_targets=(targets, "[P, 4]"),
    )
    if deltas.shape[1] not in (4, 4 * num_classes):
        rule = f"regression_outs must be [P, 4] or [P, {4 * num_classes}], four per class"
        got = shapes_of(regression_outs=deltas)
        fail(ValueError, function, rule, got, f"num_classes is {num_classes}.")


class RCNNLoss(HeadLoss):
    """:func:`rcnn_loss` as a module.

    Args:
        num_classes: The number of classes without background.
        loss_cls: Classification loss, a function or a module.
        loss_bbox: Box loss, a function or a module.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the proposals are sharded.

    Example:
        >>> loss = RCNNLoss(num_classes=2, loss_bbox=SmoothL1Loss(beta=1.0))
        >>> losses = loss(jnp.zeros((1, 3)), jnp.ones((1, 8)), jnp.array([1]), jnp.zeros((1, 4)))
        >>> print(f"{jnp.exp(losses.rcnn_loss_cls):.3f}", losses.rcnn_loss_bbox)
        3.000 2.0
    """

    num_classes: int = 80
    loss_cls: InnerLoss = dataclasses.field(default=cross_entropy, kw_only=True)
    loss_bbox: InnerLoss = dataclasses.field(default=l1_loss, kw_only=True)
    axis_name: AxisName | None = dataclasses.field(default=None, kw_only=True)

    def _check_options(self) -> None:
        name = type(self).__name__
        check_integer(name, num_classes=self.num_classes)
        check_inner_losses(name, loss_cls=self.loss_cls, loss_bbox=self.loss_bbox)

    def __call__(
        self,
        class_outs: ArrayLike,
        regression_outs: ArrayLike,
        labels: ArrayLike,
        bbox_targets: ArrayLike,
        *,
        where: ArrayLike | None = None,
    ) -> RCNNLosses:
        """Compute both losses.

        Args:
            class_outs: Logits ``[P, C + 1]``; the last class is the background.
            regression_outs: Box deltas, ``[P, 4 * C]`` or ``[P, 4]``.
            labels: Class of each proposal, ``[P]``: 0 to C - 1, or C for background.
            bbox_targets: Target deltas, ``[P, 4]``.
            where: Mask of valid proposals, ``[P]``. Padding may contain anything, NaN included.

        Returns:
            ``RCNNLosses(rcnn_loss_cls, rcnn_loss_bbox)``, scalars.
        """
        return rcnn_loss(
            class_outs,
            regression_outs,
            labels,
            bbox_targets,
            num_classes=self.num_classes,
            loss_cls=self.loss_cls,
            loss_bbox=self.loss_bbox,
            where=where,
            axis_name=self.axis_name,
        )
