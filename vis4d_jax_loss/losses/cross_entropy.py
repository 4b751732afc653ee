"""Cross-entropy over classes, with ignored labels and class weights."""

import dataclasses
from collections.abc import Sequence
from functools import partial, reduce

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import check_integer, check_mask, fail, holds, shapes_of
from vis4d_jax_loss._numerics import as_array, to_float
from vis4d_jax_loss._reduce_loss import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._inputs import check_logits
from vis4d_jax_loss.losses._labels import (
    FROM_MODULE,
    IgnoreIndex,
    ignored_labels,
    labels_as_array,
    read_labels,
)
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
    name = "cross_entropy"
    output, target = as_array(output), labels_as_array(target)
    check_logits(name, output, target, class_axis)
    mask = check_mask(name, where, target.shape)
    axis = class_axis % output.ndim
    num_classes = output.shape[axis]

    # Find the elements without a valid label.
    labels = read_labels(name, target, ignore_index, num_classes, mask)
    has_label = ~(labels.skipped | labels.invalid)

    # Replace the logits of ignored and masked elements, which may be NaN.
    output = jnp.where(lax.expand_dims(labels.skipped, [axis]), 0, output)
    logits = _value_checks.expect_finite_or_off(name, "output", to_float(output))
    loss = _negative_log_prob(logits, jnp.where(has_label, labels.value, _NO_LABEL), axis)
    if class_weights is not None:
        loss *= _weight_of_label(class_weights, labels.value, output.shape, axis, loss.dtype)

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
    return jnp.sum(jnp.where(_is_label(labels, shape, axis), weights, 0), axis=axis)


# The derivative is written out: JAX's own would store one more array as large as the logits.
@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _negative_log_prob(logits: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    """Softmax cross-entropy. The gradient is 0 where the label is negative."""
    shift, rest, label_logit = _log_sum_exp_and_label(logits, labels, axis)
    return rest - (label_logit - shift)


@_negative_log_prob.defjvp
def _negative_log_prob_jvp(axis, primals, tangents):
    (logits, labels), (tangent, _) = primals, tangents
    shift, rest, _ = _log_sum_exp_and_label(logits, labels, axis)
    shift, rest, no_label = (lax.expand_dims(x, [axis]) for x in (shift, rest, labels < 0))
    probs = jnp.exp(logits - shift) * jnp.exp(-rest)
    one_hot = _is_label(labels, logits.shape, axis).astype(probs.dtype)
    gradient = jnp.where(no_label, 0, probs - one_hot)
    return _negative_log_prob(logits, labels, axis), jnp.sum(gradient * tangent, axis=axis)


def _log_sum_exp_and_label(
    logits: jax.Array, labels: jax.Array, axis: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (shift, rest, label_logit), where shift + rest is the log-sum-exp.

    ``exp(logits - shift)`` does not overflow.
    """
    if _is_short_and_not_last(logits, axis):
        return _one_class_at_a_time(logits, labels, axis)
    largest = jnp.max(logits, axis=axis, keepdims=True, initial=-jnp.inf)
    total = jnp.sum(jnp.exp(logits - largest), axis=axis)
    # Mask and sum instead of gathering, so that the class axis may be sharded. All other summands
    # are 0, so the sum of the bits is exactly the label's logit. Bits are summed instead of floats,
    # because XLA then does not store the summands.
    integer = jnp.dtype(f"int{8 * logits.dtype.itemsize}")
    bits = lax.bitcast_convert_type(logits, integer)
    bits = jnp.where(_is_label(labels, logits.shape, axis), bits, 0)
    label_logit = lax.bitcast_convert_type(jnp.sum(bits, axis=axis, dtype=integer), logits.dtype)
    return largest.squeeze(axis), jnp.log(total), label_logit


def _is_short_and_not_last(logits: jax.Array, axis: int) -> bool:
    """Whether to loop over the classes: there are few, on an axis that is not the last."""
    # Under jax.export their number may be symbolic. JAX cannot slice an explicitly sharded axis.
    few = isinstance(logits.shape[axis], int) and 0 < logits.shape[axis] <= 64
    return few and axis < logits.ndim - 1 and jax.typeof(logits).sharding.spec[axis] is None


def _one_class_at_a_time(
    logits: jax.Array, labels: jax.Array, axis: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Loop over the classes. XLA fuses this loop, but not a reduction of an axis in the middle."""
    columns = [lax.index_in_dim(logits, i, axis, keepdims=False) for i in range(logits.shape[axis])]
    largest = reduce(jnp.maximum, columns)
    log_total = jnp.log(sum(jnp.exp(column - largest) for column in columns))
    # Add up the classes: jnp.where(labels == i, column, label_logit) would require that the labels
    # are sharded like the logits.
    label_logit = sum(jnp.where(labels == i, column, 0) for i, column in enumerate(columns))
    # On a CPU, the gradient would compute ``largest`` again for every class, because XLA stores the
    # result of a logarithm but not of a maximum. So ``shift`` is ``largest + log_total``, and the
    # rest is the rounding error of this addition.
    shift = largest + log_total
    return shift, log_total - (shift - largest), jnp.asarray(label_logit)


def _is_label(labels: jax.Array, shape: tuple[int, ...], axis: int) -> jax.Array:
    classes = lax.broadcasted_iota(jnp.int32, shape, axis)
    return classes == lax.expand_dims(labels, [axis])


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
