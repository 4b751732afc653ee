"""What a target says about a pair of embeddings, and which negative pairs are kept."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import check_number, describe, fail
from vis4d_jax_loss._kept_count import negatives_to_keep
from vis4d_jax_loss._mesh_axis import count_elements
from vis4d_jax_loss._numerics import expand_mask
from vis4d_jax_loss.mining import random_k_mask, top_k_mask
from vis4d_jax_loss.reducer import AxisName

POSITIVE, NEGATIVE, IGNORED, UNKNOWN = (np.int8(kind) for kind in (1, 0, -1, 2))


class Pairs(NamedTuple):
    """Masks of the pairs that take part; all other pairs are ignored."""

    positive: jax.Array
    negative: jax.Array
    unknown: jax.Array  # neither 1, 0 nor -1: a mistake, for which the loss is NaN


def pair_kinds(function: str, target: jax.Array, where: jax.Array | None) -> jax.Array:
    """Read pair targets: 1 means the same object, 0 a different one, -1 ignored.

    Several passes over the pairs need the kinds. A GPU reads them from one byte per pair.
    """
    if target.dtype.itemsize < 4 and not jnp.issubdtype(target.dtype, jnp.floating):
        target = target.astype(jnp.int32)
    kind = jnp.where(target == 0, NEGATIVE, UNKNOWN)
    if not jnp.issubdtype(target.dtype, jnp.unsignedinteger):  # -1 does not exist in these
        kind = jnp.where(target == -1, IGNORED, kind)
    kind = jnp.where(target == 1, POSITIVE, kind)
    if where is not None:
        kind = jnp.where(expand_mask(where, target.shape), kind, IGNORED)
    return _value_checks.expect_pair_targets(function, kind, kind == UNKNOWN, target)


def pair_masks(function: str, target: jax.Array, where: jax.Array | None) -> Pairs:
    """Read pair targets as masks."""
    kind = pair_kinds(function, target, where)
    return Pairs(kind == POSITIVE, kind == NEGATIVE, kind == UNKNOWN)


class Mining(NamedTuple):
    """Options of ``embedding_distance_loss``."""

    neg_pos_ub: ArrayLike
    pos_margin: ArrayLike
    neg_margin: ArrayLike
    hard_mining: bool
    axis_name: AxisName | None


def check_mining(function: str, mining: Mining) -> None:
    """The numbers among the options may be traced, but they never broadcast."""
    for name in ("neg_pos_ub", "pos_margin", "neg_margin"):
        shape = np.shape(getattr(mining, name))
        if shape:
            rule, remedy = f"{name} must be a scalar", "Use jax.vmap to try several values."
            fail(ValueError, function, rule, describe(**{name: shape}), remedy)
        check_number(function, **{name: getattr(mining, name)})


def mined_negatives(
    function: str,
    x: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    key: jax.Array | None,
    mining: Mining,
) -> jax.Array:
    """Mark the negatives that are kept: those with the largest x, or random ones."""
    num_pos, num_neg = (count_elements(mask, mining.axis_name) for mask in (positive, negative))
    k = negatives_to_keep(num_pos, num_neg, mining.neg_pos_ub)
    if mining.hard_mining:
        return top_k_mask(x, k, negative, axis_name=mining.axis_name)
    if key is None:
        rule, remedy = "hard_mining=False needs key", "Pass a jax.random key, a new one per step."
        fail(ValueError, function, rule, "key None", remedy)
    return random_k_mask(key, k, negative, axis_name=mining.axis_name)
