"""What losses do first: convert inputs to arrays, check them, replace padding.

There is one function per family of losses.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import (
    check_integer,
    check_label_dtype,
    check_mask,
    check_numeric,
    check_same_shape,
    fail,
    shapes_of,
)
from vis4d_jax_loss._numerics import as_array, fill_masked, is_floating, to_common_float, to_float
from vis4d_jax_loss.box import check_boxes, expect_boxes, to_float_boxes


def read_elements(
    function: str, pred: ArrayLike, target: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Predictions, targets of the same shape and a mask; padding is replaced by 0."""
    pred, target = as_array(pred), as_array(target)
    check_numeric(function, pred=pred, target=target)
    check_same_shape(function, pred=pred, target=target)
    mask = check_mask(function, where, pred.shape)
    pred, target = fill_masked(pred, mask), fill_masked(target, mask)
    pred = _value_checks.expect_finite(function, "pred", pred)
    return pred, _value_checks.expect_finite(function, "target", target), mask


def read_binary(
    function: str, output: ArrayLike, target: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Logits, targets from 0 to 1 of the same shape and a mask; padding is replaced by 0."""
    output, target = as_array(output), as_array(target)
    check_numeric(function, output=output)
    check_label_dtype(function, target=target)
    check_same_shape(function, output=output, target=target)
    mask = check_mask(function, where, output.shape)
    floats = (x if is_floating(x) else to_float(x) for x in (output, target))
    output, target = (fill_masked(x, mask) for x in floats)
    output = _value_checks.expect_finite_or_off(function, "output", output)
    target = _value_checks.expect_probabilities(function, "target", target)
    output, target = to_common_float(output, target)
    return output, target, mask


def read_boxes(
    function: str, pred: ArrayLike, target: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Predicted and target boxes in float32 and a mask of boxes; padding is replaced by 0."""
    pred, target = as_array(pred), as_array(target)
    check_numeric(function, pred=pred, target=target)
    check_same_shape(function, pred=pred, target=target)
    check_boxes(function, pred=pred, target=target)
    mask = check_mask(function, where, pred.shape[:-1])
    pred, target = fill_masked(pred, mask), fill_masked(target, mask)
    pred, target = to_float_boxes(*expect_boxes(function, pred=pred, target=target))
    return pred, target, mask


def read_pairs(
    function: str, pred: ArrayLike, target: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Similarities, pair targets and a mask. The loss replaces all pairs that take no part."""
    pred, target = as_array(pred), as_array(target)
    check_numeric(function, pred=pred)
    check_label_dtype(function, target=target)
    check_same_shape(function, pred=pred, target=target)
    return pred, target, check_mask(function, where, pred.shape)


def check_logits(
    function: str,
    output: jax.Array,
    target: Any,
    class_axis: int,
    *,
    crop: bool = False,
    probabilities: bool = False,
) -> None:
    """Check logits against labels: without the class axis their shapes are equal.

    With ``crop``, the logits may have more rows and columns than the labels. With
    ``probabilities``, the target may have the shape of the logits instead.
    """
    check_numeric(function, output=output)
    check_label_dtype(function, target=target)
    check_integer(function, class_axis=class_axis)
    remedy = (
        f"Logits have one axis more than labels: the classes, here class_axis={class_axis}; "
        "use class_axis=1 for the layout [N, C, H, W]."
    )
    if probabilities:
        remedy += " Class probabilities have the shape of output."
    elif output.shape == target.shape:
        remedy = "For one-hot targets pass the labels, target.argmax(-1)."
    rule = "output without its class axis must have the shape of target"
    if crop:
        rule = "output without its class axis must be at least as large as target [..., H, W]"
        remedy += " Enlarge smaller logits first, with jax.image.resize."
    got = shapes_of(output=output, target=target)
    is_axis = -output.ndim <= class_axis < output.ndim
    if probabilities and is_axis and output.shape == target.shape:
        return
    if not _logits_fit(output, target, class_axis, crop):
        fail(ValueError, function, rule, got, remedy)
    if crop and _looks_channels_first(output, target, class_axis):
        rule = "output must have its classes on class_axis"
        remedy = (
            "It looks like [N, C, H, W]: pass class_axis=1. Otherwise cut output to size first."
        )
        fail(ValueError, function, rule, f"{got} with class_axis={class_axis}", remedy)


def cut_to_labels(output: jax.Array, skipped: jax.Array, axis: int) -> jax.Array:
    """Cut logits that are larger than the labels."""
    return (
        output
        if _size(output, skipped, axis) == output.shape
        else cut_and_fill(output, skipped, axis)
    )


# A single operation if it is called without jit: jax.debug_nans would stop at cut NaN padding.
@partial(jax.jit, static_argnums=2)
def cut_and_fill(output: jax.Array, skipped: jax.Array, axis: int) -> jax.Array:
    """Cut logits to the size of the labels, and replace those of skipped elements."""
    output = lax.slice(output, [0] * output.ndim, _size(output, skipped, axis))
    return jnp.where(lax.expand_dims(skipped, [axis]), 0, output)


def _size(output: jax.Array, skipped: jax.Array, axis: int) -> tuple[int, ...]:
    return (*skipped.shape[:axis], output.shape[axis], *skipped.shape[axis:])


def _looks_channels_first(output: jax.Array, target: Any, class_axis: int) -> bool:
    """Whether the last two axes are exactly the pixels, although the classes should be last."""
    last = class_axis % output.ndim == output.ndim - 1
    return last and output.shape[-2:] == target.shape[-2:] != output.shape[-3:-1]


def _logits_fit(output: jax.Array, target: Any, class_axis: int, crop: bool) -> bool:
    if output.ndim != target.ndim + 1 or not -output.ndim <= class_axis < output.ndim:
        return False
    shape = tuple(n for i, n in enumerate(output.shape) if i != class_axis % output.ndim)
    if not crop:
        return shape == target.shape
    enough = all(n >= m for n, m in zip(shape[-2:], target.shape[-2:], strict=True))
    return target.ndim >= 2 and shape[:-2] == target.shape[:-2] and enough
