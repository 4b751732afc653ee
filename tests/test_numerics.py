"""Each guard alone: its value and its gradient at the point it is there for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss._numerics import absolute, blank, clamp, cover, safe_divide, to_float


def gradients(fn, x):
    return jax.jit(jax.vmap(jax.grad(fn)))(jnp.asarray(x))


def test_absolute_has_gradient_0_at_0():
    x = [-2.0, -0.0, 0.0, 3.0, -jnp.inf]
    np.testing.assert_array_equal(absolute(jnp.asarray(x)), [2, 0, 0, 3, jnp.inf])
    np.testing.assert_array_equal(gradients(absolute, x), [-1, 0, 0, 1, -1])
    assert jnp.isnan(absolute(jnp.nan * jnp.ones(())))


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
