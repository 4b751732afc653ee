"""Soft counts of segmentation: probabilities instead of decisions, summed per image and class."""

from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax


def soft_counts(logits: jax.Array, sign: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """True and false positives ``[B, C]``: sums of the probabilities with and without the label.

    A single class has the probability of a sigmoid, several have those of a softmax.

    Args:
        logits: Logits ``[B, ...]`` with the classes on ``axis``.
        sign: In the shape of the logits: -1 at the label of a pixel, 1 at its other classes, and 0
            in pixels that do not count.
        axis: Axis of the classes, counted from the first.
    """
    if axis == 0:
        logits, sign, axis = jnp.swapaxes(logits, 0, 1), jnp.swapaxes(sign, 0, 1), 1
    if logits.shape[axis] == 1:
        return _sums(sign * jax.nn.sigmoid(logits), axis)
    return _softmax_counts(logits, sign, axis)


# The derivative is written out: JAX's own would store several arrays as large as the logits.
@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _softmax_counts(logits: jax.Array, sign: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    signed, _ = _signed_probabilities(logits, sign, axis)
    return _sums(signed, axis)


@_softmax_counts.defjvp
def _softmax_counts_jvp(axis, primals, tangents):
    # A probability p changes by p (change - mean), with the mean change under the softmax.
    (logits, sign), (change, _) = primals, tangents
    signed, scale = _signed_probabilities(logits, sign, axis)
    mean = jnp.sum(jnp.where(signed < 0, -signed, signed) * change, axis=axis)
    mean = _stored(mean, scale)
    changes = []
    for part in (_negative_part, _positive_part):
        total = jnp.sum(part(signed) * change, axis=_pixels(signed, axis))
        changes.append(total - _weighted_sum(part, signed, mean, axis))
    return _softmax_counts(logits, sign, axis), tuple(changes)


def _negative_part(x: jax.Array) -> jax.Array:
    return jnp.where(x < 0, -x, 0)


def _positive_part(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, x, 0)


def _weighted_sum(
    part: Callable[[jax.Array], jax.Array], signed: jax.Array, weight: jax.Array, axis: int
) -> jax.Array:
    """Sum over the pixels, each with a weight."""
    if not _are_few(signed, axis):
        return jnp.sum(part(signed) * jnp.expand_dims(weight, axis), axis=_pixels(signed, axis))
    # One class at a time, so that the transpose is a loop over classes. XLA fuses that loop, but
    # not a reduction of an axis in the middle.
    pixels = tuple(range(1, weight.ndim))
    sums = [jnp.sum(part(x) * weight, axis=pixels) for x in _classes(signed, axis)]
    return jnp.stack(sums, axis=1)


# Under jit, an eager call compiles it once, and not at every call.
@jax.jit
def _stored(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Return ``x``, as a quotient on a CPU.

    There XLA would compute the sum in its transpose again for every class, but it stores quotients.
    """
    return lax.platform_dependent(x, scale, cpu=lambda x, s: x / s * s, default=lambda x, s: x)


def _signed_probabilities(
    logits: jax.Array, sign: jax.Array, axis: int
) -> tuple[jax.Array, jax.Array]:
    """Probabilities with their sign, and a positive number per pixel, which is a constant.

    The sign tells where the label is, so that nothing else has to be stored.
    """
    if _are_few(logits, axis) and axis < logits.ndim - 1:
        shift, rest = (jnp.expand_dims(x, axis) for x in _log_sum_exp(logits, axis))
        scale = 1 + jnp.abs(lax.stop_gradient(rest.squeeze(axis)))
        return sign * jnp.exp((logits - shift) - rest), scale
    largest = jnp.max(logits, axis=axis, keepdims=True, initial=-jnp.inf)
    exponentials = jnp.exp(logits - lax.stop_gradient(largest))
    total = jnp.sum(exponentials, axis=axis)
    signed = sign * exponentials * jnp.expand_dims(1 / total, axis)
    return signed, lax.stop_gradient(total)


@partial(jax.jit, static_argnums=1)
def _log_sum_exp(logits: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """The log-sum-exp over the classes, in two parts. XLA for a TPU prefers a reduction."""
    tpu, default = (partial(f, axis=axis) for f in (_by_reduction, _one_class_at_a_time))
    return lax.platform_dependent(logits, tpu=tpu, default=default)


def _by_reduction(logits: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    largest = lax.stop_gradient(jnp.max(logits, axis=axis, keepdims=True))
    total = jnp.sum(jnp.exp(logits - largest), axis=axis)
    return largest.squeeze(axis), jnp.log(total)


def _one_class_at_a_time(logits: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    classes = _classes(logits, axis)
    largest = lax.stop_gradient(reduce(jnp.maximum, classes))
    log_total = jnp.log(sum(jnp.exp(x - largest) for x in classes))
    # On a CPU, XLA would compute the maximum again for every class, but it stores the result of a
    # logarithm. So the shift is the sum of both, and the rest is its rounding error.
    shift = largest + log_total
    return shift, lax.stop_gradient(log_total - (shift - largest))


def _sums(signed: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Sums of the negative numbers, without their sign, and of the positive ones."""
    pixels = _pixels(signed, axis)
    positive = jnp.sum(jnp.abs(signed) + signed, axis=pixels) / 2
    return positive - jnp.sum(signed, axis=pixels), positive


def _pixels(x: jax.Array, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(1, x.ndim) if i != axis)


def _classes(x: jax.Array, axis: int) -> list[jax.Array]:
    return [lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])]


def _are_few(x: jax.Array, axis: int) -> bool:
    """Whether to loop over the classes."""
    # Under jax.export their number may be symbolic. JAX cannot slice an explicitly sharded axis.
    few = isinstance(x.shape[axis], int) and 0 < x.shape[axis] <= 64
    return few and jax.typeof(x).sharding.spec[axis] is None
