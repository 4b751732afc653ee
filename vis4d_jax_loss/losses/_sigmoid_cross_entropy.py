"""The cross-entropy of a logit's sigmoid, and its derivative."""

import jax
import jax.numpy as jnp

from vis4d_jax_loss._numerics import limit_to_finite


# The derivatives are written out: JAX's own would store more arrays. They call jax.nn.sigmoid, and
# not the exponential of the value, because XLA on a CPU stores an exponential that both share.
@jax.custom_jvp
def sigmoid_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Binary cross-entropy. An infinite logit counts as 1e30."""
    # Not softplus(x) - x t: in this form the large parts of x and x t cancel exactly.
    finite = limit_to_finite(logits)
    return jnp.maximum(finite, 0) - finite * target + _log1p_exp(logits)


@sigmoid_cross_entropy.defjvp
def _sigmoid_cross_entropy_jvp(primals, tangents):
    (logits, target), (d_logits, d_target) = primals, tangents
    change = (jax.nn.sigmoid(logits) - target) * d_logits - limit_to_finite(logits) * d_target
    return sigmoid_cross_entropy(logits, target), change


@jax.custom_jvp
def softplus(x: jax.Array) -> jax.Array:
    """``log(1 + exp(x))``, which is the cross-entropy of the logit x for the target 0."""
    return jnp.maximum(limit_to_finite(x), 0) + _log1p_exp(x)


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    return softplus(*primals), jax.nn.sigmoid(*primals) * tangents[0]


def _log1p_exp(x: jax.Array) -> jax.Array:
    return jnp.log1p(jnp.exp(-jnp.abs(x)))
