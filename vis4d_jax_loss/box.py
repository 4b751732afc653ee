"""Geometry of axis-aligned boxes (x1, y1, x2, y2)."""

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_jvp
def paired_iou(boxes1: jax.Array, boxes2: jax.Array) -> jax.Array:
    """Intersection over union of box i with box i: ``[..., 4]`` twice to ``[...]``.

    It is 0, with gradient 0, for boxes that share no area, degenerate and inverted ones too.
    """
    _, _, shared, union = _areas(_corners(boxes1), _corners(boxes2))
    return (shared / jnp.where(union == 0, 1, union))[..., 0, 0]


# Differentiated by JAX, each number of a box would be a branch of a concatenation, and XLA would
# store masked boxes anew: on a CPU 1.3 to 1.7 times as long, under a mask 6 to 7 times.
@paired_iou.defjvp
def _(primals, tangents):
    slopes = _slope(*primals), _slope(*primals[::-1])
    changes = [jnp.sum(s * t, axis=-1) for s, t in zip(slopes, tangents, strict=True)]
    return paired_iou(*primals), changes[0] + changes[1]


def _slope(boxes1: jax.Array, boxes2: jax.Array) -> jax.Array:
    """Derivative of the IoU by each number of the first boxes.

    Of the shared area S, the union U and the first box's own area A it is
    ``((1 + IoU) dS - IoU dA) / U``; an area changes with one side by the length of the other.
    """
    own, their = _corners(boxes1), _corners(boxes2)
    own_sides, shared_sides, shared, union = _areas(own, their)
    reciprocal = jnp.where(shared > 0, 1 / jnp.where(shared > 0, union, 1), 0)
    iou = shared * reciprocal
    outward = 2 * lax.broadcasted_iota(own.dtype, own.shape, own.ndim - 2) - 1  # low -1, high 1
    # S changes only with the corner that limits it. Ties share the gradient in halves, as in torch,
    # so that identical boxes stand still.
    limiting = 0.5 * outward + 0.5 * jnp.sign(their - own)
    d_shared, d_own = (jnp.flip(sides, axis=-1) for sides in (shared_sides, own_sides))
    by_shared, by_own = reciprocal * (1 + iou), reciprocal * iou
    slope = by_shared * limiting * d_shared - by_own * outward * d_own
    return slope.reshape(boxes1.shape)


def _corners(boxes: jax.Array) -> jax.Array:
    """Low and high corner as ``[..., 2, 2]``."""
    return boxes.reshape(*boxes.shape[:-1], 2, 2)


def _areas(corners1: jax.Array, corners2: jax.Array) -> tuple[jax.Array, ...]:
    """Sides of the first boxes and of the overlap, shared area, area of the union."""
    (low1, high1), (low2, high2) = (jnp.split(c, 2, axis=-2) for c in (corners1, corners2))
    sides = high1 - low1
    shared_sides = jnp.minimum(high1, high2) - jnp.maximum(low1, low2)
    shared = _area(shared_sides)
    return sides, shared_sides, shared, _area(sides) + _area(high2 - low2) - shared


def _area(sides: jax.Array) -> jax.Array:
    """Of sides ``[..., 2]``, the last axis kept; an inverted box has none."""
    width, height = jnp.split(jnp.maximum(sides, 0), 2, axis=-1)
    return width * height
