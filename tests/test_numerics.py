"""Each guard alone: its value and its gradient at the point it is there for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss._numerics import (
    blank,
    clamp,
    count,
    cover,
    of_difference,
    safe_divide,
    sine_and_cosine,
    to_float,
)


def gradients(fn, x):
    return jax.jit(jax.vmap(jax.grad(fn)))(jnp.asarray(x))


@pytest.mark.parametrize("size", [0, 5, 2**24 + 1])
def test_count_is_exact(size):
    assert count(jnp.ones(size, bool)) == size  # in float32, 2**24 + 1 would be 2**24


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_of_difference_takes_its_derivative_as_it_is_given(dtype):
    x, zero = jnp.array([-2.0, -0.0, 0.0, 3.0, -jnp.inf], dtype), jnp.zeros((), dtype)
    absolute = partial(of_difference, jnp.abs, jnp.sign)  # jnp.abs alone has 1 at 0
    np.testing.assert_array_equal(absolute(x, zero + 1), [3, 1, 1, 2, jnp.inf])
    np.testing.assert_array_equal(gradients(lambda x: absolute(x, zero), x), [-1, 0, 0, 1, -1])
    np.testing.assert_array_equal(gradients(lambda x: absolute(zero, x), x), [-1, 0, 0, 1, -1])
    assert jnp.isnan(absolute(zero * jnp.nan, zero))


def test_clamp_passes_the_gradient_at_its_borders():
    x = [-0.5, 0.0, 0.5, 1.0, 1.5]
    np.testing.assert_array_equal(clamp(jnp.asarray(x), 0.0, 1.0), [0, 0, 0.5, 1, 1])
    np.testing.assert_array_equal(gradients(lambda x: clamp(x, 0.0, 1.0), x), [0, 1, 1, 1, 0])


def test_safe_divide_gives_0_and_0_for_a_zero_denominator():
    divide = jax.jit(jax.value_and_grad(safe_divide, argnums=(0, 1)))
    assert divide(1.0, 0.0) == (0, (0, 0))
    assert divide(0.0, 0.0) == (0, (0, 0))
    assert divide(1.0, -2.0) == (-0.5, (-0.5, -0.25))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf, 1e38])
def test_blank_hides_padding_from_value_and_gradient(bad):
    where = jnp.array([True, False])

    def loss(x):
        return jnp.sum(jnp.exp(blank(x, where) ** 2))

    value, gradient = jax.value_and_grad(loss)(jnp.array([[1.0], [bad]]))
    np.testing.assert_allclose(value, np.e + 1, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[2 * np.e], [0]], rtol=1e-6)


def test_cover_spreads_a_mask_over_leading_axes_only():
    where = jnp.array([True, False])
    np.testing.assert_array_equal(cover(where, (2, 2)), [[True, True], [False, False]])
    assert cover(True, (2, 3)).all()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.int8, jnp.int32, jnp.float32])
def test_to_float_brings_every_narrow_type_to_float32(dtype):
    (x,) = to_float(jnp.ones(2, dtype))
    assert x.dtype == jnp.float32


def test_to_float_keeps_float64():
    with jax.enable_x64(True):
        x, y = to_float(jnp.ones(2, jnp.float64), jnp.ones(2, jnp.float16))
    assert x.dtype == y.dtype == jnp.float64


@pytest.mark.parametrize("limit", [1.0, 4.0, 100.0, 1e4, 1e6])
@pytest.mark.parametrize("compiled", [True, False])
def test_sine_and_cosine_are_exact_to_a_rounding(limit, compiled):
    turns = np.arange(-9, 10) * np.pi / 4  # between quadrants one half changes into the other
    angles = np.random.default_rng(0).uniform(-limit, limit, 100_000)
    angles = np.concatenate([turns, np.nextafter(turns, 9), angles]).astype(np.float32)
    # Alone, each operation rounds; fused, a product and its sum may round once.
    compute = jax.jit(sine_and_cosine) if compiled else sine_and_cosine
    sine, cosine = compute(jnp.asarray(angles))
    tolerance = 1.2e-7 if limit <= 1e4 else np.spacing(np.float32(limit))
    np.testing.assert_allclose(sine, np.sin(angles.astype(np.float64)), rtol=0, atol=tolerance)
    np.testing.assert_allclose(cosine, np.cos(angles.astype(np.float64)), rtol=0, atol=tolerance)


def test_sine_and_cosine_of_a_small_angle_keep_its_digits():
    angles = np.array([0.0, 1e-30, -1e-8, 1e-3, -0.1], np.float32)
    sine, cosine = sine_and_cosine(jnp.asarray(angles))
    np.testing.assert_allclose(sine, np.sin(angles.astype(np.float64)), rtol=1.2e-7)
    np.testing.assert_allclose(cosine, np.cos(angles.astype(np.float64)), rtol=1.2e-7)


@pytest.mark.parametrize("huge", [3e7, 1e12, -3e38])
def test_sine_and_cosine_of_a_huge_angle_stay_within_1(huge):
    for value in sine_and_cosine(jnp.float32(huge)):
        assert -1 <= value <= 1


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_sine_and_cosine_of_no_angle_are_nan(bad):
    assert all(jnp.isnan(x) for x in sine_and_cosine(jnp.float32(bad)))


def test_sine_and_cosine_are_each_others_derivative():
    angles = jnp.linspace(-7, 7, 41)
    sine, cosine = sine_and_cosine(angles)
    np.testing.assert_array_equal(gradients(lambda x: sine_and_cosine(x)[0], angles), cosine)
    np.testing.assert_array_equal(gradients(lambda x: sine_and_cosine(x)[1], angles), -sine)
    second = gradients(jax.grad(lambda x: sine_and_cosine(x)[0]), angles)
    np.testing.assert_array_equal(second, -sine)


def test_sine_and_cosine_keep_float64():
    with jax.enable_x64(True):
        sine, cosine = sine_and_cosine(jnp.float64(1.25))
        np.testing.assert_allclose([sine, cosine], [np.sin(1.25), np.cos(1.25)], rtol=1e-15)
