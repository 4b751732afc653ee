"""The loss of Mask R-CNN's mask head."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import check_label_dtype, check_layout, check_mask, check_numeric
from vis4d_jax_loss._mesh_axis import AxisName
from vis4d_jax_loss._numerics import as_array
from vis4d_jax_loss.base import HeadLoss
from vis4d_jax_loss.heads._assigned import check_num_classes, of_class
from vis4d_jax_loss.losses._labels import labels_as_array, read_labels
from vis4d_jax_loss.losses.binary_cross_entropy import binary_cross_entropy
from vis4d_jax_loss.reducer import OverAxis, mean_loss


class MaskRCNNHeadLosses(NamedTuple):
    """What :func:`mask_rcnn_head_loss` returns.

    Args:
        rcnn_loss_mask: Mean binary cross-entropy of the mask pixels.

    Example:
        >>> losses = mask_rcnn_head_loss(
        ...     jnp.zeros((1, 3, 2, 2)), jnp.array([2]), jnp.ones((1, 2, 2)))
        >>> print(losses._fields, losses.rcnn_loss_mask / jnp.log(2.0))
        ('rcnn_loss_mask',) 1.0
    """

    rcnn_loss_mask: jax.Array


@jax.named_scope("mask_rcnn_head_loss")
def mask_rcnn_head_loss(
    mask_preds: ArrayLike,
    target_classes: ArrayLike,
    target_masks: ArrayLike,
    *,
    num_classes: int | None = None,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> MaskRCNNHeadLosses:
    r"""Binary cross-entropy of the predicted mask of each object's own class.

    .. math:: L = \frac{1}{K h w} \sum_{k, i, j} \mathrm{BCE} \bigl( z_{k c_k i j}, t_{k i j} \bigr)

    with the logits :math:`z`, the class :math:`c_k` of object k and its target mask :math:`t`. The
    sum and the number of pixels :math:`K h w` are those of the valid objects. The masks of other
    classes are not used, and may contain anything.

    Args:
        mask_preds: Mask logits of each object and class, ``[K, C, h, w]``.
        target_classes: Class of each object, ``[K]``, from 0 to C - 1. Any other class makes the
            loss NaN, and is reported under ``checkify``.
        target_masks: Target masks, ``[K, h, w]``, boolean or from 0 to 1, already cropped to the
            boxes and resized. They are constants without a gradient.
        num_classes: The number of classes C, to be checked.
        where: Mask of valid objects, ``[K]``. Padding may contain anything, NaN included.
        axis_name: Mesh axis (or axes) of a ``shard_map``. Sum and count are added over it before
            dividing.

    Returns:
        ``MaskRCNNHeadLosses(rcnn_loss_mask)``, a scalar. It is 0 if there is no valid object.

    Raises:
        ValueError: If the shapes do not match, or the number of classes is another.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> logits = jnp.log(jnp.array([[[[3.0]], [[1.0]]]]))  # probabilities 3 / 4 and 1 / 2
        >>> losses = mask_rcnn_head_loss(logits, jnp.array([0]), jnp.array([[[True]]]))
        >>> print(jnp.exp(-losses.rcnn_loss_mask))
        0.75

    References:
        He et al., Mask R-CNN, ICCV 2017, section 3.
    """
    name = "mask_rcnn_head_loss"
    preds, targets = as_array(mask_preds), as_array(target_masks)
    classes = labels_as_array(target_classes)
    check_numeric(name, mask_preds=preds)
    check_label_dtype(name, target_classes=classes, target_masks=targets)
    check_layout(
        name,
        mask_preds=(preds, "[K, C, h, w]"),
        target_classes=(classes, "[K]"),
        target_masks=(targets, "[K, h, w]"),
    )
    check_num_classes(name, num_classes, preds.shape[1], "mask_preds")
    mask = check_mask(name, where, classes.shape)
    labels = read_labels(name, classes, None, preds.shape[1], mask, "target_classes")
    logits = of_class(preds, labels.value, ~(labels.skipped | labels.invalid))
    logits = jnp.where(labels.invalid[:, None, None], jnp.nan, logits)
    reducer = mean_loss if axis_name is None else OverAxis(mean_loss, axis_name)
    loss = binary_cross_entropy(logits, lax.stop_gradient(targets), reducer, where=mask)
    return MaskRCNNHeadLosses(loss)


class MaskRCNNHeadLoss(HeadLoss):
    """:func:`mask_rcnn_head_loss` as a module.

    Args:
        num_classes: The number of classes, to be checked; by default that of the predictions.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the objects are sharded.

    Example:
        >>> loss = MaskRCNNHeadLoss(num_classes=3)
        >>> losses = loss(jnp.zeros((1, 3, 2, 2)), jnp.array([2]), jnp.ones((1, 2, 2)))
        >>> print(losses.rcnn_loss_mask / jnp.log(2.0))
        1.0
    """

    num_classes: int | None = None
    axis_name: AxisName | None = dataclasses.field(default=None, kw_only=True)

    def __call__(
        self,
        mask_preds: ArrayLike,
        target_classes: ArrayLike,
        target_masks: ArrayLike,
        *,
        where: ArrayLike | None = None,
    ) -> MaskRCNNHeadLosses:
        """Compute the loss.

        Args:
            mask_preds: Mask logits of each object and class, ``[K, C, h, w]``.
            target_classes: Class of each object, ``[K]``.
            target_masks: Target masks, ``[K, h, w]``, boolean or from 0 to 1.
            where: Mask of valid objects, ``[K]``. Padding may contain anything, NaN included.

        Returns:
            ``MaskRCNNHeadLosses(rcnn_loss_mask)``, a scalar.
        """
        return mask_rcnn_head_loss(
            mask_preds,
            target_classes,
            target_masks,
            num_classes=self.num_classes,
            where=where,
            axis_name=self.axis_name,
        )
