"""What pair targets mean."""

import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss._numerics import enable_x64
from vis4d_jax_loss.losses._pairs import pair_masks


def test_targets_sort_pairs_into_three_kinds():
    pairs = pair_masks("f", jnp.array([1.0, 0.0, -1.0, 2.0, 0.5, jnp.nan]), None)
    np.testing.assert_array_equal(pairs.positive, [1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(pairs.negative, [0, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(pairs.unknown, [0, 0, 0, 1, 1, 1])


def test_a_mask_of_rows_removes_pairs_of_every_kind():
    target = jnp.array([[1, 0, 7], [1, 0, 7]])
    pairs = pair_masks("f", target, jnp.array([True, False]))
    for mask, column in zip(pairs, range(3), strict=True):
        np.testing.assert_array_equal(mask, np.arange(6).reshape(2, 3) == column)


def test_unsigned_targets_have_no_minus_1():
    pairs = pair_masks("f", jnp.array([1, 0, 255], jnp.uint8), None)
    np.testing.assert_array_equal(pairs.unknown, [False, False, True])


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint32", "int32", "float16", "bfloat16", "float8_e5m2"]
)
def test_targets_of_every_dtype(dtype):
    target = jnp.array([1, 0, 1, 0]).astype(dtype)
    pairs = pair_masks("test", target, None)
    np.testing.assert_array_equal(pairs.positive, [1, 0, 1, 0])
    np.testing.assert_array_equal(pairs.negative, [0, 1, 0, 1])
    assert not pairs.unknown.any()


def test_wide_targets_do_not_wrap():
    assert pair_masks("test", jnp.array([2**32 - 1], jnp.uint32), None).unknown.all()
    with enable_x64(True):
        target = jnp.array([2**32 + 1, 2**32, 2**32 - 1, -1], jnp.int64)
        np.testing.assert_array_equal(pair_masks("test", target, None).unknown, [1, 1, 1, 0])
