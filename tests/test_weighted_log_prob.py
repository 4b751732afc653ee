"""Negative log-probabilities with weights, in each form that computes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss.losses._weighted_log_prob import weighted_negative_log_prob

PROBS = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
LOGITS = np.log(PROBS).astype(np.float32) + 7
WEIGHTS = np.array([[1.0, 0.0, 2.0], [0.5, 0.25, 0.25]], np.float32)
LABELS = jnp.array([0, 2])
EVERY_PATH = pytest.mark.parametrize("axis", [0, 1])  # one class at a time, or all at once


def along(axis, x):
    """An array with the classes on an axis."""
    return jnp.asarray(x if axis == 1 else x.T)


def loss(logits, weights, axis, labels=LABELS, label_weights=None):
    return weighted_negative_log_prob(logits, labels, label_weights, weights, axis)


@EVERY_PATH
def test_value_and_gradients(axis):
    value, pullback = jax.vjp(
        lambda z, w: loss(z, w, axis), along(axis, LOGITS), along(axis, WEIGHTS)
    )
    np.testing.assert_allclose(value, -(WEIGHTS * np.log(PROBS)).sum(1), rtol=1e-6)
    of_logits, of_weights = (along(axis, g) for g in pullback(jnp.ones(2)))
    expected = WEIGHTS.sum(1, keepdims=True) * PROBS - WEIGHTS
    np.testing.assert_allclose(of_logits, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_weights, -np.log(PROBS), rtol=1e-6)


@EVERY_PATH
def test_the_label_has_a_weight_of_its_own(axis):
    weights = along(axis, np.full((1, 3), 0.5, np.float32))
    value = loss(along(axis, LOGITS), weights, axis, label_weights=jnp.array([2.0, 0.0]))
    expected = -0.5 * np.log(PROBS).sum(1) - [2 * np.log(0.5), 0]
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@EVERY_PATH
def test_a_negative_label_has_no_loss_and_no_gradient_for_any_logits(axis):
    logits = along(axis, np.where([[True], [False]], LOGITS, np.nan).astype(np.float32))

    def total(logits, weights):
        return loss(logits, weights, axis, jnp.array([0, -1])).sum()

    weights = along(axis, WEIGHTS)
    value, gradients = jax.jit(jax.value_and_grad(total, (0, 1)))(logits, weights)
    np.testing.assert_allclose(value, -np.log(0.5) - 2 * np.log(0.25), rtol=1e-6)
    for gradient in gradients:
        np.testing.assert_array_equal(along(axis, gradient)[1], 0)
        assert np.all(np.isfinite(gradient))
    for argument in (0, 1):
        hessian = jax.jit(jax.jacfwd(jax.grad(total, argument), 0))(logits, weights)
        assert np.all(np.isfinite(hessian))


@EVERY_PATH
def test_a_class_that_is_switched_off(axis):
    """Without a weight it costs nothing. With one the loss is infinite, its gradient finite."""
    logits = along(axis, np.where([[0, 1, 0], [0, 1, 0]], -np.inf, LOGITS))
    value, pullback = jax.vjp(lambda z, w: loss(z, w, axis), logits, along(axis, WEIGHTS))
    of_logits, of_weights = (along(axis, g) for g in pullback(jnp.ones(2)))
    np.testing.assert_allclose(value[0], -np.log(2 / 3) - 2 * np.log(1 / 3), rtol=1e-6)
    assert value[1] == np.inf
    np.testing.assert_allclose(of_logits[0], [1, 0, -1], atol=1e-6)
    np.testing.assert_allclose(of_logits[1], [1 / 9 - 0.5, -0.25, 8 / 9 - 0.25], rtol=1e-5)
    np.testing.assert_array_equal(of_weights[:, 1], 0)


@EVERY_PATH
def test_large_logits_neither_overflow_nor_cancel(axis):
    logits = along(axis, LOGITS + np.float32(2**20))
    same = np.asarray(logits) - np.float32(2**20)  # what float32 keeps
    np.testing.assert_allclose(
        loss(logits, along(axis, WEIGHTS), axis),
        loss(jnp.asarray(same), along(axis, WEIGHTS), axis),
        rtol=1e-6,
    )
    huge = along(axis, np.float32([[1e30, -1e30, 0], [0, 0, 1e30]]))
    one_hot = along(axis, np.float32([[1, 0, 0], [0, 0, 1]]))
    np.testing.assert_array_equal(loss(huge, one_hot, axis), 0)


@pytest.mark.parametrize("count", [1, 64, 65])
@EVERY_PATH
def test_any_number_of_classes(axis, count):
    rng = np.random.default_rng(0)
    logits, weights = rng.normal(size=(2, 2, count)).astype(np.float32)
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    value = jax.jit(loss, static_argnums=2)(along(axis, logits), along(axis, weights), axis)
    np.testing.assert_allclose(value, -(weights * log_probs).sum(1), rtol=2e-5, atol=1e-5)
