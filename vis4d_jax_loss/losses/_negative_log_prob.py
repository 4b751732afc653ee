"""The negative log-probability of a label, and its derivatives.

There are several forms, which differ in speed alone (docs/performance.md has the measurements). The
logarithm of the sum is computed over all classes at once, or class by class. The logit of the label
is picked by a one-hot mask, or gathered on a CPU.
"""

import operator
from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

from vis4d_jax_loss._numerics import to_float

_FEW = 64  # So many classes are processed one by one in one fusion, on a GPU or a TPU.
_CHUNK = 30  # So many classes are processed per iteration on a CPU.


# The derivatives are written out: JAX's own would store one more array as large as the logits, and
# let NaN into derivatives of gradients.
@partial(jax.custom_jvp, nondiff_argnums=(2,))
def negative_log_prob(logits: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    """Softmax cross-entropy in float32 or better. It is 0 where the label is negative.

    The logits, of a floating dtype, may contain anything there, NaN included; their derivatives are
    0.
    """
    return per_platform(_losses, axis, logits, labels)


@negative_log_prob.defjvp
def _negative_log_prob_jvp(axis, primals, tangents):
    (logits, labels), (change, _) = primals, tangents
    gradient = probabilities(logits, labels, axis)
    gradient -= is_label(labels, logits.shape, axis).astype(gradient.dtype)
    change = without_unlabelled(change.astype(gradient.dtype), labels, axis)
    return negative_log_prob(logits, labels, axis), jnp.sum(gradient * change, axis=axis)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def probabilities(logits: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    """Softmax of the logits; 0 where the label is negative."""
    return per_platform(_softmax, axis, logits, labels)


@probabilities.defjvp
def _probabilities_jvp(axis, primals, tangents):
    (logits, labels), (change, _) = primals, tangents
    softmax = probabilities(logits, labels, axis)
    change = without_unlabelled(change.astype(softmax.dtype), labels, axis)
    moved = softmax * change
    return softmax, moved - softmax * jnp.sum(moved, axis=axis, keepdims=True)


def is_label(labels: jax.Array, shape: tuple[int, ...], axis: int) -> jax.Array:
    """One-hot labels in the shape of the logits."""
    classes = lax.broadcasted_iota(jnp.int32, shape, axis)
    return classes == lax.expand_dims(labels, [axis])


def without_unlabelled(x: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    return jnp.where(lax.expand_dims(labels < 0, [axis]), 0, x)


# A form computes (shift, rest, label_logit) from logits, labels and axis, where shift + rest is the
# logarithm of the sum of exponentials.
Form = Callable[[jax.Array, jax.Array, int], tuple[jax.Array, jax.Array, jax.Array]]


def _forms(logits: jax.Array, axis: int) -> tuple[Form, Form]:
    """The form for a CPU, and the form for all other platforms."""
    sharding = jax.typeof(logits).sharding.spec
    classes = logits.shape[axis]
    # Under jax.export a size may be symbolic. JAX cannot slice an explicitly sharded axis.
    one_by_one = isinstance(classes, int) and classes > 0 and sharding[axis] is None
    # A TPU is faster in half precision if padding is replaced first, and in float32 if it stays.
    few = _filled_class_by_class if logits.dtype.itemsize < 4 else _class_by_class
    other = few if one_by_one and classes <= _FEW else _at_once
    if any(axes is not None for axes in sharding):
        return other, other  # JAX cannot gather from explicitly sharded arrays.
    last = axis == logits.ndim - 1
    return (_gathered_at_once if last or not one_by_one else _gathered_class_by_class), other


# Called without jit, jax.debug_nans would stop at NaN in padding.
@partial(jax.jit, static_argnums=(0, 1))
def _losses(form: Form, axis: int, logits: jax.Array, labels: jax.Array) -> jax.Array:
    shift, rest, label_logit = form(to_float(logits), labels, axis)
    return jnp.where(labels < 0, 0, rest - (label_logit - shift))


@partial(jax.jit, static_argnums=(0, 1))
def _softmax(form: Form, axis: int, logits: jax.Array, labels: jax.Array) -> jax.Array:
    logits = to_float(logits)
    shift, rest, _ = form(logits, labels, axis)
    shift, rest = (lax.expand_dims(x, [axis]) for x in (shift, rest))
    return without_unlabelled(jnp.exp(logits - shift) * jnp.exp(-rest), labels, axis)


def sum_classes(form, function, axis, *arrays, per_element=None):
    """Add up ``function`` of the classes, in one go or class by class as ``form`` does."""
    at_once = form in (_at_once, _gathered_at_once)
    elements = () if per_element is None else (per_element,)
    if at_once:
        return jnp.sum(function(*arrays, *(jnp.expand_dims(x, axis) for x in elements)), axis=axis)
    chunk = _CHUNK if form is _gathered_class_by_class else arrays[-1].shape[axis]
    return _fold(operator.add, lambda *columns: function(*columns, *elements), axis, chunk, *arrays)


def per_platform(
    function: Callable[..., jax.Array], axis: int, logits: jax.Array, *operands: jax.Array | None
) -> jax.Array:
    forms = _forms(logits, axis)
    on_cpu, other = (partial(function, form, axis) for form in forms)
    if forms[0] is forms[1]:
        return other(logits, *operands)
    return lax.platform_dependent(logits, *operands, cpu=on_cpu, default=other)


def _at_once(logits, labels, axis):
    logits = without_unlabelled(logits, labels, axis)
    one_hot = is_label(labels, logits.shape, axis)
    # Mask and sum instead of gathering, so that the class axis may be sharded.
    label_logit = jnp.sum(jnp.where(one_hot, logits, 0), axis=axis)
    return *_log_sum_exp(logits, axis), label_logit


def _filled_class_by_class(logits, labels, axis):
    return _class_by_class(without_unlabelled(logits, labels, axis), labels, axis)


def _class_by_class(logits, labels, axis):
    # Add up the classes: jnp.where(labels == i, column, label_logit) would require that the labels
    # are sharded like the logits.
    columns = _columns(logits, axis)
    label_logit = sum(jnp.where(labels == i, column, 0) for i, column in enumerate(columns))
    return *_log_sum_exp_by_class(logits, axis, logits.shape[axis]), jnp.asarray(label_logit)


# On a CPU padding stays in the logits: to replace it would store them once more.
def _gathered_at_once(logits, labels, axis):
    return *_log_sum_exp(logits, axis), _label_logit(logits, labels, axis)


def _gathered_class_by_class(logits, labels, axis):
    return *_log_sum_exp_by_class(logits, axis, _CHUNK), _label_logit(logits, labels, axis)


def _label_logit(logits, labels, axis):
    index = lax.expand_dims(jnp.maximum(labels, 0), [axis])
    return jnp.take_along_axis(logits, index, axis, mode="clip").squeeze(axis)


def _log_sum_exp(logits, axis):
    largest = jnp.max(logits, axis=axis, initial=-jnp.inf)
    total = jnp.sum(jnp.exp(logits - lax.expand_dims(largest, [axis])), axis=axis)
    return largest, jnp.log(total)


def _log_sum_exp_by_class(logits, axis, chunk):
    """Loop over the classes, which XLA fuses; on a CPU it fuses no reduction of a middle axis."""
    largest = _fold(jnp.maximum, lambda column: column, axis, chunk, logits)
    log_total = jnp.log(_fold(operator.add, lambda x: jnp.exp(x - largest), axis, chunk, logits))
    # On a CPU, the gradient would compute ``largest`` again for every class, because XLA stores the
    # result of a logarithm but not of a maximum. So ``shift`` is ``largest + log_total``, and the
    # rest is the rounding error of this addition.
    shift = largest + log_total
    return shift, log_total - (shift - largest)


def _fold(operation, function, axis, chunk, *arrays):
    """Reduce ``function`` of each class, with a loop over chunks of classes."""
    classes = arrays[0].shape[axis]
    chunk = min(chunk, classes)
    chunks, tail = divmod(classes, chunk)

    def terms(parts):
        return map(function, *(_columns(part, axis) for part in parts))

    def add_chunk(i, result):
        parts = [lax.dynamic_slice_in_dim(x, i * chunk, chunk, axis) for x in arrays]
        return reduce(operation, terms(parts), result)

    result = reduce(operation, terms([lax.slice_in_dim(x, 0, chunk, axis=axis) for x in arrays]))
    if chunks > 1:
        result = lax.fori_loop(1, chunks, add_chunk, result)
    rest = [lax.slice_in_dim(x, classes - tail, classes, axis=axis) for x in arrays]
    return reduce(operation, terms(rest), result)


def _columns(logits: jax.Array, axis: int) -> list[jax.Array]:
    classes = range(logits.shape[axis])
    return [lax.index_in_dim(logits, i, axis, keepdims=False) for i in classes]
