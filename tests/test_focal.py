"""Cross-entropy weighted by a power of the probability of a mistake, where a plain power fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss._numerics import enable_x64
from vis4d_jax_loss.losses._focal import focal_of_cross_entropy, focal_of_logits, power

LOGITS = np.float32([0, 1, -3, 15, -15, 60, -60, 200, -200, 1e4, -1e4, np.inf, -np.inf])
GAMMAS = [0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 2.5]


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def oracle(x, t, gamma):
    """The formula and its derivative in float64; infinite logits count as 1e30."""
    x, t = np.clip(np.float64(x), -1e30, 1e30), np.float64(t)
    cost = (1 - t) * np.logaddexp(0, x) + t * np.logaddexp(0, -x)
    mistake = (1 - t) * sigmoid(x) + t * sigmoid(-x)
    spread = (1 - 2 * t) * sigmoid(x) * sigmoid(-x)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = gamma * mistake ** (gamma - 1) * spread * cost
    slope = np.where(mistake == 0, 0, slope)
    return mistake**gamma * cost, mistake**gamma * (sigmoid(x) - t) + slope


def as_dtype(target, hard):
    return jnp.full(LOGITS.shape, target, bool if hard else jnp.float32)


HARD = pytest.mark.parametrize(
    ("target", "hard"), [(0, True), (1, True), (0, False), (1, False), (0.3, False), (0.9, False)]
)


@HARD
@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_value_and_gradient_at_every_logit_and_power(gamma, target, hard, traced):
    def loss(x, gamma):
        losses = focal_of_logits(x, as_dtype(target, hard), gamma)
        return losses.sum(), losses

    step = jax.jit(jax.grad(loss, has_aux=True), static_argnums=() if traced else 1)
    slopes, losses = step(jnp.asarray(LOGITS), gamma)
    expected, expected_slopes = oracle(LOGITS, target, gamma)
    np.testing.assert_allclose(losses, expected, rtol=3e-5, atol=1e-9)
    np.testing.assert_allclose(slopes, expected_slopes, rtol=3e-5, atol=3e-7)


@HARD
@pytest.mark.parametrize("gamma", GAMMAS)
def test_derivatives_of_higher_orders_are_finite(gamma, target, hard):
    def loss(x):
        return focal_of_logits(x, jnp.asarray(target, bool if hard else jnp.float32), gamma)

    second = jax.grad(jax.grad(loss))
    for derivative in (second, jax.grad(second)):
        assert np.isfinite(jax.jit(jax.vmap(derivative))(jnp.asarray(LOGITS))).all()


@HARD
def test_the_gradient_of_gamma_by_hand(target, hard):
    def loss(gamma):
        return focal_of_logits(jnp.asarray(LOGITS), as_dtype(target, hard), gamma).sum()

    for gamma in (0.0, 0.5, 2.0):
        x = LOGITS.astype(float)
        mistake = (1 - target) * sigmoid(x) + target * sigmoid(-x)
        losses, _ = oracle(x, target, gamma)
        expected = np.where(mistake == 0, 0, losses * np.log(np.where(mistake == 0, 1, mistake)))
        np.testing.assert_allclose(jax.grad(loss)(gamma), expected.sum(), rtol=1e-5, atol=1e-6)


def test_a_target_that_is_almost_hard_has_finite_derivatives():
    # The probability of a mistake and its share of the target are both tiny here.
    def loss(x):
        return focal_of_logits(x, jnp.float32(1e-30), 0.5)

    third = jax.grad(jax.grad(jax.grad(loss)))
    for x in jnp.float32([-60, -69, -80, -1e4]):
        assert np.isfinite([loss(x), jax.grad(loss)(x), third(x)]).all()


COSTS = np.float32([0, 1e-38, 1e-9, 1e-4, 0.1, 1, 10, 40, 80, 1e4, np.inf])


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_focal_of_a_cross_entropy(gamma, traced):
    def loss(cost, gamma):
        losses = focal_of_cross_entropy(cost, gamma)
        return losses.sum(), losses

    step = jax.jit(jax.grad(loss, has_aux=True), static_argnums=() if traced else 1)
    slopes, losses = step(jnp.asarray(COSTS), gamma)
    cost = np.minimum(np.float64(COSTS), 1e30)
    mistake = -np.expm1(-cost)
    with np.errstate(invalid="ignore"):
        ratio = np.where(cost == 0, 1, cost / np.expm1(np.minimum(cost, 700)))
    np.testing.assert_allclose(losses, mistake**gamma * np.float64(COSTS), rtol=1e-5, atol=1e-7)
    # Below a cost of 1e-7, which is rounding error, the slope stays what it is there.
    flat = np.maximum(mistake, np.finfo(np.float32).eps)
    np.testing.assert_allclose(slopes, flat**gamma * (1 + gamma * ratio), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_derivatives_of_higher_orders_of_a_cross_entropy_are_finite(gamma):
    second = jax.grad(jax.grad(focal_of_cross_entropy))
    for derivative in (second, jax.grad(second)):
        higher = jax.jit(jax.vmap(lambda cost, f=derivative: f(cost, gamma)))
        assert np.isfinite(higher(jnp.asarray(COSTS))).all()


def test_float64_keeps_its_digits():
    with enable_x64(True):
        x = np.linspace(-30, 30, 61)
        losses = focal_of_logits(jnp.asarray(x), jnp.full(x.shape, True), 0.5)
        np.testing.assert_allclose(losses, oracle(x, 1, 0.5)[0], rtol=1e-13)
        losses = focal_of_cross_entropy(jnp.asarray(np.abs(x)), 0.5)
        np.testing.assert_allclose(losses, np.sqrt(-np.expm1(-np.abs(x))) * np.abs(x), rtol=1e-13)


@pytest.mark.parametrize("exponent", [0, 1, 3, 0.5, 9, np.float64(2), jnp.float32(1.5)])
def test_power(exponent):
    x = np.float32([0.25, 1])
    np.testing.assert_allclose(power(jnp.asarray(x), exponent), x ** float(exponent), rtol=1e-6)


def test_a_whole_power_is_computed_by_multiplications():
    for gamma, expected in ((2, False), (2.0, False), (1.5, True)):
        program = str(jax.make_jaxpr(lambda x, g=gamma: power(x, g))(jnp.ones(2)))
        assert ("log" in program) == expected
