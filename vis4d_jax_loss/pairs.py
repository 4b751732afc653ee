"""Pair losses: what a target says of a pair, and how many negatives take part."""

import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._numerics import cover

_INT32_MAX = 2**31 - 1


class Pairs(NamedTuple):
    """What the targets of a pair loss say of each pair: the rest is ignored."""

    positive: jax.Array
    negative: jax.Array
    unknown: jax.Array  # neither 1, 0 nor -1: a mistake, which the loss turns into NaN


def pair_masks(function: str, target: jax.Array, where: jax.Array | None) -> Pairs:
    """Read pair targets: 1 the same, 0 different, -1 ignored."""
    if not jnp.issubdtype(target.dtype, jnp.floating):
        target = target.astype(jnp.int32)  # -1 does not exist in unsigned integers
    positive, negative = target == 1, target == 0
    unknown = ~(positive | negative | (target == -1))
    if where is not None:
        where = cover(where, target.shape)
        positive, negative, unknown = positive & where, negative & where, unknown & where
    positive = _value_checks.expect_pairs(function, positive, unknown)
    return Pairs(positive, negative, unknown)


def negatives_to_keep(num_pos: jax.Array, num_neg: jax.Array, neg_pos_ub: float) -> jax.Array:
    """How many negatives take part, exactly as Python's doubles would say.

    ``int(p * neg_pos_ub)`` with ``p = max(1, num_pos)`` if ``num_neg / p > neg_pos_ub``, else all.
    In float32 the same expression is wrong already for 100 * 0.29 (28 in doubles, 29 in float32).

    Args:
        num_pos: Number of positives, an int32 scalar.
        num_neg: Number of negatives, an int32 scalar.
        neg_pos_ub: Upper bound of negatives a positive; not positive, infinite or NaN is no bound.
    """
    if not 0 < neg_pos_ub < _INT32_MAX:
        return num_neg
    num_pos = jnp.maximum(num_pos, 1)
    product, fraction = _times(num_pos, Fraction(neg_pos_ub))
    # A product rounds up to the next integer if it lies within half a unit in the last place of
    # it: if, with the bits of its integer part, the first 54 are all ones from the point on.
    kept = product + (_leading_ones(fraction) >= 54 - _bit_length(product))
    # A quotient rounds to more than neg_pos_ub if it lies beyond the middle to the next double.
    middle = (Fraction(neg_pos_ub) + Fraction(math.nextafter(neg_pos_ub, math.inf))) / 2
    limited = num_neg > _times(num_pos, middle)[0]
    fits = num_pos <= min(_INT32_MAX // middle, _INT32_MAX)
    return jnp.where(fits & limited, jnp.minimum(kept, num_neg), num_neg)


def _times(count: jax.Array, factor: Fraction) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Multiply a count by an exact dyadic factor: integer part, first 64 bits of the fraction.

    School multiplication with the bytes of the factor's fraction, from the last to the first; a
    carry never exceeds the count.
    """
    whole, rest = divmod(factor, 1)
    num_bytes = max(8, -(-(rest.denominator.bit_length() - 1) // 8))
    bytes_ = int(rest * 256**num_bytes).to_bytes(num_bytes, "big")
    count = count.astype(jnp.uint32)
    high, low = count >> 16, count & 0xFFFF
    carry, digits = jnp.uint32(0), []
    for byte in reversed(bytes_):
        total = low * byte + carry
        digits.insert(0, total & 0xFF)
        carry = ((high * byte) << 8) + (total >> 8)
    high, low = (a << 24 | b << 16 | c << 8 | d for a, b, c, d in (digits[:4], digits[4:8]))
    return (count * jnp.uint32(whole) + carry).astype(jnp.int32), (high, low)


def _leading_ones(fraction: tuple[jax.Array, jax.Array]) -> jax.Array:
    high, low = (lax.clz(~word).astype(jnp.int32) for word in fraction)
    return high + jnp.where(high == 32, low, 0)


def _bit_length(x: jax.Array) -> jax.Array:
    return 32 - lax.clz(x).astype(jnp.int32)
