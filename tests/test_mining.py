"""Exactly k, exactly the largest, exactly the lowest index, whatever the type, rank or transform."""

import math

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from vis4d_jax_loss import random_k_mask, top_k_mask

SHAPES = [(), (0,), (7,), (2, 5), (2, 1, 4)]
DTYPES = ["float32", "float16", "int8", "uint8", "int32", "uint32", "int16"]

masks = jax.jit(top_k_mask)


def slow_top_k_mask(values, k, where):
    """Sort in Python by (NaN first, value, index) and mark the first k."""

    def rank(index):
        value = values.flat[index].item()
        return (0, 0, index) if value != value else (1, -value, index)

    candidates = [i for i in range(values.size) if where.flat[i]]
    mask = np.zeros(values.size, bool)
    mask[sorted(candidates, key=rank)[: max(k, 0)]] = True
    return mask.reshape(values.shape)


@st.composite
def selections(draw):
    dtype, shape = np.dtype(draw(st.sampled_from(DTYPES))), draw(st.sampled_from(SHAPES))
    if dtype.kind == "f":
        numbers = st.floats(width=8 * dtype.itemsize)
        few = st.sampled_from([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-7, -1e-7])
    else:
        info = np.iinfo(dtype)
        numbers = st.integers(info.min, info.max)
        few = st.sampled_from([info.min, info.max, 0, 1])
    elements = draw(st.sampled_from([numbers, few]))  # the few tie often
    with np.errstate(all="ignore"):
        values = np.array(draw(st.lists(elements, min_size=10, max_size=10))).astype(dtype)
    values = np.resize(values, shape)
    where = draw(hnp.arrays(bool, shape))
    return values, draw(st.integers(-2, values.size + 2)), where


@settings(max_examples=400, deadline=None)
@given(selections())
def test_top_k_mask_agrees_with_a_sort(selection):
    values, k, where = selection
    np.testing.assert_array_equal(masks(values, k, where), slow_top_k_mask(values, k, where))


@pytest.mark.parametrize("k", [-1, 0, 1, 3, 7, 8, 2**40])
def test_k_from_none_to_more_than_there_are(k):
    values, where = jnp.arange(8.0), jnp.array([True] * 7 + [False])
    mask = top_k_mask(values, k, where)
    np.testing.assert_array_equal(mask, slow_top_k_mask(np.arange(8.0), k, np.asarray(where)))
    assert mask.sum() == min(max(k, 0), 7)


def test_ties_go_to_the_lowest_flat_index():
    values = jnp.array([[1.0, 5.0, 1.0], [1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(masks(values, 3), [[True, True, True], [False] * 3])
    np.testing.assert_array_equal(masks(values[:, ::-1], 4), [[True] * 3, [True, False, False]])


def test_zeros_of_both_signs_tie_and_nan_is_the_largest():
    values = jnp.array([-0.0, 0.0, -jnp.nan, jnp.inf])
    np.testing.assert_array_equal(masks(values, 1), [False, False, True, False])
    np.testing.assert_array_equal(masks(values, 3), [True, False, True, True])


def test_k_0_among_nan_and_ties():
    for values in ([jnp.nan, jnp.nan], [0.0, 0.0], [jnp.inf, jnp.nan]):
        assert not masks(jnp.array(values), 0).any()


def test_subnormal_numbers_are_told_apart():
    values = np.array([0.0, 1e-45, 3e-45, -1e-45], np.float32)
    np.testing.assert_array_equal(masks(values, 2), [False, True, True, False])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.int4])
def test_narrow_types(dtype):
    values = jnp.array([-3, 7, 0, 5, 7, -8], dtype)
    np.testing.assert_array_equal(masks(values, 3), [False, True, False, True, True, False])


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.int64, jnp.uint64])
def test_wide_types(dtype):
    with jax.enable_x64(True):
        values = jnp.array([2**53, 2**53 - 1, 1, 2**53], dtype)
        mask = jax.jit(top_k_mask)(values, 3)
    np.testing.assert_array_equal(mask, [True, True, False, True])


def test_k_is_traced_and_vmap_equals_a_loop():
    values = jax.random.randint(jax.random.key(0), (5, 3, 4), 0, 6)
    ks = jnp.arange(5) * 3
    batched = jax.jit(jax.vmap(top_k_mask))(values, ks)
    for mask, row, k in zip(batched, values, ks, strict=True):
        np.testing.assert_array_equal(mask, masks(row, k))


def test_the_mask_is_a_constant_to_differentiation():
    def kept(x):
        return jnp.sum(jnp.where(top_k_mask(x, 2), x**2, 0))

    gradient = jax.jit(jax.grad(kept))(jnp.array([1.0, 3.0, 2.0]))
    np.testing.assert_array_equal(gradient, [0, 6, 4])
    second = jax.jit(jax.hessian(kept))(jnp.array([1.0, 3.0, 2.0]))
    np.testing.assert_array_equal(second, np.diag([0, 2, 2]))


def test_the_program_holds_no_sort_and_no_gather():
    step = jax.jit(top_k_mask).lower(jnp.ones((64, 32)), 5, jnp.ones((64, 32), bool))
    program = step.compile().as_text()
    assert not any(f" {name}(" in program for name in ("sort", "gather", "scatter", "topk"))


@pytest.mark.parametrize("k", [-1, 0, 1, 4, 6, 99])
def test_random_k_mask_marks_exactly_k_candidates(k):
    where = jnp.array([[True, False, True, True], [True, True, False, True]])
    mask = random_k_mask(jax.random.key(0), k, where)
    assert mask.sum() == min(max(k, 0), 6)
    assert not np.any(mask & ~where)


def test_random_k_mask_chooses_each_candidate_equally_often():
    where = jnp.array([True, True, False, True, True])
    keys = jax.random.split(jax.random.key(0), 4000)
    share = jax.jit(jax.vmap(lambda key: random_k_mask(key, 2, where)))(keys).mean(axis=0)
    # Each of 4 candidates with probability 1/2; the standard error is 0.008.
    np.testing.assert_allclose(share, [0.5, 0.5, 0, 0.5, 0.5], atol=0.04)


def test_errors():
    with pytest.raises(TypeError, match="top_k_mask: values must hold floating-point or integer"):
        top_k_mask(jnp.array([True]), 1)
    with pytest.raises(TypeError, match="top_k_mask: k must be an integer scalar, got k float32"):
        top_k_mask(jnp.ones(3), 1.0)
    with pytest.raises(TypeError, match=r"k must be an integer scalar, got k int32 \(1,\)"):
        top_k_mask(jnp.ones(3), jnp.array([1]))
    with pytest.raises(ValueError, match=r"where must cover the leading axes .* where \(3,\)"):
        top_k_mask(jnp.ones((2, 3)), 1, jnp.ones(3, bool))
