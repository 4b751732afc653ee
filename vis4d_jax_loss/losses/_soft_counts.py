"""Soft counts of segmentation: probabilities instead of decisions, summed per image and class."""

from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

# The loop over the classes is unrolled. With more of them it takes long to compile.
_MOST, _MOST_OF_GPU = 256, 64


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
    last = logits.ndim - 1
    if axis < last and not _can_loop(logits, axis):
        # XLA on a CPU is slow to reduce a long axis in the middle.
        logits, sign, axis = jnp.moveaxis(logits, axis, last), jnp.moveaxis(sign, axis, last), last
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
    (logits, sign), (change, _) = primals, tangents
    signed, scale = _signed_probabilities(logits, sign, axis)
    return _softmax_counts(logits, sign, axis), _changes(signed, scale, change, axis)


# Under jit, an eager call compiles it once, and not at every call.
@partial(jax.jit, static_argnums=3)
def _changes(
    signed: jax.Array, scale: jax.Array, change: jax.Array, axis: int
) -> tuple[jax.Array, jax.Array]:
    """How the counts change: p changes by p (change - mean), with the mean under the softmax."""
    if not _can_loop(signed, axis):
        return _changes_by_reduction(signed, scale, change, axis)
    loop, reduction = (partial(f, axis=axis) for f in (_changes_by_loop, _changes_by_reduction))
    return lax.platform_dependent(
        signed,
        scale,
        change,
        cpu=partial(loop, store=True),
        default=loop if signed.shape[axis] <= _MOST_OF_GPU else reduction,
    )


def _changes_by_reduction(
    signed: jax.Array, scale: jax.Array, change: jax.Array, axis: int
) -> tuple[jax.Array, jax.Array]:
    del scale
    change -= jnp.sum(jnp.abs(signed) * change, axis=axis, keepdims=True)
    pixels = _pixels(signed, axis)
    return (
        jnp.sum(_negative_part(signed) * change, axis=pixels),
        jnp.sum(_positive_part(signed) * change, axis=pixels),
    )


def _changes_by_loop(
    signed: jax.Array, scale: jax.Array, change: jax.Array, axis: int, store: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Subtract the mean for one class at a time, so that the transpose is a loop over the classes.

    XLA fuses that loop, but not a reduction of an axis in the middle.
    """
    mean = jnp.sum(jnp.where(signed < 0, -signed, signed) * change, axis=axis)
    if store:
        # The transpose would sum over the classes again for every class: XLA for a CPU does not
        # store a sum, but it stores a quotient.
        mean = mean / scale * scale
    pixels, classes = tuple(range(1, mean.ndim)), _classes(signed, axis)

    def change_of(part: Callable[[jax.Array], jax.Array]) -> jax.Array:
        total = jnp.sum(part(signed) * change, axis=_pixels(signed, axis))
        means = [jnp.sum(part(x) * mean, axis=pixels) for x in classes]
        return total - jnp.stack(means, axis=1)

    return change_of(_negative_part), change_of(_positive_part)


def _negative_part(x: jax.Array) -> jax.Array:
    return jnp.where(x < 0, -x, 0)


def _positive_part(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, x, 0)


def _signed_probabilities(
    logits: jax.Array, sign: jax.Array, axis: int
) -> tuple[jax.Array, jax.Array]:
    """Probabilities with their sign, and a positive number per pixel, which is a constant.

    The sign tells where the label is, so that nothing else has to be stored.
    """
    if axis < logits.ndim - 1 and _can_loop(logits, axis):
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
    reduction, loop = (partial(f, axis=axis) for f in (_by_reduction, _one_class_at_a_time))
    gpu = loop if logits.shape[axis] <= _MOST_OF_GPU else reduction
    return lax.platform_dependent(logits, cpu=loop, tpu=reduction, default=gpu)


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


def _can_loop(x: jax.Array, axis: int) -> bool:
    """Whether to consider a loop over the classes."""
    # Under jax.export their number may be symbolic. JAX cannot slice an explicitly sharded axis.
    few = isinstance(x.shape[axis], int) and 0 < x.shape[axis] <= _MOST
    return few and jax.typeof(x).sharding.spec[axis] is None
