"""Arithmetic whose value and gradient stay finite, in float32 or better."""

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import jet
from jax.typing import ArrayLike, DTypeLike

# The context manager that allows float64; older releases of JAX have it in jax.experimental.
_HOME_OF_X64: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
enable_x64 = _HOME_OF_X64.enable_x64


def as_array(x: ArrayLike) -> jax.Array:
    """Convert to an array of JAX, without an operation if it is one.

    ``jnp.asarray`` of an array that is differentiated is an operation, and ``jax.debug_nans`` stops
    there if padding is NaN. JAX would wrap wide integers of NumPy to int32: cast them to float32.
    """
    if isinstance(x, jax.Array):
        return x
    array = jnp.asarray(x)
    if isinstance(x, np.ndarray | np.generic) and is_integer(array) and x.dtype != array.dtype:
        wrapped = np.any(x.astype(array.dtype) != x)
        return jnp.asarray(x, jnp.float32) if wrapped else array
    return array


def to_float(x: ArrayLike) -> jax.Array:
    """Cast to float32; float64 stays float64.

    Half precision cannot hold a loss: the areas of 256-pixel boxes overflow float16, and a sum of
    ones stops at 256 in bfloat16. The gradient of the cast has the dtype of the input again.
    """
    (x,) = to_common_float(x)
    return x


def float_dtype(x: jax.Array) -> DTypeLike:
    """The dtype of ``to_float(x)``."""
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32


def to_common_float(*arrays: ArrayLike) -> list[jax.Array]:
    """Cast arrays to one dtype: float64 if any of them is float64, otherwise float32.

    Each array is cast by itself, so that no rule of JAX for promoting dtypes is involved. A Python
    number has no dtype of its own.
    """
    inputs = [as_array(x) for x in arrays]
    double = any(x.dtype == jnp.float64 and not x.weak_type for x in inputs)
    return [x.astype(jnp.float64 if double else jnp.float32) for x in inputs]


def expand_mask(where: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    """Broadcast a mask over the leading axes of ``shape`` to all of ``shape``."""
    where = jnp.asarray(where)
    trailing = range(where.ndim, len(shape))
    # expand_dims keeps a sharded axis sharded; a reshape would need to be told the sharding.
    return jnp.broadcast_to(lax.expand_dims(where, trailing), shape)


def fill_masked(x: jax.Array, where: jax.Array | None, fill: float = 0.0) -> jax.Array:
    """Replace masked elements before any arithmetic; ``where`` covers leading axes.

    Multiplying by the mask afterwards would let NaN into the value or the gradient.
    """
    return x if where is None else jnp.where(expand_mask(where, x.shape), x, fill)


def count_true(
    mask: jax.Array, dtype: DTypeLike = jnp.int32, axis: Sequence[int] | None = None
) -> jax.Array:
    """Count the True elements along axes, by default all: exactly, or rounded to a floating dtype.

    Counts of 2**31 and more need a floating dtype.
    """
    axes = tuple(range(mask.ndim)) if axis is None else tuple(axis)
    sizes = [mask.shape[i] for i in axes]
    # Under jax.export a size may be symbolic: count in int32.
    size = math.prod(sizes) if all(isinstance(n, int) for n in sizes) else 2**31 - 1
    if size < 2**24:
        # float32 counts exactly up to 2**24, and a CPU adds floats faster than integers.
        return jnp.sum(mask, axes, dtype=jnp.float32).astype(dtype)
    if size < 2**31:
        return jnp.sum(mask, axes, dtype=jnp.int32).astype(dtype)
    longest = max(axes, key=lambda i: mask.shape[i])
    if mask.shape[longest] < 2**31:
        counts = jnp.sum(mask, longest, dtype=jnp.int32, keepdims=True)
        return jnp.sum(counts.astype(dtype), axes)
    half = mask.shape[longest] // 2
    halves = jnp.split(mask, [half], longest)
    return count_true(halves[0], dtype, axes) + count_true(halves[1], dtype, axes)


def even_in_difference(
    value: Callable[[jax.Array], jax.Array],
    derivative: Callable[[jax.Array], jax.Array],
    a: jax.Array,
    b: jax.Array,
) -> jax.Array:
    """Apply an even function to ``a - b``; its derivative is given, and is odd.

    XLA on a CPU stores an intermediate that value and derivative share, which costs a pass over
    memory. The value is therefore computed from ``b - a`` and the derivative from ``a - b``.
    """
    if isinstance(a, jet.JetTracer) or isinstance(b, jet.JetTracer):
        # jax.experimental.jet cannot call a function with a rule for its derivative.
        return value(difference(b, a))
    if is_integer(a) and is_integer(b):
        a = integer_difference(a, b)
        return _even_in_difference(value, derivative, a, jnp.zeros_like(a))
    both_half = a.dtype.itemsize == b.dtype.itemsize == 2
    a, b = to_common_float(a, b)
    if both_half:
        # Here XLA would store both inputs in float32. Their difference is half as large.
        a, b = a - b, jnp.zeros_like(b)
    return _even_in_difference(value, derivative, a, b)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _even_in_difference(value, derivative, a, b):
    return value(b - a)


@_even_in_difference.defjvp
def _even_in_difference_jvp(value, derivative, primals, tangents):
    (a, b), (da, db) = primals, tangents
    return _even_in_difference(value, derivative, a, b), derivative(a - b) * (da - db)


def difference(a: jax.Array, b: jax.Array) -> jax.Array:
    """Subtract in float32 or better."""
    if is_integer(a) and is_integer(b):
        return integer_difference(a, b)
    return operator.sub(*to_common_float(a, b))


def integer_difference(a: jax.Array, b: jax.Array) -> jax.Array:
    """Subtract integers of any two dtypes in float32, rounding once: 100,000,001 - 1e8 is 1."""
    if 8 in (a.dtype.itemsize, b.dtype.itemsize):
        return (a.astype(jnp.float64) - b.astype(jnp.float64)).astype(jnp.float32)
    # Halves of 16 bits have exact differences, and nothing overflows.
    halves = [_halves(x.astype(jnp.int32) if x.dtype.itemsize < 4 else x) for x in (a, b)]
    high, low = (x - y for x, y in zip(*halves, strict=True))
    return high * 2.0**16 + low


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return (x >> 16).astype(jnp.float32), (x & 0xFFFF).astype(jnp.float32)


def is_integer(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.integer)


def is_floating(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def clamp(x: jax.Array, low: float, high: float) -> jax.Array:
    """Limit x to [low, high], passing the whole gradient at the borders, as torch does.

    ``jnp.clip`` passes half of the gradient there, and ``lax.clamp`` none of it.
    """
    inside = (x >= low) & (x <= high)
    return jnp.where(inside, x, lax.stop_gradient(jnp.clip(x, low, high)))


def in_one_loop(loss: jax.Array, pred: jax.Array) -> jax.Array:
    """Return the loss itself, in a form that XLA on a CPU computes in one loop.

    XLA passes a sum and the arithmetic before it to a library, and stores what this arithmetic uses
    twice. The library does not take a ``jnp.where``. A loss whose prediction is NaN is NaN anyway.
    """
    return jnp.where(jnp.isnan(pred), jnp.nan, loss)


@jax.custom_jvp
def safe_divide(numerator: ArrayLike, denominator: ArrayLike) -> jax.Array:
    """Divide; where the denominator is 0, the value and both gradients are 0."""
    zero = denominator == 0
    return jnp.where(zero, 0, numerator / jnp.where(zero, 1, denominator))


@safe_divide.defjvp
def _safe_divide_jvp(primals, tangents):
    # d(n / d) = (dn - (n / d) dd) / d. The reciprocal is 0 where d is 0, so the derivative is too.
    (numerator, denominator), (dn, dd) = primals, tangents
    quotient, reciprocal = safe_divide(numerator, denominator), safe_divide(1.0, denominator)
    return quotient, reciprocal * (dn - quotient * dd)


def as_option(number: ArrayLike, dtype: DTypeLike | None = None) -> float | jax.Array:
    """Read an option that is a number, a NumPy scalar or traced.

    A number becomes a float of Python, which takes the dtype of the array that it meets: a float64
    scalar of NumPy would turn a float32 loss into float64. An array, which may be traced, is cast
    to ``dtype``; without a ``dtype`` it keeps its own.
    """
    return float(number) if isinstance(number, Real) else jnp.asarray(number, dtype)
