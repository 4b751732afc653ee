"""Sine and cosine: as accurate as float32 allows, and each the other's derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss._numerics import enable_x64
from vis4d_jax_loss.losses._sine_cosine import sine_and_cosine


def gradients(function, x):
    """The derivative at each element of x."""
    return jax.jit(jax.vmap(jax.grad(function)))(jnp.asarray(x))


def sine(x):
    return sine_and_cosine(x)[0]


def cosine(x):
    return sine_and_cosine(x)[1]


@pytest.mark.parametrize("limit", [1.0, 4.0, 100.0, 1e4, 1e6])
@pytest.mark.parametrize("compiled", [True, False])
def test_both_are_accurate_up_to_rounding(limit, compiled):
    turns = np.arange(-9, 10) * np.pi / 4  # where one polynomial takes over from the other
    angles = np.random.default_rng(0).uniform(-limit, limit, 100_000)
    angles = np.concatenate([turns, np.nextafter(turns, 9), angles]).astype(np.float32)
    # Not compiled, each operation rounds. Compiled, a product and its sum may round once.
    compute = jax.jit(sine_and_cosine) if compiled else sine_and_cosine
    sines, cosines = compute(jnp.asarray(angles))
    tolerance = 1.2e-7 if limit <= 1e4 else np.spacing(np.float32(limit))
    np.testing.assert_allclose(sines, np.sin(angles.astype(float)), rtol=0, atol=tolerance)
    np.testing.assert_allclose(cosines, np.cos(angles.astype(float)), rtol=0, atol=tolerance)


def test_small_angles_keep_their_digits():
    angles = np.array([0.0, 1e-30, -1e-8, 1e-3, -0.1], np.float32)
    sines, cosines = sine_and_cosine(jnp.asarray(angles))
    np.testing.assert_allclose(sines, np.sin(angles.astype(float)), rtol=1.2e-7)
    np.testing.assert_allclose(cosines, np.cos(angles.astype(float)), rtol=1.2e-7)


@pytest.mark.parametrize("huge", [3e7, 1e12, -3e38])
def test_huge_angles_stay_within_1(huge):
    for value in sine_and_cosine(jnp.float32(huge)):
        assert -1 <= value <= 1


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_angles_that_are_not_finite_give_nan(bad):
    assert all(jnp.isnan(x) for x in sine_and_cosine(jnp.float32(bad)))


def test_each_is_the_derivative_of_the_other():
    angles = jnp.linspace(-7, 7, 41)
    np.testing.assert_array_equal(gradients(sine, angles), cosine(angles))
    np.testing.assert_array_equal(gradients(cosine, angles), -sine(angles))
    np.testing.assert_array_equal(gradients(jax.grad(sine), angles), -sine(angles))


def test_float64_uses_the_functions_of_jax():
    with enable_x64(True):
        values = sine_and_cosine(jnp.float64(1.25))
        np.testing.assert_allclose(values, [np.sin(1.25), np.cos(1.25)], rtol=1e-15)
