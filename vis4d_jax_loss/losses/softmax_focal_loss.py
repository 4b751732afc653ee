"""Focal loss with one label per element: softmax cross-entropy that counts mistakes most."""

import dataclasses
from collections.abc import Sequence

import jax
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import check_integer
from vis4d_jax_loss._numerics import as_array
from vis4d_jax_loss._reduce_loss import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._focal import check_exponent, focal_of_cross_entropy
from vis4d_jax_loss.losses._inputs import check_logits
from vis4d_jax_loss.losses._labelled import (
    cross_entropy_of_labels,
    mark_labels,
    read_class_weights,
    read_labelled,
    weight_of_label,
)
from vis4d_jax_loss.losses._labels import IgnoreIndex, ignored_labels, labels_as_array
from vis4d_jax_loss.reducer import LossReducer, identity_loss


@jax.named_scope("softmax_focal_loss")
def softmax_focal_loss(
    output: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    gamma: float | jax.Array = 2.0,
    class_weights: ArrayLike | Sequence[float] | None = None,
    ignore_index: IgnoreIndex = 255,
    *,
    class_axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Softmax cross-entropy in which elements that are right already count little.

    .. math:: \ell = -w_y\, (1 - p_y)^\gamma \log p_y, \qquad 0 \text{ if }
        y = \mathrm{ignore\_index}

    with the label :math:`y`, its probability :math:`p_y`, which is the softmax of the logits, and
    its class weight :math:`w_y`.

    Args:
        output: Logits ``[..., C]``, or with the classes on ``class_axis``. Half precision is
            computed in float32. Logits of ignored and masked elements may contain anything.
        target: Labels ``[...]`` from 0 to C - 1, or ``ignore_index``, of any numeric dtype or
            boolean. Any other label makes the loss NaN. Fractional and invalid labels are reported
            under ``checkify``.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        gamma: Exponent of the probability of a mistake, at least 0. With 0 the loss is
            ``cross_entropy``. May be traced.
        class_weights: Weight of each class, ``[C]``. A mean divides by the number of elements.
        ignore_index: Label whose loss and gradient are 0; a tuple of several, or None for no label.
            With more than 255 classes, the default ignores a class, and warns.
        class_axis: Axis of the classes in ``output``: -1 for ``[N, H, W, C]``, 1 for
            ``[N, C, H, W]``.
        where: Mask of valid elements over the leading axes of ``target``. Padding may contain
            anything, NaN included.

    Returns:
        What ``reducer`` returns; by default one loss per element, with the shape of ``target``.

    Raises:
        ValueError: If the shapes of ``output``, ``target`` and ``class_weights`` do not match,
            ``gamma`` is negative, or ``class_axis`` is not an axis of ``output``.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
        >>> loss = softmax_focal_loss(logits, jnp.array([0, 2]), gamma=1.0)
        >>> print((loss / -jnp.log(jnp.array([0.5, 0.8]))).round(3))  # the probability of a mistake
        [0.5 0.2]

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, for any number of classes.
    """
    name = "softmax_focal_loss"
    check_exponent(name, gamma=gamma)
    output, target = as_array(output), labels_as_array(target)
    check_logits(name, output, target, class_axis)
    read = read_labelled(name, output, target, ignore_index, class_axis, where)
    loss = focal_of_cross_entropy(cross_entropy_of_labels(read), gamma)
    if class_weights is not None:
        weights = read_class_weights(name, class_weights, read.logits, read.axis)
        loss *= weight_of_label(weights, read)
    return reduce_loss(reducer, mark_labels(loss, read.labels), read.mask)


class SoftmaxFocalLoss(Loss):
    """:func:`softmax_focal_loss` as a module.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        gamma: Exponent of the probability of a mistake, at least 0.
        class_weights: Weight of each class, ``[C]``.
        ignore_index: Label whose loss and gradient are 0; a tuple of several, or None for no label.
        class_axis: Axis of the classes in ``output``: -1 for ``[N, H, W, C]``, 1 for
            ``[N, C, H, W]``.

    Example:
        >>> loss = SoftmaxFocalLoss(jnp.sum, gamma=1.0)
        >>> print(loss(jnp.zeros((2, 2)), jnp.array([0, 255])) / jnp.log(2.0))
        0.5
    """

    gamma: float = 2.0
    class_weights: Sequence[float] | None = None
    ignore_index: IgnoreIndex = 255
    class_axis: int = dataclasses.field(default=-1, kw_only=True)

    def _check_options(self) -> None:
        check_exponent(type(self).__name__, gamma=self.gamma)
        check_integer(type(self).__name__, class_axis=self.class_axis)
        ignored_labels(type(self).__name__, self.ignore_index)

    def __call__(
        self,
        output: ArrayLike,
        target: ArrayLike,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        """Compute and reduce the losses.

        Args:
            output: Logits ``[..., C]``, or with the classes on ``class_axis``.
            target: Labels ``[...]`` from 0 to C - 1, or ``ignore_index``.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid elements over the leading axes of ``target``. Padding may contain
                anything, NaN included.

        Returns:
            What the reducer returns; by default one loss per element.
        """
        return softmax_focal_loss(
            output,
            target,
            self._reducer_for_call(reducer),
            self.gamma,
            self.class_weights,
            self.ignore_index,
            class_axis=self.class_axis,
            where=where,
        )
