"""Cross-entropy over classes, with ignored labels and class weights."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import check_integer, check_mask, fail, holds, shapes_of
from vis4d_jax_loss._numerics import as_array, is_integer, to_float
from vis4d_jax_loss._reduce_loss import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._inputs import check_logits, cut_to_labels
from vis4d_jax_loss.losses._labels import (
    FROM_MODULE,
    IgnoreIndex,
    ignored_labels,
    labels_as_array,
    read_labels,
)
from vis4d_jax_loss.losses._negative_log_prob import is_label, negative_log_prob
from vis4d_jax_loss.reducer import LossReducer, identity_loss, mean_loss

_NO_LABEL = -1  # stands for the label of an element that is skipped or has an invalid label


@jax.named_scope("cross_entropy")
def cross_entropy(
    output: ArrayLike,
    target: ArrayLike,
    class_weights: ArrayLike | Sequence[float] | None = None,
    ignore_index: IgnoreIndex = 255,
    *,
    class_axis: int = -1,
    reducer: LossReducer = identity_loss,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Softmax cross-entropy with integer labels.

    .. math:: \ell = w_y \left( \log \sum_c e^{z_c} - z_y \right), \qquad 0 \text{ if }
        y = \mathrm{ignore\_index}

    with the logits :math:`z_c`, the label :math:`y` and its class weight :math:`w_y`.

    A mean divides by all elements, ignored ones included, as in vis4d. To divide by the labelled
    elements only, pass ``where=target != ignore_index``.

    Args:
        output: Logits ``[..., C]``, or with the classes on ``class_axis``. Half precision is
            computed in float32. Logits of ignored and masked elements may contain anything.
        target: Labels ``[...]`` from 0 to C - 1, or ``ignore_index``, of any numeric dtype or
            boolean. Floats are truncated, as in vis4d: -0.5 is class 0. Any other label makes the
            loss NaN. Fractional and invalid labels are reported under ``checkify``.
        class_weights: Weight of each class, ``[C]``. Unlike in torch, a mean divides by the number
            of elements and not by the sum of the weights.
        ignore_index: Label whose loss and gradient are 0; a tuple of several, or None for no label.
            With more than 255 classes, the default ignores a class, and warns.
        class_axis: Axis of the classes in ``output``: -1 for ``[N, H, W, C]``, 1 for
            ``[N, C, H, W]``.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        where: Mask of valid elements over the leading axes of ``target``. Padding may contain
            anything, NaN included.

    Returns:
        What ``reducer`` returns; by default one loss per element, with the shape of ``target``.

    Raises:
        ValueError: If the shapes of ``output``, ``target`` and ``class_weights`` do not match, or
            ``class_axis`` is not an axis of ``output``.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
        >>> print(jnp.exp(-cross_entropy(logits, jnp.array([0, 255]))))
        [0.5 1. ]
    """
    output, target = as_array(output), labels_as_array(target)
    check_logits("cross_entropy", output, target, class_axis)
    rest = class_weights, ignore_index, class_axis, reducer, where
    return checked_cross_entropy(output, target, *rest)


def checked_cross_entropy(
    output: jax.Array,
    target: Any,
    class_weights: ArrayLike | Sequence[float] | None,
    ignore_index: IgnoreIndex,
    class_axis: int,
    reducer: LossReducer,
    where: ArrayLike | None,
) -> jax.Array:
    """Compute :func:`cross_entropy` of logits that may be larger than the labels."""
    mask = check_mask("cross_entropy", where, target.shape)
    axis = class_axis % output.ndim

    # Find the elements without a valid label.
    labels = read_labels("cross_entropy", target, ignore_index, output.shape[axis], mask)
    has_label = ~(labels.skipped | labels.invalid)

    # Elements without a label have no loss; their logits may be NaN.
    logits = cut_to_labels(output, labels.skipped, axis)
    logits = to_float(logits) if is_integer(logits) else logits
    counted = lax.expand_dims(~labels.skipped, [axis])
    logits = _value_checks.expect_finite_or_off("cross_entropy", "output", logits, counted)
    loss = negative_log_prob(logits, jnp.where(has_label, labels.value, _NO_LABEL), axis)
    if class_weights is not None:
        loss *= _weight_of_label(class_weights, labels.value, logits.shape, axis, loss.dtype)

    # An invalid label gives NaN, so that the mistake is visible.
    loss = jnp.where(labels.skipped, 0, jnp.where(labels.invalid, jnp.nan, loss))
    return reduce_loss(reducer, loss, mask)


def _weight_of_label(
    class_weights: ArrayLike | Sequence[float],
    labels: jax.Array,
    shape: tuple[int, ...],
    axis: int,
    dtype: jnp.dtype,
) -> jax.Array:
    """The class weight of each label; 0 for a label that is not a class."""
    if callable(class_weights):
        got = f"class_weights {getattr(class_weights, '__name__', class_weights)}"
        remedy = "A reducer is passed by name: reducer=mean_loss."
        fail(TypeError, "cross_entropy", "class_weights must be numbers", got, remedy)
    weights = jnp.asarray(class_weights, dtype=dtype)
    if not holds(chex.assert_shape, weights, (shape[axis],)):
        rule = f"class_weights must hold {shape[axis]} weights, one per class"
        remedy = "The classes are counted along class_axis of output."
        fail(ValueError, "cross_entropy", rule, shapes_of(class_weights=weights), remedy)
    weights = _value_checks.expect_finite("cross_entropy", "class_weights", weights)
    weights = weights.reshape([n if i == axis else 1 for i, n in enumerate(shape)])
    return jnp.sum(jnp.where(is_label(labels, shape, axis), weights, 0), axis=axis)


class CrossEntropyLoss(Loss):
    """:func:`cross_entropy` as a module. By default the mean over all elements, ignored ones too.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        class_weights: Weight of each class, ``[C]``.
        class_axis: Axis of the classes in ``output``: -1 for ``[N, H, W, C]``, 1 for
            ``[N, C, H, W]``.
        ignore_index: Label whose loss and gradient are 0; a tuple of several, or None for no label.

    Example:
        >>> loss = CrossEntropyLoss(class_weights=[1.0, 3.0])
        >>> print(loss(jnp.zeros((2, 2)), jnp.array([0, 1])) / jnp.log(2.0))
        2.0
    """

    reducer: LossReducer = mean_loss
    class_weights: Sequence[float] | None = None
    class_axis: int = dataclasses.field(default=-1, kw_only=True)
    ignore_index: IgnoreIndex = dataclasses.field(default=255, kw_only=True)

    def _check_options(self) -> None:
        check_integer(type(self).__name__, class_axis=self.class_axis)
        ignored_labels(type(self).__name__, self.ignore_index)

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
            target: Labels ``[...]`` from 0 to C - 1, or ``ignore_index``.
            reducer: Overrides the reducer of the module in this call.
            ignore_index: Overrides the option of the module in this call.
            where: Mask of valid elements over the leading axes of ``target``. Padding may contain
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
            reducer=self._reducer_for_call(reducer),
            where=where,
        )
