"""Cross-entropy over classes, with an ignored label and class weights."""

import dataclasses
from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _checks, _value_checks
from vis4d_jax_loss._numerics import cover, to_float
from vis4d_jax_loss._reduction import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.reducer import LossReducer, identity_loss, mean_loss

_NO_LABEL = -(2**30)  # stands for labels that are not even integers: NaN, infinity, 1e30


def cross_entropy(
    output: ArrayLike,
    target: ArrayLike,
    class_weights: ArrayLike | Sequence[float] | None = None,
    ignore_index: int = 255,
    *,
    class_axis: int = -1,
    reducer: LossReducer = identity_loss,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Softmax cross-entropy with integer labels.

    .. math:: \ell = w_y \left( \log \sum_c e^{z_c} - z_y \right), \qquad 0 \text{ if }
        y = \mathrm{ignore\_index}

    The denominator of a mean is for you to choose: ``ignore_index`` alone leaves the ignored
    elements in the count, as vis4d does; ``where=target != ignore_index`` takes them out.

    Args:
        output: Logits ``[..., C]``, or with the classes on ``class_axis``; half precision is
            computed in float32. At ignored and masked elements they may hold anything.
        target: Labels ``[...]`` from 0 to C - 1, or ``ignore_index``; any real dtype, floats being
            truncated. Any other label makes the loss NaN, and is reported under ``checkify``.
        class_weights: Weight of each class, ``[C]``; they do not enter the denominator.
        ignore_index: Label whose loss is 0, with gradient 0.
        class_axis: Axis of the classes in ``output``: -1 for ``[N, H, W, C]``, 1 for
            ``[N, C, H, W]``, which is as fast.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        where: True for real elements, covering the leading axes of ``target``; padding may hold
            anything, in logits and labels.

    Returns:
        What ``reducer`` returns; by default one loss an element, of the shape of ``target``.

    Raises:
        ValueError: If the shapes do not fit each other, ``class_axis``, ``class_weights`` or
            ``where``.
        TypeError: If an input is not real, or ``where`` not boolean.

    Example:
        >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
        >>> print(jnp.exp(-cross_entropy(logits, jnp.array([0, 255]))))
        [0.5 1. ]
    """
    name = "cross_entropy"
    output, target = jnp.asarray(output), jnp.asarray(target)
    mask = None if where is None else jnp.asarray(where)
    _checks.check_real(name, output=output)
    _checks.check_labels(name, target)
    _checks.check_logits(name, output, target, class_axis)
    _checks.check_where(name, mask, target.shape)
    axis = class_axis % output.ndim
    num_classes = output.shape[axis]

    labels = _as_integers(target)
    ignored = labels == ignore_index
    if mask is not None:
        ignored |= ~cover(mask, labels.shape)
    invalid = ~ignored & ((labels < 0) | (labels >= num_classes))
    labels = _value_checks.expect_labels(name, labels, invalid, num_classes)

    (logits,) = to_float(output)
    logits = _value_checks.expect_finite(name, ~lax.expand_dims(ignored, [axis]), output=logits)
    loss = _negative_log_prob(logits, jnp.where(ignored | invalid, _NO_LABEL, labels), axis)
    if class_weights is not None:
        weights = jnp.asarray(class_weights, dtype=loss.dtype)
        _checks.check_class_weights(name, weights, num_classes)
        shape = [num_classes if i == axis else 1 for i in range(output.ndim)]
        hit = _is_label(labels, output.shape, axis)
        loss *= jnp.sum(jnp.where(hit, weights.reshape(shape), 0), axis=axis)
    loss = jnp.where(ignored, 0, jnp.where(invalid, jnp.nan, loss))
    return reduce_loss(reducer, loss, mask)


# Nothing of the logits' size is stored beside the gradient itself, and each exponential is computed
# once: on a CPU 2 to 5 times as fast as differentiating a masked log_softmax.
@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _negative_log_prob(logits: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    """Softmax cross-entropy, of gradient 0 where the label is negative, whatever the logits."""
    shift, log_total, own = _normaliser(logits, labels, axis)
    return log_total - (own - shift)


@_negative_log_prob.defjvp
def _(axis, primals, tangents):
    (logits, labels), (change, _) = primals, tangents
    shift, log_total, _ = _normaliser(logits, labels, axis)
    shift, log_total, skipped = (lax.expand_dims(x, [axis]) for x in (shift, log_total, labels < 0))
    probs = jnp.exp(logits - shift) * jnp.exp(-log_total)
    slope = jnp.where(skipped, 0, probs - _is_label(labels, logits.shape, axis))
    return _negative_log_prob(logits, labels, axis), jnp.sum(slope * change, axis=axis)


def _normaliser(
    logits: jax.Array, labels: jax.Array, axis: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A shift near the largest logit, the log-sum-exp less the shift, and the label's own logit."""
    num_classes = logits.shape[axis]
    if axis < logits.ndim - 1 and 0 < num_classes <= 64 and not _is_sharded(logits, axis):
        # Class by class, all three in one fusion: 4 times as fast on a CPU as reducing an axis that
        # is not the last.
        columns = [lax.index_in_dim(logits, i, axis, keepdims=False) for i in range(num_classes)]
        largest = reduce(jnp.maximum, columns)
        log_total = jnp.log(sum(jnp.exp(column - largest) for column in columns))
        own = jnp.zeros_like(largest)
        for i, column in enumerate(columns):
            own = jnp.where(labels == i, column, own)
        # The sum and what rounding it lost. XLA stores a logarithm, but computes a maximum anew for
        # each class of the gradient: half as fast.
        shift = largest + log_total
        return shift, log_total - (shift - largest), own
    largest = jnp.max(logits, axis=axis, keepdims=True, initial=-jnp.inf)
    total = jnp.sum(jnp.exp(logits - largest), axis=axis)
    # Selected and summed instead of gathered, so that the classes may be sharded; and as integers,
    # whose sum of one value and zeros is that value: XLA stores the selection of floats.
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


def _as_integers(target: jax.Array) -> jax.Array:
    """Labels as int32, where no value that is no label turns into one."""
    if jnp.issubdtype(target.dtype, jnp.floating):
        (target,) = to_float(target)
        target = jnp.where(jnp.abs(target) < -_NO_LABEL, jnp.trunc(target), _NO_LABEL)
    elif target.dtype.itemsize >= 4:
        low = 0 if jnp.issubdtype(target.dtype, jnp.unsignedinteger) else _NO_LABEL
        target = jnp.clip(target, low, -_NO_LABEL)
    return target.astype(jnp.int32)


class CrossEntropyLoss(Loss):
    """:func:`cross_entropy` as a module: by default its mean, ignored elements counted in.

    Example:
        >>> loss = CrossEntropyLoss(class_weights=[1.0, 3.0])
        >>> print(loss(jnp.zeros((2, 2)), jnp.array([0, 1])) / jnp.log(2.0))
        2.0
    """

    reducer: LossReducer = mean_loss
    class_weights: Sequence[float] | None = None
    class_axis: int = dataclasses.field(default=-1, kw_only=True)

    def __call__(
        self,
        output: ArrayLike,
        target: ArrayLike,
        reducer: LossReducer | None = None,
        ignore_index: int = 255,
        *,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        return cross_entropy(
            output,
            target,
            self.class_weights,
            ignore_index,
            class_axis=self.class_axis,
            reducer=self.choose(reducer),
            where=where,
        )
