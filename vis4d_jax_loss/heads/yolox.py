"""The losses of YOLOX's head: classes, boxes and objectness of dense predictions."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import (
    check_integer,
    check_label_dtype,
    check_layout,
    check_mask,
    check_numeric,
    describe,
    fail,
)
from vis4d_jax_loss._mesh_axis import AxisName, count_elements
from vis4d_jax_loss._numerics import as_array, expand_mask, float_dtype
from vis4d_jax_loss.base import HeadLoss
from vis4d_jax_loss.heads._assigned import (
    InnerLoss,
    average,
    check_inner_losses,
    check_num_classes,
)
from vis4d_jax_loss.losses.binary_cross_entropy import binary_cross_entropy
from vis4d_jax_loss.losses.common import l1_loss
from vis4d_jax_loss.losses.iou_loss import IoULoss

_SQUARED_IOU = IoULoss(mode="square", eps=1e-16)
_BOX_WEIGHT = 5.0


class YOLOXHeadLosses(NamedTuple):
    """What :func:`yolox_head_loss` returns: scalars.

    Args:
        loss_cls: The classification loss of the foreground.
        loss_bbox: The box loss of the foreground, times 5.
        loss_obj: The objectness loss of all valid predictions.
        loss_l1: The L1 loss of the foreground's raw outputs; None without them.

    Example:
        >>> print(YOLOXHeadLosses(1.0, 2.0, 3.0))
        YOLOXHeadLosses(loss_cls=1.0, loss_bbox=2.0, loss_obj=3.0, loss_l1=None)
    """

    loss_cls: jax.Array
    loss_bbox: jax.Array
    loss_obj: jax.Array
    loss_l1: jax.Array | None = None


@jax.named_scope("yolox_head_loss")
def yolox_head_loss(
    cls_outs: ArrayLike,
    boxes: ArrayLike,
    obj_outs: ArrayLike,
    foreground: ArrayLike,
    cls_targets: ArrayLike,
    bbox_targets: ArrayLike,
    *,
    num_classes: int | None = None,
    loss_cls: InnerLoss = binary_cross_entropy,
    loss_bbox: InnerLoss = _SQUARED_IOU,
    loss_obj: InnerLoss = binary_cross_entropy,
    reg_outs: ArrayLike | None = None,
    l1_targets: ArrayLike | None = None,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> YOLOXHeadLosses:
    r"""Classify and regress the foreground, and predict which predictions are foreground.

    .. math::
        L_\mathrm{cls} &= \frac{1}{n} \sum_{a \in F} \sum_c \mathrm{BCE}(z_{ac}, t_{ac}) \\
        L_\mathrm{bbox} &= \frac{5}{n} \sum_{a \in F} (1 - \mathrm{IoU}_a^2) \\
        L_\mathrm{obj} &= \frac{1}{n} \sum_a \mathrm{BCE}(o_a, [a \in F])

    with the foreground F, the predictions that a matcher such as SimOTA assigns to an object,
    :math:`n = \max(1, |F|)`, the class logits z and their targets t, and the objectness logits o.
    Only the objectness of background predictions is used; the rest may contain anything.

    Args:
        cls_outs: Class logits, ``[B, A, C]``.
        boxes: Decoded boxes, ``[B, A, 4]``, as (x1, y1, x2, y2).
        obj_outs: Objectness logits, ``[B, A]``.
        foreground: Which predictions are assigned to an object, ``[B, A]``, boolean.
        cls_targets: Class targets, ``[B, A, C]``, from 0 to 1: one-hot, usually times the IoU.
        bbox_targets: Target boxes, ``[B, A, 4]``. All targets are constants without a gradient.
        num_classes: The number of classes C, to be checked.
        loss_cls: Classification loss: a function or a module that is called as ``loss(cls_outs,
            cls_targets, reducer=..., where=...)``.
        loss_bbox: Box loss, which is called in the same way.
        loss_obj: Objectness loss of ``[B, A]`` and targets 0 and 1.
        reg_outs: Raw outputs before decoding, ``[B, A, 4]``, for the L1 loss of the last epochs.
        l1_targets: Their targets, ``[B, A, 4]``.
        where: Mask of valid images ``[B]`` or predictions ``[B, A]``. Padding may contain anything,
            NaN included.
        axis_name: Mesh axis (or axes) of a ``shard_map``. Sums and count are added over it before
            dividing.

    Returns:
        ``YOLOXHeadLosses(loss_cls, loss_bbox, loss_obj, loss_l1)``, scalars; ``loss_l1`` is None
        without ``reg_outs``.

    Raises:
        ValueError: If the shapes do not match, or only ``reg_outs`` or ``l1_targets`` is given.
        TypeError: If an input is not numeric, ``foreground`` or ``where`` is not boolean, or a loss
            is not callable.

    Example:
        >>> boxes = jnp.array([[[0.0, 0, 2, 2], [9.0, 9, 9, 9]]])
        >>> losses = yolox_head_loss(
        ...     jnp.zeros((1, 2, 3)), boxes, jnp.zeros((1, 2)), jnp.array([[True, False]]),
        ...     jnp.ones((1, 2, 3)), jnp.array([[[0.0, 0, 4, 2], [0.0, 0, 0, 0]]]))
        >>> print(losses.loss_cls / jnp.log(2.0), losses.loss_bbox, losses.loss_obj / jnp.log(2.0))
        3.0 3.75 2.0

    References:
        Ge et al., YOLOX: Exceeding YOLO Series in 2021.
    """
    name = "yolox_head_loss"
    check_inner_losses(name, loss_cls=loss_cls, loss_bbox=loss_bbox, loss_obj=loss_obj)
    inputs = cls_outs, boxes, obj_outs, foreground, cls_targets, bbox_targets, reg_outs, l1_targets
    x = _read(name, dict(zip(_LAYOUTS, inputs, strict=True)))
    check_num_classes(name, num_classes, x["cls_outs"].shape[-1], "cls_outs")
    mask = check_mask(name, where, x["obj_outs"].shape)
    positive = x["foreground"]
    positive = positive if mask is None else positive & expand_mask(mask, positive.shape)
    count = jnp.maximum(count_elements(positive, axis_name), 1)

    def of(loss: InnerLoss, pred: str, target: jax.Array, counted: Any = positive) -> jax.Array:
        return average(loss, x[pred], target, counted, count, axis_name)

    objectness = positive.astype(float_dtype(x["obj_outs"]))
    return YOLOXHeadLosses(
        of(loss_cls, "cls_outs", x["cls_targets"]),
        _BOX_WEIGHT * of(loss_bbox, "boxes", x["bbox_targets"]),
        of(loss_obj, "obj_outs", objectness, mask),
        of(l1_loss, "reg_outs", x["l1_targets"]) if "reg_outs" in x else None,
    )


_LAYOUTS = dict(
    cls_outs="[B, A, C]",
    boxes="[B, A, 4]",
    obj_outs="[B, A]",
    foreground="[B, A]",
    cls_targets="[B, A, C]",
    bbox_targets="[B, A, 4]",
    reg_outs="[B, A, 4]",
    l1_targets="[B, A, 4]",
)


def _read(function: str, inputs: dict[str, ArrayLike | None]) -> dict[str, jax.Array]:
    """The inputs that are given as arrays, checked."""
    x = {name: as_array(value) for name, value in inputs.items() if value is not None}
    if ("reg_outs" in x) != ("l1_targets" in x):
        got = "only reg_outs" if "reg_outs" in x else "only l1_targets"
        fail(ValueError, function, "reg_outs and l1_targets must be given together", got)
    if x["foreground"].dtype != bool:
        rule, got = "foreground must be boolean", describe(foreground=x["foreground"].dtype)
        fail(TypeError, function, rule, got, "True means that the prediction has an object.")
    check_label_dtype(function, cls_targets=x["cls_targets"])
    numbers = {k: array for k, array in x.items() if k not in ("foreground", "cls_targets")}
    check_numeric(function, **numbers)
    check_layout(function, **{name: (array, _LAYOUTS[name]) for name, array in x.items()})
    return x


class YOLOXHeadLoss(HeadLoss):
    """:func:`yolox_head_loss` as a module.

    Args:
        num_classes: The number of classes, to be checked.
        loss_cls: Classification loss, a function or a module.
        loss_bbox: Box loss, a function or a module.
        loss_obj: Objectness loss, a function or a module.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the predictions are sharded.

    Example:
        >>> loss = YOLOXHeadLoss(num_classes=3)
        >>> boxes = jnp.array([[[0.0, 0, 2, 2]]])
        >>> losses = loss(
        ...     jnp.zeros((1, 1, 3)), boxes, jnp.zeros((1, 1)), jnp.array([[True]]),
        ...     jnp.ones((1, 1, 3)), 2 * boxes)
        >>> print(losses.loss_bbox, losses.loss_l1)  # the IoU is 1 / 4
        4.6875 None
    """

    num_classes: int
    loss_cls: InnerLoss = dataclasses.field(default=binary_cross_entropy, kw_only=True)
    loss_bbox: InnerLoss = dataclasses.field(default=_SQUARED_IOU, kw_only=True)
    loss_obj: InnerLoss = dataclasses.field(default=binary_cross_entropy, kw_only=True)
    axis_name: AxisName | None = dataclasses.field(default=None, kw_only=True)

    def _check_options(self) -> None:
        name = type(self).__name__
        check_integer(name, num_classes=self.num_classes)
        losses = dict(loss_cls=self.loss_cls, loss_bbox=self.loss_bbox, loss_obj=self.loss_obj)
        check_inner_losses(name, **losses)

    def __call__(
        self,
        cls_outs: ArrayLike,
        boxes: ArrayLike,
        obj_outs: ArrayLike,
        foreground: ArrayLike,
        cls_targets: ArrayLike,
        bbox_targets: ArrayLike,
        *,
        reg_outs: ArrayLike | None = None,
        l1_targets: ArrayLike | None = None,
        where: ArrayLike | None = None,
    ) -> YOLOXHeadLosses:
        """Compute all losses.

        Args:
            cls_outs: Class logits, ``[B, A, C]``.
            boxes: Decoded boxes, ``[B, A, 4]``, as (x1, y1, x2, y2).
            obj_outs: Objectness logits, ``[B, A]``.
            foreground: Which predictions are assigned to an object, ``[B, A]``, boolean.
            cls_targets: Class targets, ``[B, A, C]``, from 0 to 1.
            bbox_targets: Target boxes, ``[B, A, 4]``.
            reg_outs: Raw outputs, ``[B, A, 4]``, for the L1 loss of the last epochs.
            l1_targets: Their targets, ``[B, A, 4]``.
            where: Mask of valid images ``[B]`` or predictions ``[B, A]``. Padding may contain
                anything, NaN included.

        Returns:
            ``YOLOXHeadLosses(loss_cls, loss_bbox, loss_obj, loss_l1)``, scalars.
        """
        return yolox_head_loss(
            *(cls_outs, boxes, obj_outs, foreground, cls_targets, bbox_targets),
            num_classes=self.num_classes,
            loss_cls=self.loss_cls,
            loss_bbox=self.loss_bbox,
            loss_obj=self.loss_obj,
            reg_outs=reg_outs,
            l1_targets=l1_targets,
            where=where,
            axis_name=self.axis_name,
        )
