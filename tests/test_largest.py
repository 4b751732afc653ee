"""The search of each platform: the same mask, and a program that suits the platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from searches import PLATFORMS, search_of

from vis4d_jax_loss._largest import largest_mask
from vis4d_jax_loss._numerics import enable_x64

VALUES = np.random.default_rng(0).integers(-3, 4, (4, 9)).astype(np.float32)
VALUES[0, :4] = np.nan, -0.0, np.inf, -np.inf
WHERE = np.arange(4) != 2


@pytest.fixture(params=PLATFORMS, autouse=True)
def platform(request):
    with search_of(request.param):
        yield request.param


def mask_of(values, k, where=None, axis_name=None):
    return largest_mask("f", jnp.asarray(values), jnp.uint32(k), where, axis_name)


def slow_mask(values, k, where):
    """Mark the first k candidates in the order of (NaN first, value, index)."""
    flat, candidates = values.ravel().tolist(), np.broadcast_to(where, values.T.shape).T.ravel()
    order = sorted(
        np.flatnonzero(candidates), key=lambda i: (flat[i] == flat[i], -np.nan_to_num(flat[i]), i)
    )
    mask = np.zeros(values.size, bool)
    mask[order[:k]] = True
    return mask.reshape(values.shape)


@pytest.mark.parametrize("where", [None, WHERE], ids=["all", "masked"])
def test_every_search_finds_the_same_mask(where):
    for k in (0, 1, 2, 7, 20, 27, 35, 36, 99, 2**32 - 1):
        expected = slow_mask(VALUES, k, True if where is None else where)
        np.testing.assert_array_equal(mask_of(VALUES, k, where), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, np.float64])
def test_the_lowest_and_the_highest_code_of_a_dtype(dtype):
    """0 and all bits set: no threshold may leave out the first, or run past the second."""
    kind = jnp.finfo if np.issubdtype(dtype, np.floating) else jnp.iinfo
    with enable_x64(True):
        low, high = kind(dtype).min, kind(dtype).max
        values = np.array([low, high, low, high, 1], dtype)
        for k, expected in enumerate(
            [[0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 1, 0], [0, 1, 0, 1, 1], [1, 1, 0, 1, 1]]
        ):
            np.testing.assert_array_equal(mask_of(values, k), expected)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0)])
def test_arrays_of_few_elements(shape):
    for k in (0, 1, 2):
        assert mask_of(np.zeros(shape), k).sum() == min(k, np.prod(shape))


def test_every_search_works_over_shards():
    mapped = jax.vmap(lambda x: mask_of(x, 11, None, "shards"), axis_name="shards")
    np.testing.assert_array_equal(mapped(VALUES), slow_mask(VALUES, 11, True))


def test_only_a_cpu_searches_in_a_loop(platform):
    step = jax.jit(mask_of).lower(VALUES, 7)
    program = step.compile().as_text()
    assert (" while(" in program) == (platform == "cpu")
    for name in ("sort", "gather", "scatter", "topk", "conditional"):
        assert f" {name}(" not in program


def test_k_0_marks_nothing_even_if_every_element_has_the_highest_code():
    assert not mask_of(np.full(4, 2**32 - 1, np.uint32), 0).any()


def test_checkify_works_under_vmap():
    """The search of a CPU stops at a different pass for each row, which checkify refuses."""
    values, k = jnp.array([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0]]), jnp.array([1, 2])
    search = jax.jit(checkify.checkify(jax.vmap(jax.vmap(mask_of))))
    error, mask = search(values[None], k[None])
    error.throw()
    np.testing.assert_array_equal(mask[0], [[True, False, False], [False, True, True]])
