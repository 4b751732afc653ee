"""Each function alone: its value and its gradient at the point that it guards."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss._numerics import (
    clamp,
    count_true,
    enable_x64,
    even_in_difference,
    expand_mask,
    fill_masked,
    safe_divide,
    to_common_float,
    to_float,
)


def gradients(function, x):
    """The derivative at each element of x."""
    return jax.jit(jax.vmap(jax.grad(function)))(jnp.asarray(x))


@pytest.mark.parametrize("size", [0, 5, 2**24 + 1])
def test_count_true_is_exact(size):
    assert count_true(jnp.ones(size, bool)) == size  # in float32, 2**24 + 1 would be 2**24


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_even_in_difference_uses_the_given_derivative(dtype):
    x, zero = jnp.array([-2.0, -0.0, 0.0, 3.0, -jnp.inf], dtype), jnp.zeros((), dtype)
    absolute = partial(even_in_difference, jnp.abs, jnp.sign)  # jnp.abs alone has slope 1 at 0
    np.testing.assert_array_equal(absolute(x, zero + 1), [3, 1, 1, 2, jnp.inf])
    np.testing.assert_array_equal(gradients(lambda x: absolute(x, zero), x), [-1, 0, 0, 1, -1])
    np.testing.assert_array_equal(gradients(lambda x: absolute(zero, x), x), [-1, 0, 0, 1, -1])
    assert jnp.isnan(absolute(zero * jnp.nan, zero))


def test_even_in_difference_subtracts_mixed_dtypes_in_float32():
    half, single = jnp.bfloat16(1), jnp.float32(1 + 2**-20)
    assert even_in_difference(jnp.abs, jnp.sign, half, single) == 2**-20  # 0 in bfloat16


def test_clamp_passes_the_whole_gradient_at_its_borders():
    x = [-0.5, 0.0, 0.5, 1.0, 1.5]
    np.testing.assert_array_equal(clamp(jnp.asarray(x), 0.0, 1.0), [0, 0, 0.5, 1, 1])
    np.testing.assert_array_equal(gradients(lambda x: clamp(x, 0.0, 1.0), x), [0, 1, 1, 1, 0])


def test_safe_divide_by_zero_has_zero_value_and_gradient():
    divide = jax.jit(jax.value_and_grad(safe_divide, argnums=(0, 1)))
    assert divide(1.0, 0.0) == (0, (0, 0))
    assert divide(0.0, 0.0) == (0, (0, 0))
    assert divide(1.0, -2.0) == (-0.5, (-0.5, -0.25))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf, 1e38])
def test_fill_masked_keeps_padding_out_of_value_and_gradient(bad):
    where = jnp.array([True, False])

    def loss(x):
        return jnp.sum(jnp.exp(fill_masked(x, where) ** 2))

    value, gradient = jax.value_and_grad(loss)(jnp.array([[1.0], [bad]]))
    np.testing.assert_allclose(value, np.e + 1, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[2 * np.e], [0]], rtol=1e-6)


def test_fill_masked_without_a_mask_changes_nothing():
    x = jnp.array([1.0, jnp.nan])
    assert fill_masked(x, None) is x
    np.testing.assert_array_equal(fill_masked(x, jnp.array([True, False]), 7.0), [1, 7])


def test_expand_mask_covers_leading_axes_only():
    where = jnp.array([True, False])
    np.testing.assert_array_equal(expand_mask(where, (2, 2)), [[True, True], [False, False]])
    assert expand_mask(True, (2, 3)).all()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.int8, jnp.int32, jnp.float32])
def test_to_float_casts_to_float32(dtype):
    assert to_float(jnp.ones(2, dtype)).dtype == jnp.float32


def test_the_gradient_of_to_float_has_the_dtype_of_the_input():
    assert jax.grad(lambda x: to_float(x) ** 2)(jnp.bfloat16(3)) == jnp.bfloat16(6)


def test_float64_stays_float64():
    with enable_x64(True):
        x, y = to_common_float(jnp.ones(2, jnp.float64), jnp.ones(2, jnp.float16))
        assert to_float(x).dtype == x.dtype == y.dtype == jnp.float64


def test_enable_x64_ends_with_its_block():
    with enable_x64(True):
        assert jnp.ones(()).dtype == jnp.float64
    assert jnp.ones(()).dtype == jnp.float32
