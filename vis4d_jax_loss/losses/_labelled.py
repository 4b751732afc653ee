"""Logits with labels: how to read them, their cross-entropy, and the weights of their classes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import check_mask, fail, shapes_of
from vis4d_jax_loss._numerics import float_dtype, is_integer, to_float
from vis4d_jax_loss.losses._inputs import cut_to_labels
from vis4d_jax_loss.losses._labels import IgnoreIndex, Labels, read_labels
from vis4d_jax_loss.losses._negative_log_prob import is_label, negative_log_prob

_NO_LABEL = -1  # stands for the label of an element that is skipped or has an invalid label


class Labelled(NamedTuple):
    """Floating logits of the size of their labels; they may be NaN where these are skipped."""

    logits: jax.Array
    labels: Labels
    mask: jax.Array | None
    axis: int  # of the classes


def read_labelled(
    function: str,
    output: jax.Array,
    target: Any,
    ignore_index: IgnoreIndex,
    class_axis: int,
    where: ArrayLike | None,
) -> Labelled:
    """Read logits, which may be larger than the labels, after a check of their shapes."""
    mask = check_mask(function, where, target.shape)
    axis = class_axis % output.ndim
    labels = read_labels(function, target, ignore_index, output.shape[axis], mask)
    logits = cut_to_labels(output, labels.skipped, axis)
    logits = to_float(logits) if is_integer(logits) else logits
    counted = lax.expand_dims(~labels.skipped, [axis])
    logits = _value_checks.expect_finite_or_off(function, "output", logits, counted)
    return Labelled(logits, labels, mask, axis)


def cross_entropy_of_labels(read: Labelled) -> jax.Array:
    """The cross-entropy of each element; without a gradient where there is no valid label."""
    return negative_log_prob(read.logits, valid_labels(read.labels), read.axis)


def valid_labels(labels: Labels) -> jax.Array:
    """The labels; a negative one stands for each that is skipped or invalid."""
    return jnp.where(labels.skipped | labels.invalid, _NO_LABEL, labels.value)


def read_class_weights(
    function: str, class_weights: ArrayLike | Sequence[float], logits: jax.Array, axis: int
) -> jax.Array:
    """The class weights along an axis of the logits, in the dtype of the loss."""
    if callable(class_weights):
        got = f"class_weights {getattr(class_weights, '__name__', class_weights)}"
        remedy = "A reducer is passed by name: reducer=mean_loss."
        fail(TypeError, function, "class_weights must be numbers", got, remedy)
    weights = jnp.asarray(class_weights, dtype=float_dtype(logits))
    if weights.shape != (logits.shape[axis],):  # not by chex, which may be switched off
        rule = f"class_weights must hold {logits.shape[axis]} weights, one per class"
        remedy = "The classes are counted along class_axis of output."
        fail(ValueError, function, rule, shapes_of(class_weights=weights), remedy)
    weights = _value_checks.expect_finite(function, "class_weights", weights)
    return lax.expand_dims(weights, [i for i in range(logits.ndim) if i != axis])


def weight_of_label(class_weights: jax.Array, read: Labelled) -> jax.Array:
    """The class weight of each label; 0 for a label that is not a class."""
    one_hot = is_label(read.labels.value, read.logits.shape, read.axis)
    return jnp.sum(jnp.where(one_hot, class_weights, 0), axis=read.axis)


def mark_labels(loss: jax.Array, labels: Labels) -> jax.Array:
    """The loss is 0 where it is skipped, and NaN where the label is invalid, to be noticed."""
    return jnp.where(labels.skipped, 0, jnp.where(labels.invalid, jnp.nan, loss))
