"""Geometry of axis-aligned boxes (x1, y1, x2, y2)."""

import jax
import jax.numpy as jnp

from vis4d_jax_loss._numerics import safe_divide


def paired_iou(boxes1: jax.Array, boxes2: jax.Array) -> jax.Array:
    """Intersection over union of box i with box i: ``[..., 4]`` twice to ``[...]``.

    It is 0 for boxes that share no area, degenerate and inverted ones too.
    """
    # Split once, the last axis kept to the end: the gradient is then one concatenation. That of
    # columns ``[..., 0]``, or of splitting twice, is a sum of padded arrays, 5 times as slow.
    (low1, high1), (low2, high2) = (jnp.split(boxes, 2, axis=-1) for boxes in (boxes1, boxes2))
    # Ties split the gradient in halves, as in torch, so that identical boxes stand still.
    shared = _area(jnp.maximum(low1, low2), jnp.minimum(high1, high2))
    union = _area(low1, high1) + _area(low2, high2) - shared
    return safe_divide(shared, union)


def _area(low: jax.Array, high: jax.Array) -> jax.Array:
    """Area between two corners ``[..., 2]``; an inverted box has none."""
    width, height = jnp.split(jnp.maximum(high - low, 0), 2, axis=-1)
    return (width * height)[..., 0]
