"""The cross-entropy of a logit's sigmoid, and its derivative."""

import jax
import jax.numpy as jnp

_LARGE = 1e30  # stands for infinity where the result must be finite


# The derivatives are written out: JAX's own would store more arrays. They call jax.nn.sigmoid, and
# not the exponential of the value, because XLA on a CPU stores an exponential that both share.
@jax.custom_jvp
def sigmoid_cross_entropy(
    logits: jax.Array, target: jax.Array, more: jax.Array | None = None
) -> jax.Array:
    """Binary cross-entropy. An infinite logit counts as 1e30.

    The part that belongs to a target of 1 has the weight ``1 + more``.
    """
    # Not softplus(x) - x t: in this form the large parts of x and x t cancel exactly.
    rest = _log1p_exp(logits)
    loss = jnp.maximum(logits, 0) - logits * target + rest
    # An infinite logit would give inf - inf. This `jnp.where` is the last step, because XLA on a
    # CPU then computes all of the loss in one loop, and stores nothing else.
    present = target
    if more is not None:
        loss = loss + more * (target * (jnp.maximum(-logits, 0) + rest))
        present = target + more * target
    infinite = _LARGE * jnp.where(logits > 0, 1 - target, present)
    return jnp.where(jnp.isinf(logits), infinite, loss)


@sigmoid_cross_entropy.defjvp
def _sigmoid_cross_entropy_jvp(primals, tangents):
    (logits, target, more), (d_logits, d_target, d_more) = primals, tangents
    probs = jax.nn.sigmoid(logits)
    of_logits, of_target = probs - target, -jnp.clip(logits, -_LARGE, _LARGE)
    if more is None:
        change = of_logits * d_logits + of_target * d_target
        return sigmoid_cross_entropy(logits, target, None), change
    present = softplus(-logits)  # the loss of a target of 1
    of_logits = of_logits + more * (target * (probs - 1))
    of_target = of_target + more * present
    change = of_logits * d_logits + of_target * d_target + target * present * d_more
    return sigmoid_cross_entropy(logits, target, more), change


@jax.custom_jvp
def softplus(x: jax.Array) -> jax.Array:
    """``log(1 + exp(x))``, which is the cross-entropy of the logit x for the target 0."""
    return jnp.where(jnp.isposinf(x), _LARGE, jnp.maximum(x, 0) + _log1p_exp(x))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    return softplus(*primals), jax.nn.sigmoid(*primals) * tangents[0]


def _log1p_exp(x: jax.Array) -> jax.Array:
    """``log(1 + exp(-|x|))``; in float32 with an error of 2.2e-7 of the result."""
    exponential = jnp.exp(-jnp.abs(x))
    if x.dtype != jnp.float32:
        return jnp.log1p(exponential)
    # log(1 + e) is 2 artanh(e / (2 + e)), here a minimax polynomial. Inside of a larger loop,
    # jnp.log1p would take most of the time on a CPU (docs/performance.md).
    ratio = exponential / (2 + exponential)
    square = ratio * ratio
    series = 0.40007672 + square * (0.28233944 + square * 0.26867611)
    return ratio * (2 + square * (0.6666664 + square * series))
