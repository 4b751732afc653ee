"""Geometry of axis-aligned boxes (x1, y1, x2, y2)."""

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._box_pairs import (
    Areas,
    Lengths,
    Numbers,
    PairFunction,
    area,
    iou_of,
    lengths,
    on_pairs,
    or_one,
    split,
)
from vis4d_jax_loss._checks import check_numeric, check_same_shape, fail, holds, shapes_of
from vis4d_jax_loss._numerics import (
    as_array,
    integer_difference,
    is_integer,
    to_common_float,
)


def _iou_value(x: Lengths, y: Lengths, areas: Areas) -> jax.Array:
    # XLA would store a union that value and derivative have in common. From negative sides it is
    # another array, and XLA computes each of them where it is used.
    own, other = (jnp.minimum(-x[i], 0) * jnp.minimum(-y[i], 0) for i in (0, 1))
    return iou_of(areas._replace(union=own + other - areas.shared))


def _iou_prepare(
    x: Lengths, y: Lengths, areas: Areas, iou: jax.Array
) -> tuple[jax.Array, jax.Array]:
    overlaps = areas.shared > 0
    return iou, jnp.where(overlaps, 1 / jnp.where(overlaps, areas.union, 1), 0)


def _iou_derivative(numbers: Numbers, iou: jax.Array, inverse_union: jax.Array) -> jax.Array:
    """With the shared area S, the union U and the own area A: ``((1 + IoU) dS - IoU dA) / U``.

    An area changes with one side by the length of the other side.
    """
    shared = (1 + iou) * numbers.limiting * numbers.across.shared
    # For identical boxes the difference is exactly 0.
    return inverse_union * (shared - iou * numbers.outward * numbers.across.own)


#: Intersection over union. It has gradient 0 for boxes that share no area.
IOU = PairFunction(_iou_value, _iou_prepare, _iou_derivative)


@jax.named_scope("paired_iou")
def paired_iou(boxes1: ArrayLike, boxes2: ArrayLike) -> jax.Array:
    """Intersection over union of box i and box i.

    It is 0, with gradient 0, for boxes that share no area, also for degenerate and inverted ones.
    For the IoU of all pairs use :func:`pairwise_iou`.

    Args:
        boxes1: Boxes ``[..., 4]`` as (x1, y1, x2, y2), in pixels or normalised. Half precision is
            computed in float32.
        boxes2: Boxes of the same shape.

    Returns:
        One number from 0 to 1 per pair, ``[...]``.

    Raises:
        ValueError: If the shapes do not match, or the last axis is not 4.
        TypeError: If an input is not numeric.

    Example:
        >>> print(paired_iou(jnp.array([0.0, 0.0, 2.0, 2.0]), jnp.array([0.0, 0.0, 4.0, 2.0])))
        0.5
    """
    first, second = _read_boxes("paired_iou", boxes1, boxes2)
    check_same_shape("paired_iou", boxes1=first, boxes2=second)
    return on_pairs(IOU, *to_float_boxes(first, second))


@jax.named_scope("pairwise_iou")
def pairwise_iou(boxes1: ArrayLike, boxes2: ArrayLike) -> jax.Array:
    """Intersection over union of each box of a set and each box of another set.

    It is 0, with gradient 0, for boxes that share no area, also for degenerate and inverted ones.

    Args:
        boxes1: Boxes ``[..., N, 4]`` as (x1, y1, x2, y2), in pixels or normalised. Half precision
            is computed in float32.
        boxes2: Boxes ``[..., M, 4]`` with the same leading axes.

    Returns:
        One number from 0 to 1 per pair, ``[..., N, M]``.

    Raises:
        ValueError: If the leading axes do not match, or the last axis is not 4.
        TypeError: If an input is not numeric.

    Example:
        >>> box, others = jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[0.0, 0.0, 4.0, 2.0]] * 3)
        >>> print(pairwise_iou(box, others))
        [[0.5 0.5 0.5]]
    """
    first, second = _read_boxes("pairwise_iou", boxes1, boxes2)
    if first.ndim < 2 or second.ndim < 2 or first.shape[:-2] != second.shape[:-2]:
        rule = "boxes1 [..., N, 4] and boxes2 [..., M, 4] must have the same leading axes"
        fail(ValueError, "pairwise_iou", rule, shapes_of(boxes1=first, boxes2=second))
    if first.dtype != second.dtype or not is_integer(first):
        first, second = to_common_float(first, second)
    rows = [lax.expand_dims(number, [number.ndim]) for number in split(first)]
    columns = [lax.expand_dims(number, [number.ndim - 1]) for number in split(second)]
    x, y = (lengths(rows[k], rows[k + 2], columns[k], columns[k + 2]) for k in (0, 1))
    # jnp.maximum would pass half of the gradient where boxes touch. NaN stays NaN.
    apart = (x.shared <= 0) | (y.shared <= 0)
    shared = jnp.where(apart, 0, x.shared * y.shared)
    return shared / or_one(area(x.own, y.own) + area(x.other, y.other) - shared)


def check_boxes(function: str, **arrays: jax.Array) -> None:
    """Check that arrays hold boxes on their last axis."""
    if not all(holds(chex.assert_shape, x, (..., 4)) for x in arrays.values()):
        rule = f"{' and '.join(arrays)} must hold boxes (x1, y1, x2, y2) on the last axis"
        fail(ValueError, function, rule, shapes_of(**arrays), "Expected a shape of [..., 4].")


def expect_boxes(function: str, **arrays: jax.Array) -> list[jax.Array]:
    """Report boxes that are inverted or not finite, under ``checkify``."""
    finite = [_value_checks.expect_finite(function, name, x) for name, x in arrays.items()]
    checked = zip(arrays, finite, strict=True)
    return [_value_checks.expect_ordered_boxes(function, name, x) for name, x in checked]


def to_float_boxes(boxes1: jax.Array, boxes2: jax.Array) -> list[jax.Array]:
    """Cast pairs of boxes to float32 or float64; the differences of integers stay exact."""
    if is_integer(boxes1) and is_integer(boxes2):
        # Only differences matter. Subtract a corner first: float32 would round large coordinates.
        corner = jnp.concatenate([boxes1[..., :2], boxes1[..., :2]], axis=-1)
        boxes1, boxes2 = (integer_difference(boxes, corner) for boxes in (boxes1, boxes2))
    return to_common_float(boxes1, boxes2)


def _read_boxes(function: str, boxes1: ArrayLike, boxes2: ArrayLike) -> list[jax.Array]:
    arrays = {"boxes1": as_array(boxes1), "boxes2": as_array(boxes2)}
    check_numeric(function, **arrays)
    check_boxes(function, **arrays)
    return expect_boxes(function, **arrays)
