"""Cross-entropy with smoothed labels or class probabilities, and class weights."""

from collections.abc import Sequence
from numbers import Real

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import check_mask
from vis4d_jax_loss._numerics import as_option, expand_mask, float_dtype, to_common_float
from vis4d_jax_loss._reduce_loss import reduce_loss
from vis4d_jax_loss.losses._labelled import Labelled, read_class_weights, valid_labels
from vis4d_jax_loss.losses._weighted_log_prob import weighted_negative_log_prob
from vis4d_jax_loss.reducer import LossReducer


def is_zero(label_smoothing: ArrayLike) -> bool:
    return isinstance(label_smoothing, Real) and float(label_smoothing) == 0


def cross_entropy_with_probabilities(
    output: jax.Array,
    target: jax.Array,
    class_weights: ArrayLike | Sequence[float] | None,
    class_axis: int,
    reducer: LossReducer,
    where: ArrayLike | None,
    label_smoothing: ArrayLike,
) -> jax.Array:
    """Compute :func:`cross_entropy` of class probabilities in the shape of the logits."""
    axis = class_axis % output.ndim
    mask_shape = output.shape[:axis] + output.shape[axis + 1 :]
    mask = check_mask("cross_entropy", where, mask_shape)
    if mask is not None:  # jax.debug_nans would stop at a conversion of NaN in padding
        valid = lax.expand_dims(expand_mask(mask, mask_shape), [axis])
        output, target = (jnp.where(valid, x, 0) for x in (output, target))
    logits, target = to_common_float(output, target)
    # No element has a label; a negative one marks padding. The array is sharded like the loss.
    labels = jnp.zeros_like(jnp.any(target == 0, axis=axis), jnp.int32)
    if mask is not None:
        labels = jnp.where(expand_mask(mask, labels.shape), labels, -1)
    logits = _value_checks.expect_finite_or_off("cross_entropy", "output", logits)
    target = _value_checks.expect_not_negative("cross_entropy", "target", target)

    # Smooth the probabilities, and weight the classes.
    if not is_zero(label_smoothing):
        share = as_option(label_smoothing, target.dtype)
        target = (1 - share) * target + share / output.shape[axis]
    if class_weights is not None:
        target *= read_class_weights("cross_entropy", class_weights, target, axis)
    loss = weighted_negative_log_prob(logits, labels, None, target, axis)
    return reduce_loss(reducer, loss, mask)


def smoothed_cross_entropy(
    read: Labelled,
    label_weights: jax.Array | None,
    class_weights: jax.Array | None,
    label_smoothing: ArrayLike,
) -> jax.Array:
    """The cross-entropy of each element with smoothed labels."""
    logits, labels, axis = read.logits, valid_labels(read.labels), read.axis
    dtype = float_dtype(logits)
    share = as_option(label_smoothing, dtype)
    label_weights = jnp.ones_like(labels, dtype) if label_weights is None else label_weights
    if class_weights is None:
        class_weights = jnp.ones([1] * logits.ndim, dtype)  # the same for all classes
    weights = (1 - share) * label_weights, share * class_weights / logits.shape[axis]
    return weighted_negative_log_prob(logits, labels, *weights, axis)
