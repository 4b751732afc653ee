"""The sigmoid and heatmap focal losses: weights, centres, exponents that are traced, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_text import raises

from vis4d_jax_loss import (
    HeatmapFocalLoss,
    SigmoidFocalLoss,
    binary_cross_entropy,
    heatmap_focal_loss,
    mean_loss,
    sigmoid_focal_loss,
    sum_loss,
)
from vis4d_jax_loss._numerics import enable_x64

LOGITS = np.log(np.float32([1, 3, 3, 1 / 3]))  # probabilities 1/2, 3/4, 3/4, 1/4
TARGET = np.array([1, 1, 0, 0])
MISTAKE = np.array([1 / 2, 1 / 4, 3 / 4, 1 / 4])
COST = -np.log(1 - MISTAKE)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float16, np.float32])
def test_sigmoid_focal_by_hand(dtype):
    loss = sigmoid_focal_loss(LOGITS, TARGET.astype(dtype))
    alpha = np.where(TARGET, 0.25, 0.75)
    np.testing.assert_allclose(loss, alpha * MISTAKE**2 * COST, rtol=1e-6)
    assert loss.dtype == jnp.float32


@pytest.mark.parametrize("alpha", [0, 1, 0.25, None])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1, 2.0])
def test_sigmoid_focal_equals_that_of_optax(alpha, gamma):
    logits = jnp.linspace(-5, 5, 12)
    target = jnp.tile(jnp.array([0.0, 0.3, 1.0]), 4)
    step = jax.value_and_grad(lambda x: sigmoid_focal_loss(x, target, sum_loss, alpha, gamma))
    expected = jax.value_and_grad(
        lambda x: optax.sigmoid_focal_loss(x, target, alpha=alpha, gamma=gamma).sum()
    )
    for actual, other in zip(step(logits), expected(logits), strict=True):
        np.testing.assert_allclose(actual, other, rtol=2e-5, atol=1e-6)


def test_a_gamma_of_0_is_binary_cross_entropy():
    logits = jnp.float32([-jnp.inf, -1e4, -3, 0, 3, 1e4])
    for target in (jnp.zeros(6), jnp.full(6, 0.3), jnp.ones(6)):
        both = jax.value_and_grad(lambda x, t: sigmoid_focal_loss(x, t, sum_loss, None, 0.0))
        expected = jax.value_and_grad(lambda x, t: binary_cross_entropy(x, t, sum_loss))
        for actual, other in zip(both(logits, target), expected(logits, target), strict=True):
            np.testing.assert_allclose(actual, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("alpha", "kept"), [(0, [0, 0, 1, 1]), (1, [1, 1, 0, 0])])
def test_an_alpha_of_0_or_1_counts_one_kind_alone(alpha, kept):
    step = jax.vmap(jax.value_and_grad(lambda x, t: sigmoid_focal_loss(x, t, alpha=alpha)))
    losses, slopes = step(jnp.asarray(LOGITS), jnp.asarray(TARGET))
    np.testing.assert_allclose(losses, kept * MISTAKE**2 * COST, rtol=1e-6)
    np.testing.assert_array_equal(slopes != 0, np.array(kept, bool))


@pytest.mark.parametrize("loss", [sigmoid_focal_loss, heatmap_focal_loss])
def test_targets_are_constants(loss):
    target = jnp.array([0.0, 0.25, 0.75, 1.0])
    gradient = jax.grad(lambda t: loss(jnp.asarray(LOGITS), t, sum_loss))(target)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("loss", [sigmoid_focal_loss, heatmap_focal_loss])
@pytest.mark.parametrize("logits", [[-jnp.inf, -1e4], [jnp.inf, 1e4]])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_certain_predictions_have_finite_gradients(loss, logits, exponent):
    """A power below 1 of a probability of 0 has no derivative, and torchvision gives NaN here."""

    def step(x, target):
        return loss(x, target, sum_loss, 0.5, exponent)

    logits = jnp.float32(logits)
    right = jnp.full(2, logits[0] > 0, jnp.float32)
    value, gradient = jax.value_and_grad(step)(logits, right)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    value, gradient = jax.value_and_grad(step)(logits, 1 - right)
    assert value > 4e3
    np.testing.assert_allclose(gradient, gradient[0])
    assert np.all(gradient * jnp.sign(logits) > 0.4)


def test_alpha_and_gamma_may_be_traced_and_cause_one_trace():
    traces = []

    @jax.jit
    def step(logits, alpha, gamma):
        traces.append(gamma)
        return sigmoid_focal_loss(logits, TARGET, sum_loss, alpha, gamma)

    for alpha, gamma in ((0.25, 2.0), (0.5, 0.5), (1.0, 0.0)):
        weight = np.where(TARGET, alpha, 1 - alpha)
        expected = (weight * MISTAKE**gamma * COST).sum()
        np.testing.assert_allclose(step(LOGITS, alpha, gamma), expected, rtol=1e-6)
    assert len(traces) == 1
    of_alpha, of_gamma = jax.grad(step, argnums=(1, 2))(LOGITS, 0.5, 1.0)
    np.testing.assert_allclose(of_alpha, (np.where(TARGET, 1, -1) * MISTAKE * COST).sum(), 1e-5)
    np.testing.assert_allclose(of_gamma, (0.5 * MISTAKE * np.log(MISTAKE) * COST).sum(), 1e-5)


def test_heatmap_by_hand():
    target = jnp.array([1.0, 1.0, 0.5, 0.0])
    loss = heatmap_focal_loss(LOGITS, target)
    np.testing.assert_allclose(loss, np.array([1, 1, 0.5**4, 1]) * MISTAKE**2 * COST, rtol=1e-6)
    loss = heatmap_focal_loss(LOGITS, target, alpha=0.5, beta=1.5)
    np.testing.assert_allclose(loss, [1, 1, 0.5**1.5, 1] * np.sqrt(MISTAKE) * COST, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float32, np.float64])
def test_only_exactly_1_is_a_centre(dtype):
    with enable_x64(dtype == np.float64):
        one = jnp.ones((), dtype)
        below = one - jnp.finfo(dtype).epsneg
        loss = np.asarray(heatmap_focal_loss(jnp.full(2, -3.0), jnp.stack([one, below])))
    np.testing.assert_allclose(loss[0], (1 / (1 + np.exp(-3))) ** 2 * np.log1p(np.exp(3)), 1e-6)
    assert loss[1] < 1e-8


@pytest.mark.parametrize("dtype", [bool, np.int32, np.uint8])
def test_centres_may_be_boolean_or_integers(dtype):
    loss = heatmap_focal_loss(LOGITS, TARGET.astype(dtype))
    np.testing.assert_allclose(loss, MISTAKE**2 * COST, rtol=1e-6)


def test_exponents_of_a_heatmap_may_be_traced():
    target = jnp.array([1.0, 1.0, 0.5, 0.0])

    def loss(alpha, beta):
        return heatmap_focal_loss(LOGITS, target, sum_loss, alpha, beta)

    value, (of_alpha, of_beta) = jax.jit(jax.value_and_grad(loss, (0, 1)))(2.0, 4.0)
    np.testing.assert_allclose(value, loss(2, 4), rtol=1e-6)
    losses = np.array([1, 1, 0.5**4, 1]) * MISTAKE**2 * COST
    np.testing.assert_allclose(of_alpha, (losses * np.log(MISTAKE)).sum(), rtol=1e-5)
    np.testing.assert_allclose(of_beta, losses[2] * np.log(0.5), rtol=1e-5)


@pytest.mark.parametrize("exponent", [np.float64(2), np.float32(0.5), jnp.float32(2)])
def test_exponents_of_numpy_keep_float32(exponent):
    with enable_x64(True):
        logits, target = jnp.asarray(LOGITS), jnp.asarray(TARGET, jnp.float32)
        assert sigmoid_focal_loss(logits, target, gamma=exponent).dtype == jnp.float32
        assert sigmoid_focal_loss(logits, target, alpha=np.float64(0.5)).dtype == jnp.float32
        loss = heatmap_focal_loss(logits, target, alpha=exponent, beta=exponent)
        assert loss.dtype == jnp.float32


def test_the_modules_equal_the_functions():
    loss = SigmoidFocalLoss(mean_loss, None, 1.5)(LOGITS, TARGET)
    assert loss == sigmoid_focal_loss(LOGITS, TARGET, mean_loss, None, 1.5)
    loss = HeatmapFocalLoss(mean_loss, 1.0, 3.0)(LOGITS, TARGET)
    assert loss == heatmap_focal_loss(LOGITS, TARGET, mean_loss, 1.0, 3.0)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: sigmoid_focal_loss(np.zeros((8, 4)), np.zeros(8)),
            ValueError,
            "sigmoid_focal_loss: output and target must have the same shape, got output (8, 4) and target (8,).",
        ),
        (
            lambda: sigmoid_focal_loss(0.0, 0.0, alpha=-1),
            ValueError,
            "sigmoid_focal_loss: alpha must be from 0 to 1, got alpha -1. For no weights pass alpha=None.",
        ),
        (
            lambda: SigmoidFocalLoss(gamma=-0.5),
            ValueError,
            "SigmoidFocalLoss: gamma must not be negative, got gamma -0.5.",
        ),
        (
            lambda: SigmoidFocalLoss(alpha=2.0),
            ValueError,
            "SigmoidFocalLoss: alpha must be from 0 to 1, got alpha 2.0. For no weights pass alpha=None.",
        ),
        (
            lambda: sigmoid_focal_loss(np.zeros(2), np.zeros(2), gamma=[1.0, 2.0]),
            TypeError,
            "sigmoid_focal_loss: gamma must be a number, got gamma [1.0, 2.0].",
        ),
        (
            lambda: heatmap_focal_loss(np.zeros((2, 1)), np.zeros((1, 2))),
            ValueError,
            "heatmap_focal_loss: output and target must have the same shape, got output (2, 1) and target (1, 2). Losses never broadcast: (N,) against (N, 1) would silently average N * N pairs.",
        ),
        (
            lambda: HeatmapFocalLoss(beta=-1),
            ValueError,
            "HeatmapFocalLoss: beta must not be negative, got beta -1.",
        ),
    ],
)
def test_mistakes_are_errors(call, kind, message):
    with raises(kind, message):
        call()
