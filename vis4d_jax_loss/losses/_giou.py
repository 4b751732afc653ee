"""GIoU, DIoU and CIoU losses of pairs of boxes, and their derivatives."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from vis4d_jax_loss._box_pairs import Areas, Lengths, Numbers, PairFunction, iou_of, or_one
from vis4d_jax_loss.box import IOU

_ASPECT_SCALE = 4 / math.pi**2


def _giou_value(x: Lengths, y: Lengths, areas: Areas) -> jax.Array:
    gap = (areas.enclosing - areas.union) / or_one(areas.enclosing)
    return jnp.where(areas.enclosing == 0, 1, 1 - iou_of(areas) + gap)


def _giou_prepare(x: Lengths, y: Lengths, areas: Areas, loss: jax.Array) -> tuple[jax.Array, ...]:
    shared, union, enclosing = areas
    overlaps, iou, divisor = shared > 0, iou_of(areas), or_one(enclosing)
    # Without an overlap it is not needed, and may be infinite.
    ratio = jnp.where(overlaps, enclosing / or_one(union), 0)
    # The gradient of an area passes where a side is exactly 0, but not for inverted boxes.
    has_area = (x.own >= 0) & (y.own >= 0) & (enclosing > 0)
    # For identical boxes these are exactly -1 / C, 0 and 1 / C, so that the derivative is 0.
    return (
        jnp.where(overlaps, 1 - (1 + iou) * ratio, 0) / divisor,
        jnp.where(has_area, iou * ratio - 1, 0) / divisor,
        union / divisor * (1 / divisor),
    )


def _giou_derivative(
    numbers: Numbers, of_shared: jax.Array, of_own: jax.Array, of_enclosing: jax.Array
) -> jax.Array:
    """``(1 / C - (1 + IoU) / U) dS + (IoU / U - 1 / C) dA + U / C^2 dC``.

    S is the shared area, A the own area, U the union and C the enclosing area.
    """
    across = numbers.across
    return (
        numbers.limiting * (of_shared * across.shared)
        + numbers.spanning * (of_enclosing * across.enclosing)
        + numbers.outward * (of_own * across.own)
    )


def _squared_distance(x: Lengths, y: Lengths) -> tuple[jax.Array, jax.Array]:
    """Squared distance of the centers, divided by the squared diagonal; and the latter."""
    # The limits change nothing for boxes that are not inverted. Without them, XLA squares the
    # lengths before it scales them, and the squares are infinite for sides above 1.8e19.
    enclosing = [jnp.maximum(axis.enclosing, 0) for axis in (x, y)]
    apart = [jnp.minimum(jnp.abs(a.apart), e) for a, e in zip((x, y), enclosing, strict=True)]
    diagonal = _sum_of_squares(*enclosing)
    return _sum_of_squares(*apart) / or_one(diagonal), diagonal


def _distance_loss(
    x: Lengths, y: Lengths, iou: jax.Array, penalty: jax.Array | float = 0.0
) -> jax.Array:
    distance, diagonal = _squared_distance(x, y)
    return jnp.where(diagonal == 0, 1, 1 - iou + distance + penalty)


def _diou_value(x: Lengths, y: Lengths, areas: Areas) -> jax.Array:
    return _distance_loss(x, y, iou_of(areas))


def _diou_prepare(x: Lengths, y: Lengths, areas: Areas, loss: jax.Array) -> tuple[jax.Array, ...]:
    distance, diagonal = _squared_distance(x, y)
    return *IOU.prepare(x, y, areas, iou_of(areas)), distance, 1 / or_one(diagonal)


def _diou_derivative(
    numbers: Numbers,
    iou: jax.Array,
    inverse_union: jax.Array,
    distance: jax.Array,
    inverse_diagonal: jax.Array,
) -> jax.Array:
    """``(d(r^2) - r^2 / c^2 d(c^2)) / c^2 - dIoU``.

    r is the distance of the centers, and c the diagonal of the smallest box around both.
    """
    # A center moves by half of what a corner moves.
    of_center = numbers.along.apart
    of_diagonal = 2 * numbers.spanning * numbers.along.enclosing
    change = inverse_diagonal * (of_center - distance * of_diagonal)
    return change - IOU.derivative(numbers, iou, inverse_union)


def _aspect(x: Lengths, y: Lengths, iou: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Difference of the angles of the diagonals, its square v, and the weight alpha of v."""
    angle = _angle(x.other, y.other) - _angle(x.own, y.own)
    aspect = _ASPECT_SCALE * jnp.square(angle)
    # Where v is 0, alpha is 0. Rounded, the IoU of equal boxes may be above 1.
    alpha = aspect / or_one(jnp.maximum(1 - iou, 0) + aspect)
    return angle, aspect, lax.stop_gradient(alpha)


def _angle(width: jax.Array, height: jax.Array) -> jax.Array:
    # At a point, the derivative of arctan2 is NaN; the second derivative of the loss needs it.
    point = (width == 0) & (height == 0)
    return jnp.arctan2(jnp.where(point, 0, width), jnp.where(point, 1, height))


def _ciou_value(x: Lengths, y: Lengths, areas: Areas) -> jax.Array:
    iou = iou_of(areas)
    _, aspect, alpha = _aspect(x, y, iou)
    return _distance_loss(x, y, iou, alpha * aspect)


def _ciou_prepare(x: Lengths, y: Lengths, areas: Areas, loss: jax.Array) -> tuple[jax.Array, ...]:
    angle, _, alpha = _aspect(x, y, iou_of(areas))
    # The sides of a point are 0, and so is its derivative.
    # For the limits see _squared_distance.
    diagonal = _sum_of_squares(jnp.maximum(x.own, 0), jnp.maximum(y.own, 0))
    of_angle = -2 * _ASPECT_SCALE * alpha * angle / or_one(diagonal)
    return *_diou_prepare(x, y, areas, loss), of_angle


def _ciou_derivative(numbers: Numbers, *prepared: jax.Array) -> jax.Array:
    """The derivative of the DIoU loss, and ``2 alpha 4 / pi^2 (angle - other angle) dangle``.

    The angle of a box of width w and height h changes by ``(h dw - w dh) / (w^2 + h^2)``.
    """
    *of_diou, of_angle = prepared
    turn = numbers.outward * numbers.turning * numbers.across.own
    return _diou_derivative(numbers, *of_diou) + of_angle * turn


def _sum_of_squares(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.square(a) + jnp.square(b)


GIOU = PairFunction(_giou_value, _giou_prepare, _giou_derivative)
DIOU = PairFunction(_diou_value, _diou_prepare, _diou_derivative)
CIOU = PairFunction(_ciou_value, _ciou_prepare, _ciou_derivative)
