"""How many elements are kept, equal to Python's arithmetic for any count that fits uint32.

Both functions compute in float64, because float32 is wrong for numbers as small as 100 * 0.29 (29
instead of 28). A TPU emulates float64: there a result may differ by one.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss._numerics import as_option, enable_x64
from vis4d_jax_loss._ranking import MAX_COUNT


def negatives_to_keep(num_pos: jax.Array, num_neg: jax.Array, neg_pos_ub: ArrayLike) -> jax.Array:
    """How many negatives take part.

    With ``p = max(1, num_pos)``: ``int(p * neg_pos_ub)`` if ``num_neg / p > neg_pos_ub``, otherwise
    all of them.

    Args:
        num_pos: Number of positives, an integer scalar.
        num_neg: Number of negatives, an integer scalar.
        neg_pos_ub: Maximum number of negatives per positive. If it is 0 or less, infinite or NaN,
            there is no limit. A traced number counts with the value that its dtype holds.
    """
    ratio = as_option(neg_pos_ub)
    if not isinstance(ratio, jax.Array) and not 0 < ratio < MAX_COUNT:
        return num_neg  # The float32 parts of such a number would overflow.
    is_limit = ratio > 0
    num_pos = jnp.maximum(num_pos, 1)
    parts = _parts(ratio, num_pos)
    with enable_x64(True):
        positives, negatives, exact = _float64(num_pos), _float64(num_neg), _sum(parts)
        limited = negatives / positives > exact
        limit = lax.min(lax.floor(positives * exact), negatives)
        limit = lax.convert_element_type(limit, num_neg.dtype)
    return jnp.where(limited & is_limit, limit, num_neg)


def fraction_to_keep(count: jax.Array, fraction: float) -> jax.Array:
    """``floor(fraction * count)``, for a fraction from 0 to 1."""
    return _floor_of_product(count, _parts(fraction, count))


# In a jit of its own, so that JAX 0.6 compiles it under checkify outside of a jit.
@jax.jit
def _floor_of_product(count: jax.Array, fraction: list[jax.Array]) -> jax.Array:
    with enable_x64(True):
        product = lax.floor(_float64(count) * _sum(fraction))
        return lax.convert_element_type(product, count.dtype)


def _parts(ratio: float | jax.Array, like: jax.Array) -> list[jax.Array]:
    """A traced number, or three float32 numbers whose sum is the float64 number.

    JAX 0.6 compiles float64 constants, and under checkify functions of jnp, as float32. The ratio
    is therefore the exact sum of its parts, and only functions of lax compute in float64.
    """
    if isinstance(ratio, jax.Array):
        return [lax.stop_gradient(ratio)]
    high = np.float32(ratio)
    middle = np.float32(ratio - float(high))
    low = np.float32(ratio - float(high) - float(middle))
    zero = (like * 0).astype(jnp.float32)
    return [zero + part for part in (high, middle, low)]


def _float64(x: jax.Array) -> jax.Array:
    return lax.convert_element_type(x, jnp.float64)


def _sum(parts: Sequence[jax.Array]) -> jax.Array:
    first, *others = map(_float64, parts)
    return sum(others, start=first)
