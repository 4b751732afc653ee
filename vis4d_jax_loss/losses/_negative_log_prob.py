"""The negative log-probability of a label, and its derivative."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax


# The derivative is written out: JAX's own would store one more array as large as the logits.
@partial(jax.custom_jvp, nondiff_argnums=(2,))
def negative_log_prob(logits: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    """Softmax cross-entropy. The gradient is 0 where the label is negative."""
    shift, rest, label_logit = _log_sum_exp_and_label(logits, labels, axis)
    return rest - (label_logit - shift)


@negative_log_prob.defjvp
def _negative_log_prob_jvp(axis, primals, tangents):
    (logits, labels), (tangent, _) = primals, tangents
    shift, rest, _ = _log_sum_exp_and_label(logits, labels, axis)
    shift, rest, no_label = (lax.expand_dims(x, [axis]) for x in (shift, rest, labels < 0))
    probs = jnp.exp(logits - shift) * jnp.exp(-rest)
    one_hot = is_label(labels, logits.shape, axis).astype(probs.dtype)
    gradient = jnp.where(no_label, 0, probs - one_hot)
    return negative_log_prob(logits, labels, axis), jnp.sum(gradient * tangent, axis=axis)


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
    bits = jnp.where(is_label(labels, logits.shape, axis), bits, 0)
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


def is_label(labels: jax.Array, shape: tuple[int, ...], axis: int) -> jax.Array:
    """One-hot labels in the shape of the logits."""
    classes = lax.broadcasted_iota(jnp.int32, shape, axis)
    return classes == lax.expand_dims(labels, [axis])
