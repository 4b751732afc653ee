"""Geometry of axis-aligned boxes (x1, y1, x2, y2)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Sides are scaled before they are multiplied. In float32, areas and their inverse are then finite
# and not 0 for sides from 1e-13 to 1e24. A power of 2 is exact.
_SCALE = 2.0**-18


@jax.custom_jvp
def paired_iou(boxes1: jax.Array, boxes2: jax.Array) -> jax.Array:
    """Intersection over union of box i with box i: ``[..., 4]`` and ``[..., 4]`` to ``[...]``.

    It is 0, with gradient 0, for boxes that share no area, also for degenerate and inverted ones.
    """
    first, second = _coordinates(boxes1), _coordinates(boxes2)
    shared = _area(*_shared_sides(first, second))
    union = _area_of(first) + _area_of(second) - shared
    return shared / jnp.where(union == 0, 1, union)


# The derivative is written out. In JAX's own, each number of a box is a branch of a concatenation,
# and XLA stores masked boxes once more.
@paired_iou.defjvp
def _paired_iou_jvp(primals, tangents):
    boxes1, boxes2 = primals
    iou = paired_iou(boxes1, boxes2)
    gradients = _iou_gradient(boxes1, boxes2, iou), _iou_gradient(boxes2, boxes1, iou)
    changes = [jnp.sum(g * t, axis=-1) for g, t in zip(gradients, tangents, strict=True)]
    return iou, changes[0] + changes[1]


def _iou_gradient(boxes1: jax.Array, boxes2: jax.Array, iou: jax.Array) -> jax.Array:
    """Derivative of the IoU with respect to each number of the first boxes.

    With the shared area S, the union U and the first box's own area A it is
    ``((1 + IoU) dS - IoU dA) / U``. An area changes with one side by the length of the other side.
    """
    # A TPU copies boxes to reshape them, and a CPU is slow at stacking: each takes twice as long
    # with the form of the other.
    forms = {"tpu": _iou_gradient_by_coordinate, "default": _iou_gradient_by_corner}
    return lax.platform_dependent(boxes1, boxes2, iou, **forms)


def _iou_gradient_by_corner(boxes1: jax.Array, boxes2: jax.Array, iou: jax.Array) -> jax.Array:
    """The gradient from arrays ``[..., 2, 2]`` of the low and the high corner."""
    own, other = (boxes.reshape(*boxes.shape[:-1], 2, 2) for boxes in (boxes1, boxes2))
    (low1, high1), (low2, high2) = (jnp.split(corners, 2, axis=-2) for corners in (own, other))
    sides1, sides2 = _SCALE * (high1 - low1), _SCALE * (high2 - low2)
    shared_sides = _SCALE * (jnp.minimum(high1, high2) - jnp.maximum(low1, low2))
    sides = sides1, sides2, shared_sides
    inverse = _inverse_union(*(jnp.split(s, 2, axis=-1) for s in sides))
    outward = 2 * lax.broadcasted_iota(own.dtype, own.shape, own.ndim - 2) - 1  # low -1, high 1
    d_shared, d_own = jnp.flip(shared_sides, axis=-1), jnp.flip(sides1, axis=-1)
    iou = lax.expand_dims(iou, [iou.ndim, iou.ndim + 1])
    return _derivative(own, other, outward, iou, inverse, d_shared, d_own).reshape(boxes1.shape)


def _iou_gradient_by_coordinate(boxes1: jax.Array, boxes2: jax.Array, iou: jax.Array) -> jax.Array:
    """The gradient from one array ``[...]`` per number of a box."""
    own, other = _coordinates(boxes1), _coordinates(boxes2)
    sides1, sides2, shared_sides = _sides(own), _sides(other), _shared_sides(own, other)
    inverse = _inverse_union(sides1, sides2, shared_sides)
    gradient = []
    for k, outward in enumerate((-1, -1, 1, 1)):
        d_shared, d_own = shared_sides[1 - k % 2], sides1[1 - k % 2]
        gradient += [_derivative(own[k], other[k], outward, iou, inverse, d_shared, d_own)]
    return jnp.stack(gradient, axis=-1)


def _derivative(
    own: jax.Array,
    other: jax.Array,
    outward: jax.Array | int,
    iou: jax.Array,
    inverse_union: jax.Array,
    d_shared: jax.Array,
    d_own: jax.Array,
) -> jax.Array:
    """Derivative with respect to the numbers ``own``, which are low (outward -1) or high (1)."""
    # S changes only with the corner that limits it. At a tie each box gets half of the gradient, as
    # in torch, so that identical boxes have zero gradient.
    limiting = 0.5 * outward + 0.5 * jnp.sign(other - own)
    # For identical boxes the difference is exactly 0.
    change = (1 + iou) * limiting * d_shared - iou * outward * d_own
    # Multiplied by the scale first, the inverse of a large area would be 0.
    return _SCALE * (inverse_union * change)


def _inverse_union(sides1: Any, sides2: Any, shared_sides: Any) -> jax.Array:
    """Inverse of the area of the union; 0 for boxes that share no area."""
    shared = _area(*shared_sides)
    union = _area(*sides1) + _area(*sides2) - shared
    return jnp.where(shared > 0, 1 / jnp.where(shared > 0, union, 1), 0)


def _coordinates(boxes: jax.Array) -> list[jax.Array]:
    return [boxes[..., k] for k in range(4)]


def _sides(box: Sequence[jax.Array]) -> list[jax.Array]:
    """Width and height, scaled."""
    x1, y1, x2, y2 = box
    return [_SCALE * (x2 - x1), _SCALE * (y2 - y1)]


def _shared_sides(box1: Sequence[jax.Array], box2: Sequence[jax.Array]) -> list[jax.Array]:
    """Width and height of the overlap, scaled; negative for boxes apart from each other."""
    low = [jnp.maximum(a, b) for a, b in zip(box1[:2], box2[:2], strict=True)]
    high = [jnp.minimum(a, b) for a, b in zip(box1[2:], box2[2:], strict=True)]
    return _sides([*low, *high])


def _area(width: jax.Array, height: jax.Array) -> jax.Array:
    """Area of a box; an inverted one has area 0."""
    return jnp.maximum(width, 0) * jnp.maximum(height, 0)


def _area_of(box: Sequence[jax.Array]) -> jax.Array:
    """Area of a box, from its negative sides.

    The derivative uses the positive ones. XLA then computes them again instead of storing them.
    """
    x1, y1, x2, y2 = box
    width, height = _sides([x2, y2, x1, y1])
    return jnp.minimum(width, 0) * jnp.minimum(height, 0)
