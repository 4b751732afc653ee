"""What a target says about a pair of embeddings, and how many negative pairs are kept."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._numerics import enable_x64, expand_mask

_INT32_MAX = 2**31 - 1


class Pairs(NamedTuple):
    """Masks of the pairs that take part; all other pairs are ignored."""

    positive: jax.Array
    negative: jax.Array
    unknown: jax.Array  # neither 1, 0 nor -1: a mistake, for which the loss is NaN


def pair_masks(function: str, target: jax.Array, where: jax.Array | None) -> Pairs:
    """Read pair targets: 1 means the same object, 0 a different one, -1 ignored."""
    if not jnp.issubdtype(target.dtype, jnp.floating):
        target = target.astype(jnp.int32)  # -1 does not exist in unsigned integers
    positive, negative = target == 1, target == 0
    unknown = ~(positive | negative | (target == -1))
    if where is not None:
        where = expand_mask(where, target.shape)
        positive, negative, unknown = positive & where, negative & where, unknown & where
    positive = _value_checks.expect_pair_targets(function, positive, unknown, target)
    return Pairs(positive, negative, unknown)


def negatives_to_keep(num_pos: jax.Array, num_neg: jax.Array, neg_pos_ub: float) -> jax.Array:
    """How many negatives take part, equal to Python's arithmetic.

    With ``p = max(1, num_pos)``: ``int(p * neg_pos_ub)`` if ``num_neg / p > neg_pos_ub``, otherwise
    all of them. It is computed in float64, because float32 is wrong for numbers as small as
    100 * 0.29 (29 instead of 28). A TPU emulates float64: there the result may differ by one.

    Args:
        num_pos: Number of positives, an int32 scalar.
        num_neg: Number of negatives, an int32 scalar.
        neg_pos_ub: Maximum number of negatives per positive. If it is 0 or less, infinite or NaN,
            there is no limit.
    """
    if not 0 < neg_pos_ub < _INT32_MAX:
        return num_neg
    num_pos = jnp.maximum(num_pos, 1)
    zero = (num_pos * 0).astype(jnp.float32)
    numbers = [num_pos, num_neg, *(zero + part for part in _float32_parts(neg_pos_ub))]
    with enable_x64(True):
        # JAX 0.6 compiles float64 constants, and under checkify functions of jnp, as float32. The
        # ratio is therefore the exact sum of three parts, and only functions of lax follow.
        positives, negatives, *parts = (lax.convert_element_type(x, jnp.float64) for x in numbers)
        ratio = parts[0] + parts[1] + parts[2]
        limited = negatives / positives > ratio
        limit = lax.min(lax.floor(positives * ratio), negatives)
        limit = lax.convert_element_type(limit, jnp.int32)
    return jnp.where(limited, limit, num_neg)


def _float32_parts(number: float) -> list[np.float32]:
    """Three float32 numbers whose sum is the float64 number."""
    high = np.float32(number)
    middle = np.float32(number - float(high))
    return [high, middle, np.float32(number - float(high) - float(middle))]
