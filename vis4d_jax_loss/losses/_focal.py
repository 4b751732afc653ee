"""Cross-entropy weighted by a power of the probability of a mistake: what focal losses share."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from vis4d_jax_loss._checks import check_number, describe, fail
from vis4d_jax_loss._numerics import as_option
from vis4d_jax_loss.losses._sigmoid_cross_entropy import sigmoid_cross_entropy, softplus

_LARGEST_POWER = 8  # a larger exponent is not worth its multiplications


def check_exponent(function: str, **options: float | jax.Array) -> None:
    """Check exponents; the sign of a traced one is not known."""
    check_number(function, **options)
    for name, value in options.items():
        if not isinstance(value, Tracer) and not value >= 0:
            got = describe(**{name: value})
            fail(ValueError, function, f"{name} must not be negative", got)


def power(x: jax.Array, exponent: float | jax.Array) -> jax.Array:
    """Raise positive numbers to a power: by multiplications if it is a small whole number."""
    exponent = as_option(exponent, x.dtype)
    whole = _whole(exponent)
    return jnp.exp(exponent * jnp.log(x)) if whole is None else lax.integer_pow(x, whole)


def _whole(exponent: float | jax.Array) -> int | None:
    """The exponent as an integer, if it is small and whole; otherwise None."""
    is_whole = isinstance(exponent, float) and exponent in range(_LARGEST_POWER + 1)
    return int(exponent) if is_whole else None


def focal_of_logits(logits: jax.Array, target: jax.Array, gamma: float | jax.Array) -> jax.Array:
    """Binary cross-entropy times ``m ** gamma``, where m is the probability of a mistake.

    For a target t, ``m = (1 - t) sigmoid(x) + t sigmoid(-x)``. The target is a constant. If it is
    boolean, a power that is not a whole number needs one logarithm less.
    """
    gamma = as_option(gamma, logits.dtype)
    return _focal(_whole(gamma), logits, target, jnp.asarray(gamma, logits.dtype))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _focal(whole, logits, target, gamma):
    present, rest = _read_target(target)
    wrong = jnp.where(present, -logits, logits)
    return _weight(whole, wrong, rest, gamma) * _cross_entropy(wrong, rest)


@_focal.defjvp
def _focal_jvp(whole, primals, tangents):
    (logits, target, gamma), (d_logits, _, d_gamma) = primals, tangents
    present, rest = _read_target(target)
    if whole is None:
        wrong = jnp.where(present, -logits, logits)
    else:
        # The same number, written differently: XLA on a CPU would otherwise store what value and
        # derivative share. A power that is not a whole number is worth storing.
        wrong = -jnp.where(present, logits, -logits)
    probs = jax.nn.sigmoid(wrong)
    weight, cost = _weight(whole, wrong, rest, gamma), _cross_entropy(wrong, rest)
    slope = weight * (probs if rest is None else probs - rest)
    if whole is None:
        share = gamma * _share_of_wrong(wrong, rest) * jax.nn.sigmoid(-wrong)
        slope = slope + share * (weight * cost)
    elif whole:
        spread = probs * (1 - probs)
        spread = spread if rest is None else (1 - 2 * rest) * spread
        slope = slope + whole * spread * (_weight(whole - 1, wrong, rest, gamma) * cost)
    change = jnp.where(present, -slope, slope) * d_logits
    if whole is None:
        change = change + _log_mistake(wrong, rest) * (weight * cost) * d_gamma
    return _focal(whole, logits, target, gamma), change


def _read_target(target: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Whether to call the target present, and the part of it that disagrees; None for 0.

    The rest is at most 1/2. ``wrong`` is the logit of the opposite of what the target is called.
    """
    if target.dtype == bool:
        return target, None
    return target > 0.5, jnp.minimum(target, 1 - target)


def _cross_entropy(wrong: jax.Array, rest: jax.Array | None) -> jax.Array:
    return softplus(wrong) if rest is None else sigmoid_cross_entropy(wrong, rest)


def _weight(
    whole: int | None, wrong: jax.Array, rest: jax.Array | None, gamma: jax.Array
) -> jax.Array:
    """The probability of a mistake to the power of gamma."""
    if whole is not None:
        return lax.integer_pow(_mistake(wrong, rest), whole)
    # The derivative of a power with a smaller exponent would divide by the probability, which
    # rounds to 0. That of its logarithm does not.
    return jnp.exp(gamma * _log_mistake(wrong, rest))


def _mistake(wrong: jax.Array, rest: jax.Array | None) -> jax.Array:
    probs = jax.nn.sigmoid(wrong)
    return probs if rest is None else rest + (1 - 2 * rest) * probs


@jax.custom_jvp
def _log_mistake(wrong: jax.Array, rest: jax.Array | None) -> jax.Array:
    """The logarithm of the probability of a mistake."""
    # For a rest of 0, this is exact even where the sigmoid rounds to 0.
    hard = -softplus(-wrong)
    if rest is None:
        return hard
    return jnp.where(rest == 0, hard, jnp.log(jnp.where(rest == 0, 1, _mistake(wrong, rest))))


@_log_mistake.defjvp
def _log_mistake_jvp(primals, tangents):
    (wrong, rest), (change, _) = primals, tangents
    slope = _share_of_wrong(wrong, rest) * jax.nn.sigmoid(-wrong)
    return _log_mistake(wrong, rest), slope * change


# The derivative is written out: JAX's own would divide by a square that rounds to 0.
@jax.custom_jvp
def _share_of_wrong(wrong: jax.Array, rest: jax.Array | None) -> jax.Array:
    """How much of the probability of a mistake depends on the logit."""
    if rest is None:
        return jnp.ones_like(wrong)
    part = (1 - 2 * rest) * jax.nn.sigmoid(wrong)
    return jnp.where(rest == 0, 1, part / jnp.where(rest == 0, 1, rest + part))


@_share_of_wrong.defjvp
def _share_of_wrong_jvp(primals, tangents):
    (wrong, rest), (change, _) = primals, tangents
    share = _share_of_wrong(wrong, rest)
    return share, share * (1 - share) * jax.nn.sigmoid(-wrong) * change


def focal_of_cross_entropy(cost: jax.Array, gamma: float | jax.Array) -> jax.Array:
    """A cross-entropy times ``m ** gamma``, where ``m = 1 - exp(-cost)``."""
    gamma = as_option(gamma, cost.dtype)
    return _focal_of_cross_entropy(_whole(gamma), cost, jnp.asarray(gamma, cost.dtype))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _focal_of_cross_entropy(whole, cost, gamma):
    exponent = gamma if whole is None else whole
    return power(-jnp.expm1(-_limit(cost)), exponent) * cost


@_focal_of_cross_entropy.defjvp
def _focal_of_cross_entropy_jvp(whole, primals, tangents):
    (cost, gamma), (d_cost, d_gamma) = primals, tangents
    x = _limit(cost)
    weight = power(-jnp.expm1(-x), gamma if whole is None else whole)
    slope = weight * (1 + gamma * x / jnp.expm1(x))
    of_gamma = weight * jnp.log(-jnp.expm1(-x)) * x
    loss = _focal_of_cross_entropy(whole, cost, gamma)
    return loss, slope * d_cost + of_gamma * d_gamma


def _limit(cost: jax.Array) -> jax.Array:
    """Limit a cross-entropy to numbers whose powers neither round to 0 nor overflow.

    Below, the cross-entropy itself is rounding error. Above, the probability of a mistake is 1.
    """
    epsilon = float(jnp.finfo(cost.dtype).eps)
    return jnp.clip(cost, epsilon, -1.25 * math.log(epsilon))
