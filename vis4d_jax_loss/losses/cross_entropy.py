"""Cross-entropy over classes, with an ignored label and class weights."""

import dataclasses
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import check_mask, fail, holds, shapes_of
from vis4d_jax_loss._numerics import as_array, to_float
from vis4d_jax_loss._reduce_loss import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._inputs import check_logits, cut_and_fill
from vis4d_jax_loss.losses._labels import (
    FROM_MODULE,
    IgnoreIndex,
    ignored_labels,
    labels_as_array,
    read_labels,
)
from vis4d_jax_loss.reducer import LossReducer, identity_loss, mean_loss

_NO_LABEL = -1  # of elements that are skipped, or whose label is invalid


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

    You choose what a mean divides by. With ``ignore_index`` alone, ignored elements are counted, as
    in vis4d. With ``where=target != ignore_index`` they are not.

    Args:
        output: Logits ``[..., C]``, or with the classes on ``class_axis``. Half precision is
            computed in float32. Logits of ignored and masked elements may contain anything.
        target: Labels ``[...]`` from 0 to C - 1, or ``ignore_index``, of any numeric dtype. Floats
            are truncated, as in vis4d. Any other label makes the loss NaN. Both are reported under
            ``checkify``.
        class_weights: Weight of each class, ``[C]``. They do not change the divisor of a mean.
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

    # Labels: which elements have one, and which labels are invalid.
    labels = read_labels("cross_entropy", target, ignore_index, output.shape[axis], mask)
    has_label = ~(labels.skipped | labels.invalid)

    # Replace the logits of skipped elements. Without a label, the gradient of an element is 0.
    logits = to_float(cut_and_fill(output, labels.skipped, axis))
    logits = _value_checks.expect_finite_or_off("cross_entropy", "output", logits)
    loss = _negative_log_prob(logits, jnp.where(has_label, labels.value, _NO_LABEL), axis)
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
    weights = jnp.asarray(class_weights, dtype=dtype)
    if not holds(chex.assert_shape, weights, (shape[axis],)):
        rule = f"class_weights must hold one weight for each of the {shape[axis]} classes"
        remedy = "The classes are counted along class_axis of output."
        fail(ValueError, "cross_entropy", rule, shapes_of(class_weights=weights), remedy)
    weights = _value_checks.expect_finite("cross_entropy", "class_weights", weights)
    weights = weights.reshape([n if i == axis else 1 for i, n in enumerate(shape)])
    return jnp.sum(jnp.where(_is_label(labels, shape, axis), weights, 0), axis=axis)


# The derivative is written out, so that each exponential is computed once, and no array as large as
# the logits is stored besides the gradient.
@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _negative_log_prob(logits: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    """Softmax cross-entropy; where the label is negative, the gradient is 0 for any logits."""
    shift, log_total, own = _log_sum_exp_and_label(logits, labels, axis)
    return log_total - (own - shift)


@_negative_log_prob.defjvp
def _negative_log_prob_jvp(axis, primals, tangents):
    (logits, labels), (change, _) = primals, tangents
    shift, log_total, _ = _log_sum_exp_and_label(logits, labels, axis)
    shift, log_total, skipped = (lax.expand_dims(x, [axis]) for x in (shift, log_total, labels < 0))
    probs = jnp.exp(logits - shift) * jnp.exp(-log_total)
    hit = _is_label(labels, logits.shape, axis)
    gradient = jnp.where(skipped, 0, probs - hit.astype(probs.dtype))
    return _negative_log_prob(logits, labels, axis), jnp.sum(gradient * change, axis=axis)


def _log_sum_exp_and_label(
    logits: jax.Array, labels: jax.Array, axis: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A shift near the largest logit, the log-sum-exp minus the shift, and the label's logit."""
    few = isinstance(logits.shape[axis], int) and 0 < logits.shape[axis] <= 64  # may be symbolic
    if axis < logits.ndim - 1 and few and not _is_sharded(logits, axis):
        # One class at a time: XLA fuses all three results, which it does not do when it reduces an
        # axis that is not the last.
        columns = [lax.index_in_dim(logits, i, axis, False) for i in range(logits.shape[axis])]
        largest = reduce(jnp.maximum, columns)
        log_total = jnp.log(sum(jnp.exp(column - largest) for column in columns))
        own = jnp.zeros_like(largest)
        labels = labels + jnp.zeros_like(largest, jnp.int32)  # with the sharding of the logits
        for i, column in enumerate(columns):
            own = jnp.where(labels == i, column, own)
        # In the gradient, XLA on a CPU computes a maximum again for every class, but stores a
        # logarithm. The shift is therefore the sum of both; the second result keeps its rounding
        # error.
        shift = largest + log_total
        return shift, log_total - (shift - largest), own
    largest = jnp.max(logits, axis=axis, keepdims=True, initial=-jnp.inf)
    total = jnp.sum(jnp.exp(logits - largest), axis=axis)
    # Read the label's logit by masking and summing, not by gathering, so that the class axis may be
    # sharded. The bits are summed as integers: that is exact, and XLA does not store the summands.
    integer = jnp.dtype(f"int{8 * logits.dtype.itemsize}")
    selected = lax.bitcast_convert_type(logits, integer)
    selected = jnp.where(_is_label(labels, logits.shape, axis), selected, 0)
    own = lax.bitcast_convert_type(jnp.sum(selected, axis=axis, dtype=integer), logits.dtype)
    return largest.squeeze(axis), jnp.log(total), own


def _is_label(labels: jax.Array, shape: tuple[int, ...], axis: int) -> jax.Array:
    classes = lax.broadcasted_iota(jnp.int32, shape, axis)
    return classes == lax.expand_dims(labels, [axis])


def _is_sharded(x: jax.Array, axis: int) -> bool:
    """Whether an axis is explicitly sharded: slicing it would be an error."""
    return jax.typeof(x).sharding.spec[axis] is not None


class CrossEntropyLoss(Loss):
    """:func:`cross_entropy` as a module; by default the mean, which counts ignored elements.

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

    def __post_init__(self) -> None:
        super().__post_init__()
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
            reducer: Used in this call instead of the module's own.
            ignore_index: Used in this call instead of the module's own.
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
