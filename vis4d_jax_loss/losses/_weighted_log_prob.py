"""The negative log-probabilities of all classes, with weights, and their derivatives.

It is computed in the forms of ``_negative_log_prob.py``.
"""

import operator
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from vis4d_jax_loss._numerics import to_float
from vis4d_jax_loss.losses._negative_log_prob import (
    Form,
    is_label,
    per_platform,
    probabilities,
    sum_classes,
    without_unlabelled,
)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def weighted_negative_log_prob(
    logits: jax.Array,
    labels: jax.Array,
    label_weights: jax.Array | None,
    class_weights: jax.Array,
    axis: int,
) -> jax.Array:
    """Add up the negative log-probabilities of the label and of each class, with weights.

    It is 0 where the label is negative. The class weights have the shape of the logits, or size 1
    on every axis but ``axis``, or on all axes if all classes have the same weight. A class of
    weight 0 costs nothing. Without label weights, only the sign of a label counts. All weights have
    the dtype of the loss, and no padding.
    """
    return per_platform(_weighted_losses, axis, logits, labels, label_weights, class_weights)


@weighted_negative_log_prob.defjvp
def _weighted_negative_log_prob_jvp(axis, primals, tangents):
    (logits, labels, *weights), (change, _, *weight_changes) = primals, tangents
    dtype = weights[1].dtype
    one_hot = is_label(labels, logits.shape, axis).astype(dtype)

    def per_class(of_label, of_class):
        return (
            of_class if of_label is None else of_class + one_hot * jnp.expand_dims(of_label, axis)
        )

    total = _total(weights[1], logits, axis)
    if weights[0] is not None:
        total += jnp.expand_dims(weights[0], axis)
    gradient = total * probabilities(logits, labels, axis) - per_class(*weights)
    gradient = without_unlabelled(gradient, labels, axis)
    change = without_unlabelled(change.astype(dtype), labels, axis)
    slope = jnp.sum(gradient * change, axis=axis)
    slope += jnp.sum(_costs(logits, labels, axis) * per_class(*weight_changes), axis=axis)
    return weighted_negative_log_prob(*primals, axis), slope


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _costs(logits: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    """Negative log-probabilities of all classes; 0 for a logit of -inf or a negative label."""
    return per_platform(_all_losses, axis, logits, labels)


@_costs.defjvp
def _costs_jvp(axis, primals, tangents):
    (logits, labels), (change, _) = primals, tangents
    softmax = probabilities(logits, labels, axis)
    change = without_unlabelled(change.astype(softmax.dtype), labels, axis)
    moved = jnp.sum(softmax * change, axis=axis, keepdims=True) - change
    return _costs(*primals, axis), jnp.where(logits == -jnp.inf, 0, moved)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _total(class_weights: jax.Array, logits: jax.Array, axis: int) -> jax.Array:
    """Sum of the class weights, with the class axis kept."""
    return jnp.expand_dims(per_platform(_totals, axis, logits, class_weights), axis)


@_total.defjvp
def _total_jvp(axis, primals, tangents):
    change = _sum_over_classes(tangents[0], primals[1], axis)
    return _total(*primals, axis), jnp.expand_dims(change, axis)


@partial(jax.jit, static_argnums=(0, 1))
def _all_losses(form: Form, axis: int, logits: jax.Array, labels: jax.Array) -> jax.Array:
    logits = to_float(logits)
    shift, rest, _ = form(logits, labels, axis)
    shift, rest = (lax.expand_dims(x, [axis]) for x in (shift, rest))
    costs = jnp.where(logits == -jnp.inf, 0, rest - (logits - shift))
    return without_unlabelled(costs, labels, axis)


@partial(jax.jit, static_argnums=(0, 1))
def _weighted_losses(form, axis, logits, labels, label_weights, class_weights):
    logits = to_float(logits)
    shift, rest, label_logit = form(logits, labels, axis)

    # Compute differences from ``shift``: sums of large logits would cancel. On a CPU XLA stores
    # ``logit - shift`` once, for the exponential and for this; for ``shift - logit`` it would store
    # ``shift`` for each class.
    def weighted(weight, logit, shift):
        return _multiply(weight, logit - shift)

    loss = _totals(form, axis, logits, class_weights) * rest
    if class_weights.size == 1:
        # A CPU would store ``logit - shift``. The logit of the label has the usual size, too.
        usual = jnp.where(jnp.abs(label_logit) < jnp.inf, label_logit, 0)
        total = sum_classes(form, operator.sub, axis, logits, per_element=usual)
        total += logits.shape[axis] * (usual - shift)
        loss -= _multiply(class_weights.squeeze(axis), total)
    else:
        loss -= sum_classes(form, weighted, axis, class_weights, logits, per_element=shift)
    if label_weights is not None:
        loss -= _multiply(label_weights, label_logit - shift - rest)
    return jnp.where(labels < 0, 0, loss)


def _totals(form, axis, logits, class_weights):
    if class_weights.shape != logits.shape:
        return _sum_over_classes(class_weights, logits, axis)
    return sum_classes(form, lambda weight: weight, axis, class_weights)


def _sum_over_classes(weights, logits, axis):
    total = jnp.sum(weights, axis=axis)
    return total if weights.shape[axis] > 1 else logits.shape[axis] * total


def _multiply(weight: jax.Array, logit: jax.Array) -> jax.Array:
    """Multiply logits that are not positive; a weight of 0 times -inf is 0."""
    # XLA fuses no jnp.where into a sum on a CPU. The bound is 0 for a weight of 0, and infinite for
    # all others. The inner minimum keeps XLA from multiplying the constants first: 0 * inf is NaN.
    largest = jnp.finfo(weight.dtype).max
    bound = jnp.minimum(jnp.abs(weight) * largest, largest) * largest
    return weight * jnp.maximum(logit, -bound)
