"""Cross-entropy over classes, with ignored labels, class weights and label smoothing."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jax.core import Tracer
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import check_integer, check_number, describe, fail
from vis4d_jax_loss._numerics import as_array
from vis4d_jax_loss._reduce_loss import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._inputs import check_logits
from vis4d_jax_loss.losses._labelled import (
    cross_entropy_of_labels,
    mark_labels,
    read_class_weights,
    read_labelled,
    weight_of_label,
)
from vis4d_jax_loss.losses._labels import (
    FROM_MODULE,
    IgnoreIndex,
    ignored_labels,
    labels_as_array,
)
from vis4d_jax_loss.losses._soft_targets import (
    cross_entropy_with_probabilities,
    is_zero,
    smoothed_cross_entropy,
)
from vis4d_jax_loss.reducer import LossReducer, identity_loss, mean_loss


@jax.named_scope("cross_entropy")
def cross_entropy(
    output: ArrayLike,
    target: ArrayLike,
    class_weights: ArrayLike | Sequence[float] | None = None,
    ignore_index: IgnoreIndex = 255,
    *,
    class_axis: int = -1,
    label_smoothing: ArrayLike = 0.0,
    reducer: LossReducer = identity_loss,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Softmax cross-entropy with labels or class probabilities.

    .. math:: \ell = \sum_c w_c \, q_c \Big( \log \sum_k e^{z_k} - z_c \Big), \qquad
        q_c = (1 - a) \, t_c + \frac{a}{C}

    with the logits :math:`z_c`, the class weights :math:`w_c`, the label smoothing :math:`a` and
    the target :math:`t_c`, which is 1 for the label and 0 for other classes, or a probability. The
    loss of an ignored label is 0.

    A mean divides by all elements, ignored ones included, as in vis4d. To divide by the labelled
    elements only, pass ``where=target != ignore_index``.

    Args:
        output: Logits ``[..., C]``, or with the classes on ``class_axis``. Half precision is
            computed in float32. Logits of ignored and masked elements may contain anything.
        target: Labels ``[...]`` from 0 to C - 1, or ``ignore_index``, of any numeric dtype or
            boolean. Floats are truncated, as in vis4d: -0.5 is class 0. Any other label makes the
            loss NaN. Fractional and invalid labels are reported under ``checkify``. Or class
            probabilities in the shape of ``output``, which have a gradient; negative ones are
            reported.
        class_weights: Weight of each class, ``[C]``. Unlike in torch, a mean divides by the number
            of elements and not by the sum of the weights.
        ignore_index: Label whose loss and gradient are 0; a tuple of several, or None for no label.
            With more than 255 classes, the default ignores a class, and warns.
        class_axis: Axis of the classes in ``output``: -1 for ``[N, H, W, C]``, 1 for
            ``[N, C, H, W]``.
        label_smoothing: Share of the target that is spread evenly over all classes, from 0 to 1.
            May be traced. A class that is switched off by a logit of -inf then has an infinite
            loss and a finite gradient.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        where: Mask of valid elements over the leading axes of the loss. Padding may contain
            anything, NaN included.

    Returns:
        What ``reducer`` returns; by default one loss per element, with the shape of ``output``
        without its classes.

    Raises:
        ValueError: If the shapes of ``output``, ``target`` and ``class_weights`` do not match,
            ``class_axis`` is not an axis of ``output``, or ``label_smoothing`` is not from 0 to 1.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
        >>> print(jnp.exp(-cross_entropy(logits, jnp.array([0, 255]))))
        [0.5 1. ]
    """
    output, target = as_array(output), labels_as_array(target)
    check_smoothing("cross_entropy", label_smoothing)
    check_logits("cross_entropy", output, target, class_axis, probabilities=True)
    rest = class_axis, reducer, where, label_smoothing
    if output.shape == target.shape:
        return cross_entropy_with_probabilities(output, as_array(target), class_weights, *rest)
    return checked_cross_entropy(output, target, class_weights, ignore_index, *rest)


def check_smoothing(function: str, label_smoothing: Any) -> None:
    """Check the range of a number; that of a traced one is not known."""
    check_number(function, label_smoothing=label_smoothing)
    if not isinstance(label_smoothing, Tracer) and not 0 <= label_smoothing <= 1:
        got = describe(label_smoothing=label_smoothing)
        fail(ValueError, function, "label_smoothing must be from 0 to 1", got)


def checked_cross_entropy(
    output: jax.Array,
    target: Any,
    class_weights: ArrayLike | Sequence[float] | None,
    ignore_index: IgnoreIndex,
    class_axis: int,
    reducer: LossReducer,
    where: ArrayLike | None,
    label_smoothing: ArrayLike = 0.0,
) -> jax.Array:
    """Compute :func:`cross_entropy` of logits that may be larger than the labels."""
    name = "cross_entropy"
    read = read_labelled(name, output, target, ignore_index, class_axis, where)
    label_weights = None
    if class_weights is not None:
        class_weights = read_class_weights(name, class_weights, read.logits, read.axis)
        label_weights = weight_of_label(class_weights, read)
    if is_zero(label_smoothing):
        loss = cross_entropy_of_labels(read)
        loss = loss if label_weights is None else loss * label_weights
    else:
        loss = smoothed_cross_entropy(read, label_weights, class_weights, label_smoothing)
    return reduce_loss(reducer, mark_labels(loss, read.labels), read.mask)


class CrossEntropyLoss(Loss):
    """:func:`cross_entropy` as a module. By default the mean over all elements, ignored ones too.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        class_weights: Weight of each class, ``[C]``.
        class_axis: Axis of the classes in ``output``: -1 for ``[N, H, W, C]``, 1 for
            ``[N, C, H, W]``.
        ignore_index: Label whose loss and gradient are 0; a tuple of several, or None for no label.
        label_smoothing: Share of the target that is spread evenly over all classes, from 0 to 1.

    Example:
        >>> loss = CrossEntropyLoss(class_weights=[1.0, 3.0])
        >>> print(loss(jnp.zeros((2, 2)), jnp.array([0, 1])) / jnp.log(2.0))
        2.0
    """

    reducer: LossReducer = mean_loss
    class_weights: Sequence[float] | None = None
    class_axis: int = dataclasses.field(default=-1, kw_only=True)
    ignore_index: IgnoreIndex = dataclasses.field(default=255, kw_only=True)
    label_smoothing: float = dataclasses.field(default=0.0, kw_only=True)

    def _check_options(self) -> None:
        check_integer(type(self).__name__, class_axis=self.class_axis)
        ignored_labels(type(self).__name__, self.ignore_index)
        check_smoothing(type(self).__name__, self.label_smoothing)

    def __call__(
        self,
        output: ArrayLike,
        target: ArrayLike,
        reducer: LossReducer | None = None,
        ignore_index: IgnoreIndex = FROM_MODULE,
        *,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        """Compute and reduce the losses.

        Args:
            output: Logits ``[..., C]``, or with the classes on ``class_axis``.
            target: Labels ``[...]`` from 0 to C - 1, or ``ignore_index``; or class probabilities
                in the shape of ``output``.
            reducer: Overrides the reducer of the module in this call.
            ignore_index: Overrides the option of the module in this call.
            where: Mask of valid elements over the leading axes of the loss. Padding may contain
                anything, NaN included.

        Returns:
            What the reducer returns; by default a scalar.
        """
        return cross_entropy(
            output,
            target,
            self.class_weights,
            self.ignore_index if ignore_index is FROM_MODULE else ignore_index,
            class_axis=self.class_axis,
            label_smoothing=self.label_smoothing,
            reducer=self._reducer_for_call(reducer),
            where=where,
        )
