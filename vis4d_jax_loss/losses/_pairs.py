"""What a target says about a pair of embeddings, and how many negative pairs are kept."""

from functools import partial
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
    with enable_x64(True):
        return _negatives_to_keep(num_pos, num_neg, neg_pos_ub)


# Written for JAX 0.6 under checkify: a jit of its own, because JAX computes no float64 outside of
# one, and operations of lax, because the inner functions of jnp are traced again without float64.
@partial(jax.jit, static_argnums=2)
def _negatives_to_keep(num_pos: jax.Array, num_neg: jax.Array, neg_pos_ub: float) -> jax.Array:
    positives, negatives = _as_float64(lax.max(num_pos, np.int32(1))), _as_float64(num_neg)
    bound = _float64_constant(neg_pos_ub, like=num_pos)
    limited = lax.gt(lax.div(negatives, positives), bound)
    limit = lax.min(lax.floor(lax.mul(positives, bound)), negatives)
    return lax.convert_element_type(lax.select(limited, limit, negatives), jnp.int32)


def _as_float64(x: jax.Array) -> jax.Array:
    return lax.convert_element_type(x, jnp.float64)


def _float64_constant(number: float, like: jax.Array) -> jax.Array:
    """A number in float64, as the exact sum of three float32 constants of 24 bits each.

    JAX 0.6 rounds float64 constants to float32 when it compiles a step. It also casts a float64
    scalar to float32 when vmap broadcasts it, so the constants depend on the batched ``like``.
    """
    zero = lax.convert_element_type(lax.mul(like, np.int32(0)), jnp.float32)
    parts = []
    for _ in range(3):
        parts.append(np.float32(number))
        number -= float(parts[-1])
    first, second, third = (_as_float64(lax.add(zero, part)) for part in parts)
    return lax.add(lax.add(first, second), third)
