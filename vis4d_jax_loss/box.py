"""Geometry of axis-aligned boxes (x1, y1, x2, y2)."""

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
    _, _, shared, union = _areas(_corners(boxes1), _corners(boxes2))
    return (shared / jnp.where(union == 0, 1, union))[..., 0, 0]


# The derivative is written out. In JAX's own, each number of a box is a branch of a concatenation,
# and XLA stores masked boxes once more.
@paired_iou.defjvp
def _paired_iou_jvp(primals, tangents):
    gradients = _iou_gradient(*primals), _iou_gradient(*primals[::-1])
    changes = [jnp.sum(g * t, axis=-1) for g, t in zip(gradients, tangents, strict=True)]
    return paired_iou(*primals), changes[0] + changes[1]


def _iou_gradient(boxes1: jax.Array, boxes2: jax.Array) -> jax.Array:
    """Derivative of the IoU with respect to each number of the first boxes.

    With the shared area S, the union U and the first box's own area A it is
    ``((1 + IoU) dS - IoU dA) / U``. An area changes with one side by the length of the other side.
    """
    own, other = _corners(boxes1), _corners(boxes2)
    own_sides, shared_sides, shared, union = _areas(own, other)
    divisor = jnp.where(shared > 0, union, 1)
    iou = shared / divisor
    outward = 2 * lax.broadcasted_iota(own.dtype, own.shape, own.ndim - 2) - 1  # low -1, high 1
    # S changes only with the corner that limits it. At a tie each box gets half of the gradient, as
    # in torch, so that identical boxes have zero gradient.
    limiting = 0.5 * outward + 0.5 * jnp.sign(other - own)
    d_shared, d_own = (jnp.flip(sides, axis=-1) for sides in (shared_sides, own_sides))
    # For identical boxes the difference is exactly 0.
    gradient = (1 + iou) * limiting * d_shared - iou * outward * d_own
    # Multiplied by the scale first, the inverse of a large area would be 0.
    reciprocal = jnp.where(shared > 0, 1 / divisor, 0)
    return (_SCALE * (reciprocal * gradient)).reshape(boxes1.shape)


def _corners(boxes: jax.Array) -> jax.Array:
    """Low and high corner as ``[..., 2, 2]``."""
    return boxes.reshape(*boxes.shape[:-1], 2, 2)


def _areas(corners1: jax.Array, corners2: jax.Array) -> tuple[jax.Array, ...]:
    """Sides of the first boxes and of the overlap, shared area, area of the union, all scaled."""
    (low1, high1), (low2, high2) = (jnp.split(c, 2, axis=-2) for c in (corners1, corners2))
    sides1, sides2 = _SCALE * (high1 - low1), _SCALE * (high2 - low2)
    shared_sides = _SCALE * (jnp.minimum(high1, high2) - jnp.maximum(low1, low2))
    shared = _area(shared_sides)
    return sides1, shared_sides, shared, _area(sides1) + _area(sides2) - shared


def _area(sides: jax.Array) -> jax.Array:
    """Areas from sides ``[..., 2]``, the last axis kept; an inverted box has area 0."""
    width, height = jnp.split(jnp.maximum(sides, 0), 2, axis=-1)
    return width * height
