"""Smooth L1: where it is quadratic, where it is linear, and a beta that is traced."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import SmoothL1Loss, mean_loss, smooth_l1_loss
from vis4d_jax_loss._numerics import enable_x64


def gradient(loss, pred, **options):
    pred = jnp.asarray(pred)
    return jax.jit(jax.grad(lambda x: jnp.sum(loss(x, jnp.zeros_like(x), **options))))(pred)


def test_values_by_hand():
    pred, zero = jnp.array([0.0, 0.25, 1.0, 1.5, -1.0, -3.0]), jnp.zeros(6)
    np.testing.assert_allclose(smooth_l1_loss(pred, zero), [0, 0.25**2 / 2, 0.5, 1, 0.5, 2.5])
    np.testing.assert_allclose(
        smooth_l1_loss(pred, zero, beta=0.5), [0, 0.25**2, 0.75, 1.25, 0.75, 2.75]
    )


def test_slopes_by_hand():
    np.testing.assert_array_equal(gradient(smooth_l1_loss, [-1.0, 0.0, 1.0, 0.5]), [-1, 0, 1, 0.5])
    np.testing.assert_array_equal(gradient(smooth_l1_loss, [-0.5, 0.25], beta=0.5), [-1, 0.5])


def test_smooth_l1_is_continuous_at_beta():
    for beta in (1 / 9, 0.5, 1.0, 7.0):
        below, above = (smooth_l1_loss(jnp.float32(beta * f), 0.0, beta=beta) for f in (0.9999, 1))
        np.testing.assert_allclose(below, above, rtol=1e-3)
        np.testing.assert_allclose(above, beta / 2, rtol=1e-6)


@pytest.mark.parametrize("beta", [1e-46, 1e-9, 1 / 9, 0.5, 1.0, 7.0, 1e30])
def test_smooth_l1_of_a_long_axis_equals_that_of_a_short_one(beta):
    pred = jnp.array([0.0, 1e-30, 1e-3, 1 / 9, 0.4, -0.5, 1.0, -6.9, 7.0, 1e5, -1e30, jnp.inf])
    pred = jnp.tile(pred, 2)
    short, long = pred[:, None], pred
    losses, expected = (smooth_l1_loss(x, jnp.zeros_like(x), beta=beta) for x in (long, short))
    np.testing.assert_allclose(losses, expected[:, 0], rtol=3e-7)
    assert not np.signbit(losses).any()  # 0 would be printed as -0
    slopes = gradient(smooth_l1_loss, short, beta=beta)
    np.testing.assert_array_equal(gradient(smooth_l1_loss, long, beta=beta), slopes[:, 0])


@pytest.mark.parametrize("shape", ["n", "n, 4", "n, m"])
def test_export_with_symbolic_shapes(shape):
    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), jnp.float32)
    where = jax.ShapeDtypeStruct(x.shape[:1], bool)

    def loss(pred, target, where):
        return smooth_l1_loss(pred, target, mean_loss, where=where)

    exported = jax.export.export(jax.jit(jax.value_and_grad(loss)))(x, x, where)
    size = (2, 4)[: len(x.shape)]
    value, _ = exported.call(jnp.ones(size), jnp.zeros(size), jnp.array([True, False]))
    assert value == 0.5


@pytest.mark.parametrize("size", [3, 30])
def test_smooth_l1_with_an_infinite_beta_is_0(size):
    assert not smooth_l1_loss(jnp.ones(size), jnp.zeros(size), beta=jnp.inf).any()


@pytest.mark.parametrize("beta", [1e-9, 1e-30, 1e-46])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_smooth_l1_with_a_tiny_beta_is_l1(beta, dtype):
    pred = jnp.array([-2.0, 0.0, 3.0], dtype)
    np.testing.assert_allclose(smooth_l1_loss(pred, jnp.zeros(3, dtype), beta=beta), [2, 0, 3])
    np.testing.assert_array_equal(gradient(smooth_l1_loss, pred, beta=beta), [-1, 0, 1])


def test_beta_must_be_positive():
    message = "smooth_l1_loss: beta must be positive, got beta 0. For beta=0 use l1_loss."
    with raises(ValueError, message):
        smooth_l1_loss(1.0, 0.0, beta=0)


@functools.cache
def with_traced_beta():
    """Losses, and the gradients of their sum with respect to predictions and beta."""

    def step(pred, target, beta):
        def loss(pred, beta):
            losses = smooth_l1_loss(pred, target, beta=beta)
            return jnp.sum(losses), losses

        (_, losses), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(pred, beta)
        return losses, *gradients

    return jax.jit(step)


@pytest.mark.parametrize("beta", [1 / 9, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("length", [4, 20])  # both forms of the formula
def test_a_traced_beta_gives_the_same_losses_and_slopes(beta, length):
    pred = np.resize(np.float32([0.0, -0.0, beta, -beta, beta / 2, -3.0, 1e5]), (5, length))
    losses, slopes, _ = with_traced_beta()(pred, np.zeros_like(pred), beta)
    expected = smooth_l1_loss(pred, np.zeros_like(pred), beta=beta)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    np.testing.assert_allclose(slopes, gradient(smooth_l1_loss, pred, beta=beta), rtol=1e-6)
    assert not np.signbit(losses).any()


@pytest.mark.parametrize("length", [1, 16])
def test_the_gradient_of_beta_by_hand(length):
    # d/d beta of d^2 / (2 beta) is -d^2 / (2 beta^2); of |d| - beta / 2 it is -1 / 2.
    for error, expected in ((1.0, -(1**2) / (2 * 2**2)), (-3.0, -0.5), (2.0, -0.5), (0.0, 0)):
        pred = jnp.full(length, error)
        _, _, gradient = with_traced_beta()(pred, jnp.zeros(length), 2.0)
        np.testing.assert_allclose(gradient, length * expected)


@pytest.mark.parametrize("beta", [0.0, -1.0, 1e-45, 1e-38])
def test_a_traced_beta_that_is_not_positive_gives_l1(beta):
    pred = jnp.array([-2.0, 0.0, 3.0])
    losses, slopes, beta_slope = with_traced_beta()(pred, jnp.zeros(3), jnp.float32(beta))
    np.testing.assert_allclose(losses, [2, 0, 3])
    np.testing.assert_array_equal(slopes, [-1, 0, 1])
    assert np.isfinite(beta_slope)


def test_a_traced_beta_that_is_infinite_gives_0():
    losses, *gradients = with_traced_beta()(jnp.ones(3), jnp.zeros(3), jnp.float32(np.inf))
    np.testing.assert_array_equal(losses, 0)
    assert all(np.all(np.isfinite(g)) for g in gradients)


def test_large_integers_keep_their_difference_for_a_traced_beta():
    pred, target = jnp.array([100_000_001]), jnp.array([100_000_000])
    assert smooth_l1_loss(pred, target, beta=jnp.float32(1)) == 0.5  # 0 in float32
    assert smooth_l1_loss(pred, target) == 0.5


def test_a_beta_of_numpy_keeps_float32():
    with enable_x64(True):
        x = jnp.ones(2, jnp.float32)
        for beta in (np.float64(0.5), np.float32(0.5), jnp.float32(0.5)):
            losses = smooth_l1_loss(x, x * 0, beta=beta)
            assert losses.dtype == jnp.float32
            np.testing.assert_array_equal(losses, 0.75)


def test_a_schedule_of_beta_causes_one_trace():
    traces = []

    @jax.jit
    def step(pred, beta):
        traces.append(beta)
        return smooth_l1_loss(pred, jnp.zeros(2), mean_loss, beta)

    for beta in (1.0, 0.5, 0.25):
        assert step(jnp.array([3.0, -3.0]), beta) == 3 - beta / 2
    assert len(traces) == 1


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_the_second_derivative_at_0_is_the_inverse_of_beta(beta):
    second = jax.grad(jax.grad(lambda x: smooth_l1_loss(x, 0.0, beta=beta)))
    assert second(0.0) == second(0.9 * beta) == 1 / beta
    assert second(1.1 * beta) == 0


def test_the_module_equals_the_function():
    x = jnp.array([0.25, -3.0])
    loss = SmoothL1Loss(mean_loss, beta=0.5)(x, jnp.zeros(2))
    assert loss == (0.25**2 / (2 * 0.5) + (3 - 0.25)) / 2
