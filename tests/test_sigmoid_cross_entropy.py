"""The cross-entropy of a logit's sigmoid, at logits where a plain formula fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss._numerics import enable_x64
from vis4d_jax_loss.losses._sigmoid_cross_entropy import sigmoid_cross_entropy, softplus


def derivatives(logits, target):
    """The derivatives of each loss with respect to its logit and its target."""
    one = jax.grad(sigmoid_cross_entropy, argnums=(0, 1))
    return jax.jit(jax.vmap(one))(jnp.asarray(logits), jnp.asarray(target))


def test_values_and_derivatives_by_hand():
    logits, target = np.float32(np.log([3, 3, 3, 1 / 3])), np.float32([1, 0, 0.25, 0])
    loss = sigmoid_cross_entropy(jnp.asarray(logits), jnp.asarray(target))
    expected = [np.log(4 / 3), np.log(4), np.log(4) - 0.25 * np.log(3), np.log(4 / 3)]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    slopes, of_target = derivatives(logits, target)
    np.testing.assert_allclose(slopes, [-0.25, 0.75, 0.5, 0.25], rtol=1e-6)
    np.testing.assert_allclose(of_target, -logits)


@pytest.mark.parametrize("large", [1e4, 1e30, np.inf])
def test_large_logits(large):
    logits, target = np.float32([large, -large, large, -large]), np.float32([1, 0, 0, 1])
    loss = sigmoid_cross_entropy(jnp.asarray(logits), jnp.asarray(target))
    finite = min(large, 1e30)
    np.testing.assert_allclose(loss, [0, 0, finite, finite])
    slopes, of_target = derivatives(logits, target)
    np.testing.assert_array_equal(slopes, [0, 0, 1, -1])
    np.testing.assert_allclose(of_target, [-finite, finite, -finite, finite])


def test_a_logit_of_minus_infinity_has_finite_tangents():
    # 0 times an infinite derivative would be NaN: only the logit has a tangent here.
    x, t = jnp.float32(-jnp.inf), jnp.float32(0)
    _, tangent = jax.jvp(lambda x: sigmoid_cross_entropy(x, t), (x,), (jnp.ones_like(x),))
    assert tangent == 0
    second = jax.jit(jax.hessian(sigmoid_cross_entropy, argnums=(0, 1)))(x, t)
    assert np.isfinite(second).all()


def test_second_derivatives_by_hand():
    hessian = jax.jit(jax.hessian(sigmoid_cross_entropy, argnums=(0, 1)))
    ((of_logit, mixed), (_, of_target)) = hessian(jnp.log(3.0), jnp.float32(1))
    np.testing.assert_allclose([of_logit, mixed, of_target], [0.75 * 0.25, -1, 0], rtol=1e-6)
    ((of_logit, _), _) = hessian(jnp.float32(1e4), jnp.float32(1))
    assert of_logit == 0


@pytest.mark.parametrize("logit", [0.0, -1.5, 20.0, 1e4, -1e4, np.inf, -np.inf])
def test_softplus_is_the_cross_entropy_of_the_target_0(logit):
    x = jnp.float32(logit)
    loss_and_slope = jax.value_and_grad(sigmoid_cross_entropy)(x, jnp.float32(0))
    assert jax.value_and_grad(softplus)(x) == loss_and_slope


def test_losses_of_every_size_keep_their_digits():
    x = np.linspace(-86, 86, 100_001, dtype=np.float32)
    np.testing.assert_allclose(softplus(jnp.asarray(x)), np.logaddexp(0, x.astype(float)), 2.5e-7)


def test_float64_is_exact():
    with enable_x64(True):
        x = np.linspace(-700, 700, 1001)
        np.testing.assert_allclose(softplus(jnp.asarray(x)), np.logaddexp(0, x), rtol=1e-14)


def test_nan_stays_nan():
    assert np.isnan(sigmoid_cross_entropy(jnp.float32(np.nan), jnp.float32(0)))
    assert np.isnan(softplus(jnp.float32(np.nan)))
