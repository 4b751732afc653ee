"""Each function alone: its value and its gradient at the point that it guards."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.jet import jet

from vis4d_jax_loss._numerics import (
    as_array,
    clamp,
    count_true,
    difference,
    enable_x64,
    even_in_difference,
    expand_mask,
    fill_masked,
    in_one_loop,
    integer_difference,
    is_integer,
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


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32])
def test_count_true_along_axes(dtype):
    mask = jnp.array([[True, False, True], [False, False, True]])
    for axes, expected in (((0,), [1, 0, 2]), ((1,), [2, 1]), ((0, 1), 3), ((), mask), (None, 3)):
        counts = count_true(mask, dtype, axes)
        assert counts.dtype == dtype
        np.testing.assert_array_equal(counts, expected)


# Shapes whose last axis, first axis or product is beyond int32; the shapes alone are traced.
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2**31,), (0,)),
        ((2**33 + 1,), (0,)),
        ((2**16, 2**16), (0, 1)),
        ((3, 2**31), (0, 1)),
        ((2**31, 3), (0,)),
    ],
)
def test_counts_beyond_int32_are_traced_as_floats(shape, axes):
    mask = jax.ShapeDtypeStruct(shape, bool)
    count = partial(count_true, dtype=jnp.float32, axis=axes)
    program = jax.make_jaxpr(count)(mask)
    (result,) = program.out_avals
    assert result.shape == tuple(n for i, n in enumerate(shape) if i not in axes)
    assert result.dtype == jnp.float32
    for step in program.eqns:
        if step.primitive.name == "reduce_sum" and step.outvars[0].aval.dtype == jnp.int32:
            summed = [step.invars[0].aval.shape[i] for i in step.params["axes"]]
            assert np.prod(summed, dtype=object) < 2**31  # an integer sum that cannot wrap


@pytest.mark.parametrize("shape", [(2**31,), (2**31 + 2**9,), (3 * 2**30,), (2**16, 2**15)])
def test_counts_of_more_than_int32_holds(shape):
    count = jax.jit(lambda x: count_true(jnp.broadcast_to(x, shape), jnp.float32))
    assert count(jnp.array(True)) == np.prod(shape, dtype=float)


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


def test_even_in_difference_of_integers_rounds_once():
    absolute = partial(even_in_difference, jnp.abs, jnp.sign)
    assert absolute(jnp.int32(100_000_001), jnp.int32(100_000_000)) == 1  # 0 in float32
    assert absolute(jnp.uint8(1), jnp.int8(-1)) == 2


def test_even_in_difference_has_derivatives_of_every_order():
    cube = partial(even_in_difference, lambda x: jnp.abs(x) ** 3, lambda x: 3 * x * jnp.abs(x))
    for argument, sign in ((0, 1), (1, -1)):
        first = jax.grad(cube, argument)
        assert first(jnp.float32(5), jnp.float32(3)) == sign * 3 * 2**2
        assert jax.grad(first, argument)(jnp.float32(5), jnp.float32(3)) == 6 * 2
        assert jax.grad(first, 1 - argument)(jnp.float32(5), jnp.float32(3)) == -6 * 2


def test_even_in_difference_has_a_taylor_series():
    square = partial(even_in_difference, jnp.square, lambda x: 2 * x)
    value, terms = jet(lambda x: square(x, jnp.float32(1)), (jnp.float32(3),), ((1.0, 0.0),))
    np.testing.assert_allclose([value, *terms], [(3 - 1) ** 2, 2 * (3 - 1), 2], rtol=1e-5)


INTEGERS = [
    (jnp.int32, 2**31 - 1, jnp.int32, -(2**31)),
    (jnp.int32, -(2**31), jnp.int32, 2**31 - 1),
    (jnp.int32, 100_000_001, jnp.int32, 100_000_000),
    (jnp.uint32, 2**32 - 1, jnp.uint32, 2**32 - 2),
    (jnp.uint32, 0, jnp.uint32, 2**32 - 1),
    (jnp.uint32, 2**32 - 1, jnp.int32, -(2**31)),
    (jnp.int32, -(2**31), jnp.uint32, 2**32 - 1),
    (jnp.uint8, 0, jnp.uint8, 255),
    (jnp.int8, -128, jnp.uint16, 65_535),
    (jnp.int16, -(2**15), jnp.uint32, 2**32 - 1),
]


@pytest.mark.parametrize(("kind_a", "a", "kind_b", "b"), INTEGERS)
def test_integers_of_any_dtype_are_subtracted_exactly_and_rounded_once(kind_a, a, kind_b, b):
    step = jax.jit(integer_difference)
    for left, right, expected in ((kind_a(a), kind_b(b), a - b), (kind_b(b), kind_a(a), b - a)):
        assert step(left, right) == np.float32(expected)
        assert difference(left, right) == np.float32(expected)


def test_integers_of_64_bits_are_subtracted_exactly():
    with enable_x64(True):
        big = jnp.int64(2**53)
        assert integer_difference(big, big - 1) == 1
        assert integer_difference(big, jnp.int32(0)) == 2.0**53
        assert integer_difference(big, big).dtype == jnp.float32


def test_difference_of_floats_is_in_float32_or_better():
    assert difference(jnp.bfloat16(1), jnp.float32(1 + 2**-20)) == -(2.0**-20)  # 0 in bfloat16
    assert difference(jnp.int32(1), jnp.float16(0.5)) == 0.5
    with enable_x64(True):
        result = difference(jnp.float64(1), jnp.float32(1))
        assert result.dtype == jnp.float64


def test_as_array_returns_an_array_as_it_is():
    x = jnp.array([1.0, jnp.nan])
    assert as_array(x) is x
    seen = []

    def loss(x):
        seen.append(as_array(x) is x)
        return as_array(x)[0]

    with jax.debug_nans(True):  # which stops at any operation on the NaN
        jax.vjp(lambda x: as_array(x), x)
    jax.grad(loss)(x)
    jax.jit(loss)(x)
    assert all(seen)


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_as_array_does_not_wrap_wide_integers_of_numpy(kind):
    wide, narrow = np.array([2**32 + 1, 1], kind), np.array([2**31 - 1, 1], kind)
    assert as_array(wide).dtype == jnp.float32
    np.testing.assert_array_equal(as_array(wide), np.float32([2**32, 1]))
    assert is_integer(as_array(narrow))
    np.testing.assert_array_equal(as_array(narrow), narrow)
    assert as_array(kind(2**40)) == 2.0**40
    with enable_x64(True):
        assert is_integer(as_array(wide))
        np.testing.assert_array_equal(as_array(wide), wide)


def test_a_python_number_takes_the_dtype_of_the_others():
    with enable_x64(True):
        for number in (2, 2.0):
            x, y = to_common_float(jnp.float16(1), number)
            assert x.dtype == y.dtype == jnp.float32
        x, y = to_common_float(jnp.float16(1), np.float64(2))
        assert x.dtype == y.dtype == jnp.float64


NARROW = [jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float16, jnp.bfloat16, jnp.int4, jnp.uint8]


@pytest.mark.parametrize("dtype", NARROW, ids=lambda d: d.__name__)
@pytest.mark.parametrize("promotion", ["standard", "strict"])
def test_any_two_dtypes_have_a_common_float(dtype, promotion):
    with jax.numpy_dtype_promotion(promotion):
        x, y = to_common_float(jnp.ones(2, dtype), jnp.ones(2, jnp.float32))
        assert x.dtype == y.dtype == jnp.float32
        x, y = to_common_float(jnp.ones(2, dtype), jnp.ones(2, jnp.float16))
        assert x.dtype == y.dtype == jnp.float32


def test_clamp_passes_the_whole_gradient_at_its_borders():
    x = [-0.5, 0.0, 0.5, 1.0, 1.5]
    np.testing.assert_array_equal(clamp(jnp.asarray(x), 0.0, 1.0), [0, 0, 0.5, 1, 1])
    np.testing.assert_array_equal(gradients(lambda x: clamp(x, 0.0, 1.0), x), [0, 1, 1, 1, 0])


def test_in_one_loop_changes_neither_value_nor_gradient():
    pred = jnp.array([1.0, np.inf, np.nan])
    np.testing.assert_array_equal(in_one_loop(2 * pred, pred), 2 * pred)
    np.testing.assert_array_equal(gradients(lambda x: in_one_loop(2 * x, x), pred[:2]), [2, 2])


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
