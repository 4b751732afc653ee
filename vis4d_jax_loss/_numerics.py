"""Arithmetic whose value and gradient stay finite, in float32 or better."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


def to_float(*arrays: ArrayLike) -> list[jax.Array]:
    """Bring arrays to one floating dtype: float64 if any is, else float32.

    Half precision cannot hold a loss: areas of 256-pixel boxes overflow float16, a sum of ones in
    bfloat16 stops at 256. The cast's own gradient returns to the input's dtype.
    """
    dtype = jnp.result_type(*arrays)
    if dtype != jnp.float64:
        dtype = jnp.float32
    return [jnp.asarray(x).astype(dtype) for x in arrays]


def cover(where: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """Spread a mask over the leading axes of ``shape`` to the whole of it."""
    where = jnp.asarray(where)
    trailing = range(where.ndim, len(shape))
    # expand_dims keeps a sharded axis sharded; a reshape would have to be told how.
    return jnp.broadcast_to(lax.expand_dims(where, trailing), shape)


def blank(x: jax.Array, where: jax.Array | None, fill: float = 0.0) -> jax.Array:
    """Replace what a mask over leading axes leaves out, before arithmetic sees it.

    Multiplying by the mask afterwards would let NaN through, in the value or in the gradient.
    """
    return x if where is None else jnp.where(cover(where, x.shape), x, fill)


def count(mask: jax.Array) -> jax.Array:
    """How many are True, exactly, as int32."""
    # Float32 counts exactly up to 2**24, and several times faster than integers on a CPU. The size
    # may be a symbol of jax.export.
    few = isinstance(mask.size, int) and mask.size < 2**24
    return jnp.sum(mask, dtype=jnp.float32 if few else jnp.int32).astype(jnp.int32)


def of_difference(
    value: Callable[[jax.Array], jax.Array],
    slope: Callable[[jax.Array], jax.Array],
    a: jax.Array,
    b: jax.Array,
) -> jax.Array:
    """An even function of a - b, with the odd function that is its derivative; float32 or better.

    XLA on a CPU would store a difference that both share, in a pass over the data: the function
    takes b - a, its derivative a - b.
    """
    half = a.dtype.itemsize == b.dtype.itemsize == 2
    a, b = to_float(a, b)
    if half:  # here XLA would store both in float32: better their difference
        a, b = a - b, jnp.zeros_like(b)
    return _of_difference(value, slope, a, b)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _of_difference(value, slope, a, b):
    return value(b - a)


@_of_difference.defjvp
def _(value, slope, primals, tangents):
    (a, b), (da, db) = primals, tangents
    return _of_difference(value, slope, a, b), slope(a - b) * (da - db)


def clamp(x: jax.Array, low: float, high: float) -> jax.Array:
    """Limit x to [low, high], passing the whole gradient at the borders.

    ``jnp.clip`` passes half of it there and ``lax.clamp`` none.
    """
    inside = (x >= low) & (x <= high)
    return jnp.where(inside, x, lax.stop_gradient(jnp.clip(x, low, high)))


@jax.custom_jvp
def safe_divide(numerator: ArrayLike, denominator: ArrayLike) -> jax.Array:
    """Divide, with value and gradient 0 where the denominator is 0."""
    zero = denominator == 0
    return jnp.where(zero, 0, numerator / jnp.where(zero, 1, denominator))


# The quotient and the reciprocal serve both gradients, which are 0 with the latter.
@safe_divide.defjvp
def _(primals, tangents):
    (numerator, denominator), (dn, dd) = primals, tangents
    quotient, reciprocal = safe_divide(numerator, denominator), safe_divide(1.0, denominator)
    return quotient, reciprocal * (dn - quotient * dd)


@jax.custom_jvp
def sine_and_cosine(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both from one reduction to a quarter turn; in float32 within 1.2e-7 up to 10,000 radians.

    Beyond, they are off by about as much as the angle was rounded. After Cody and Waite, Software
    Manual for the Elementary Functions, 1980, with minimax polynomials on [-pi/4, pi/4].
    """
    if x.dtype != jnp.float32:
        return jnp.sin(x), jnp.cos(x)
    # XLA calls the C library for each jnp.sin and jnp.cos on a CPU; these lines are vectorised, and
    # the rotation loss takes 0.4 of the time.
    turns = jnp.round(x * (2 / math.pi))
    rest = x - turns * (201 / 2**7)  # pi/2 in three parts, the first two exact times a turn
    rest = rest - turns * (2029 / 2**22)
    rest = rest - turns * 7.5497900e-8
    rest = jnp.clip(rest, -1, 1)  # of a huge angle nothing is left but rounding
    square = rest * rest
    sine = -1.66666549e-1 + square * (8.33217791e-3 - square * 1.95172664e-4)
    sine = rest + rest * square * sine
    cosine = 4.16666469e-2 + square * (-1.38873672e-3 + square * 2.44384151e-5)
    cosine = 1 - 0.5 * square + square * square * cosine

    def at(quarter: jax.Array) -> jax.Array:
        value = jnp.where(quarter & 1, cosine, sine)
        return jnp.where(quarter & 2, -value, value)

    quarter = turns.astype(jnp.int32)
    return at(quarter), at(quarter + 1)


@sine_and_cosine.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    sine, cosine = sine_and_cosine(x)
    return (sine, cosine), (cosine * dx, -sine * dx)
