"""Functions of pairs of boxes (x1, y1, x2, y2), with derivatives that are written out."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vis4d_jax_loss._numerics import difference

# Lengths are scaled before they are multiplied. In float32, areas and their inverse are then finite
# and not 0 for sides from 1e-13 to 1e24. A power of 2 is exact.
_SCALE = 2.0**-18


class Lengths(NamedTuple):
    """Lengths of pairs of boxes along one axis, scaled. An inverted box has a negative side."""

    own: jax.Array  # side of the first box
    other: jax.Array  # side of the second box
    shared: jax.Array  # side of the overlap; negative if the boxes are apart
    enclosing: jax.Array  # side of the smallest box around both
    apart: jax.Array  # from the center of the second box to the center of the first


class Areas(NamedTuple):
    """Areas of pairs of boxes, scaled twice. An inverted box has area 0."""

    shared: jax.Array
    union: jax.Array
    enclosing: jax.Array


class Numbers(NamedTuple):
    """What the derivative with respect to numbers of the first boxes depends on."""

    outward: jax.Array | int  # derivative of the own side: -1 for a low corner, 1 for a high one
    limiting: jax.Array  # derivative of the shared side
    turning: jax.Array | int  # 1 for x, -1 for y
    along: Lengths  # along the axis of the number
    across: Lengths  # along the other axis

    @property
    def spanning(self) -> jax.Array:
        """Derivative of the enclosing side: the number that limits the overlap does not span it."""
        return self.outward - self.limiting


class PairFunction(NamedTuple):
    """A function of two boxes that is the same if they are exchanged, and its derivative."""

    #: From lengths along x and y, and areas.
    value: Callable[[Lengths, Lengths, Areas], jax.Array]
    #: From the same and the value: what the derivatives need once per pair of boxes. A CPU is
    #: faster if each of these arrays is a quotient; XLA does not store other results.
    prepare: Callable[[Lengths, Lengths, Areas, jax.Array], tuple[jax.Array, ...]]
    #: From numbers and what was prepared: the derivative, divided by the scale of the lengths.
    derivative: Callable[..., jax.Array]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def on_pairs(function: PairFunction, boxes1: jax.Array, boxes2: jax.Array) -> jax.Array:
    """Apply a function to box i and box i: floating ``[..., 4]`` and ``[..., 4]`` to ``[...]``."""
    x, y = lengths_xy(boxes1, boxes2)
    return function.value(x, y, areas(x, y))


# The derivative is written out. In JAX's own, each number of a box is a branch of a concatenation,
# and XLA stores masked boxes once more.
@on_pairs.defjvp
def _on_pairs_jvp(function, primals, tangents):
    (boxes1, boxes2), (change1, change2) = primals, tangents
    value = on_pairs(function, boxes1, boxes2)
    of_first = jnp.sum(_gradient(function, boxes1, boxes2, value) * change1, axis=-1)
    of_second = jnp.sum(_gradient(function, boxes2, boxes1, value) * change2, axis=-1)
    return value, of_first + of_second


def _gradient(
    function: PairFunction, boxes1: jax.Array, boxes2: jax.Array, value: jax.Array
) -> jax.Array:
    """Derivative with respect to the first boxes."""
    x, y = lengths_xy(boxes1, boxes2)
    prepared = function.prepare(x, y, areas(x, y), value)
    # A CPU is slow at stacking, and a TPU copies boxes to reshape them: each takes about twice as
    # long with the form of the other.
    return lax.platform_dependent(
        boxes1,
        boxes2,
        prepared,
        cpu=partial(_gradient_by_corner, function.derivative),
        default=partial(_gradient_by_number, function.derivative),
    )


def _gradient_by_corner(
    derivative: Callable[..., jax.Array],
    boxes1: jax.Array,
    boxes2: jax.Array,
    prepared: tuple[jax.Array, ...],
) -> jax.Array:
    """The gradient from arrays ``[..., 2, 2]`` of the low and the high corner."""
    own, other = (boxes.reshape(*boxes.shape[:-1], 2, 2) for boxes in (boxes1, boxes2))
    along = lengths(*jnp.split(own, 2, axis=-2), *jnp.split(other, 2, axis=-2))
    across = Lengths(*(jnp.flip(length, axis=-1) for length in along))
    outward = 2 * lax.broadcasted_iota(own.dtype, own.shape, own.ndim - 2) - 1
    turning = 1 - 2 * lax.broadcasted_iota(own.dtype, own.shape, own.ndim - 1)
    numbers = Numbers(outward, _limiting(own, other, outward), turning, along, across)
    prepared = tuple(lax.expand_dims(p, [p.ndim, p.ndim + 1]) for p in prepared)
    return (_SCALE * derivative(numbers, *prepared)).reshape(boxes1.shape)


def _gradient_by_number(
    derivative: Callable[..., jax.Array],
    boxes1: jax.Array,
    boxes2: jax.Array,
    prepared: tuple[jax.Array, ...],
) -> jax.Array:
    """The gradient from one array ``[...]`` per number of a box."""
    own, other = split(boxes1), split(boxes2)
    x, y = lengths_xy(boxes1, boxes2)
    gradient = []
    for k, outward in enumerate((-1, -1, 1, 1)):
        turning, along, across = (-1, y, x) if k % 2 else (1, x, y)
        limiting = _limiting(own[k], other[k], outward)
        numbers = Numbers(outward, limiting, turning, along, across)
        gradient += [_SCALE * derivative(numbers, *prepared)]
    return jnp.stack(gradient, axis=-1)


def _limiting(own: jax.Array, other: jax.Array, outward: jax.Array | int) -> jax.Array:
    # The overlap changes only with the corner that limits it. At a tie each box gets half of the
    # gradient, as in torch, so that identical boxes have zero gradient.
    return 0.5 * outward + 0.5 * jnp.sign(other - own)


def lengths_xy(boxes1: jax.Array, boxes2: jax.Array) -> list[Lengths]:
    """Lengths along x and along y, one per pair of boxes."""
    first, second = split(boxes1), split(boxes2)
    return [lengths(first[k], first[k + 2], second[k], second[k + 2]) for k in (0, 1)]


def lengths(low1: jax.Array, high1: jax.Array, low2: jax.Array, high2: jax.Array) -> Lengths:
    """Lengths along the axis of these numbers. Those of integers are exact."""
    unscaled = Lengths(
        own=difference(high1, low1),
        other=difference(high2, low2),
        shared=difference(jnp.minimum(high1, high2), jnp.maximum(low1, low2)),
        enclosing=difference(jnp.maximum(high1, high2), jnp.minimum(low1, low2)),
        apart=0.5 * (difference(low1, low2) + difference(high1, high2)),
    )
    return Lengths(*(_SCALE * length for length in unscaled))


def areas(x: Lengths, y: Lengths) -> Areas:
    own, other, shared, enclosing = map(area, x[:4], y[:4])
    return Areas(shared, own + other - shared, enclosing)


def area(width: jax.Array, height: jax.Array) -> jax.Array:
    """Area of a box; 0 if it is inverted."""
    return jnp.maximum(width, 0) * jnp.maximum(height, 0)


def split(boxes: jax.Array) -> list[jax.Array]:
    """The four numbers of boxes ``[..., 4]``, each ``[...]``."""
    return [boxes[..., k] for k in range(4)]


def or_one(divisor: jax.Array) -> jax.Array:
    """Replace a divisor of 0 by 1."""
    return jnp.where(divisor == 0, 1, divisor)


def iou_of(areas: Areas) -> jax.Array:
    """Shared area divided by the union; 0 for boxes without area."""
    return areas.shared / or_one(areas.union)
