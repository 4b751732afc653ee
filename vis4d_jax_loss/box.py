"""Geometry of axis-aligned boxes (x1, y1, x2, y2)."""

import jax
import jax.numpy as jnp

from vis4d_jax_loss._numerics import safe_divide


def box_area(boxes: jax.Array) -> jax.Array:
    """Area of boxes ``[..., 4]``; an inverted box has none."""
    return _extent_area(boxes[..., :2], boxes[..., 2:])


def intersection_area(boxes1: jax.Array, boxes2: jax.Array) -> jax.Array:
    """Area that box i of ``boxes1 [..., 4]`` shares with box i of ``boxes2 [..., 4]``."""
    # Ties split the gradient in halves, as in torch, so that identical boxes stand still.
    low = jnp.maximum(boxes1[..., :2], boxes2[..., :2])
    high = jnp.minimum(boxes1[..., 2:], boxes2[..., 2:])
    return _extent_area(low, high)


def paired_iou(boxes1: jax.Array, boxes2: jax.Array) -> jax.Array:
    """Intersection over union of box i with box i: ``[..., 4]`` twice to ``[...]``.

    It is 0 for boxes that share no area, degenerate and inverted ones too.
    """
    shared = intersection_area(boxes1, boxes2)
    union = box_area(boxes1) + box_area(boxes2) - shared
    return safe_divide(shared, union)


def _extent_area(low: jax.Array, high: jax.Array) -> jax.Array:
    sides = jnp.maximum(high - low, 0)
    return sides[..., 0] * sides[..., 1]
