"""Our reducers: by hand, under masks, along axes, in half precision, and over many elements."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import (
    OverAxis,
    SumWeightedLoss,
    identity_loss,
    mean_loss,
    sum_loss,
)

LOSS = jnp.array([1.0, 2.0, 6.0])
WHERE = jnp.array([True, True, False])


def test_each_reducer_by_hand():
    np.testing.assert_array_equal(identity_loss(LOSS), [1, 2, 6])
    assert sum_loss(LOSS) == 1 + 2 + 6
    assert mean_loss(LOSS) == (1 + 2 + 6) / 3
    assert SumWeightedLoss(jnp.array([1.0, 0.5, -1.0]), 2.0)(LOSS) == (1 + 1 - 6) / 2


def test_each_reducer_by_hand_under_a_mask():
    np.testing.assert_array_equal(identity_loss(LOSS, where=WHERE), [1, 2, 0])
    assert sum_loss(LOSS, where=WHERE) == 1 + 2
    assert mean_loss(LOSS, where=WHERE) == (1 + 2) / 2
    assert SumWeightedLoss(jnp.array([1.0, 0.5, -1.0]), 2.0)(LOSS, where=WHERE) == (1 + 1) / 2


def test_a_mask_of_rows_covers_whole_rows():
    loss = jnp.arange(6.0).reshape(3, 2)
    assert mean_loss(loss, where=WHERE) == (0 + 1 + 2 + 3) / 4


@pytest.mark.parametrize("reducer", [identity_loss, sum_loss, mean_loss, SumWeightedLoss(1.0, 1.0)])
def test_a_mask_of_another_shape_is_an_error(reducer):
    with pytest.raises(ValueError, match=r"where must cover the leading axes .* where \(2,\)"):
        reducer(LOSS, where=WHERE[:2])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    ones = jnp.ones(70_000, dtype)
    assert sum_loss(ones) == 70_000  # infinity in float16, 256 in bfloat16
    assert mean_loss(ones) == 1
    assert SumWeightedLoss(jnp.ones((), dtype), 70_000)(ones) == 1


def test_integers_have_a_mean():
    assert mean_loss(jnp.array([1, 2])) == 1.5


def test_over_axis_is_compared_and_hashed_by_value():
    reducer = OverAxis(mean_loss, "data")
    assert reducer == OverAxis(mean_loss, "data") != OverAxis(sum_loss, "data")
    assert hash(reducer) == hash(pickle.loads(pickle.dumps(reducer)))


MATRIX = jnp.arange(6.0).reshape(2, 3)  # [[0, 1, 2], [3, 4, 5]]
MATRIX_MASK = jnp.array([[True, False, True], [False, False, False]])


@pytest.mark.parametrize(
    ("axis", "mean", "masked_mean"),
    [
        (0, [1.5, 2.5, 3.5], [0, 0, 2]),
        (1, [1, 4], [1, 0]),
        (-1, [1, 4], [1, 0]),
        ((0, 1), 2.5, 1),
        ((-1, 0), 2.5, 1),
        ([1], [1, 4], [1, 0]),
        (None, 2.5, 1),
        ((), MATRIX, MATRIX * MATRIX_MASK),
        (np.int64(1), [1, 4], [1, 0]),
    ],
)
def test_means_along_axes_by_hand(axis, mean, masked_mean):
    np.testing.assert_array_equal(mean_loss(MATRIX, axis=axis), mean)
    np.testing.assert_array_equal(mean_loss(MATRIX, where=MATRIX_MASK, axis=axis), masked_mean)


def test_sums_along_axes_by_hand():
    np.testing.assert_array_equal(sum_loss(MATRIX, axis=0), [3, 5, 7])
    np.testing.assert_array_equal(sum_loss(MATRIX, axis=-1), [3, 12])
    np.testing.assert_array_equal(sum_loss(MATRIX, where=MATRIX_MASK, axis=1), [2, 0])
    assert sum_loss(jnp.float32(3), axis=None) == 3


@pytest.mark.parametrize("reducer", [mean_loss, sum_loss], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("axis", "shape"), [(2, (2, 3)), (-3, (2, 3)), ((0, 2), (2, 3)), (0, ()), ((0, -2), (2, 3))]
)
def test_an_axis_must_be_one_of_the_loss_and_must_not_repeat(reducer, axis, shape):
    message = (
        f"{reducer.__name__}: axis must name axes of the loss, each once, "
        f"got axis {axis} and loss {shape}."
    )
    with raises(ValueError, message):
        reducer(jnp.ones(shape), axis=axis)


def test_a_row_without_a_valid_element_has_zero_gradient():
    def rows(loss):
        return jnp.sum(mean_loss(loss, where=MATRIX_MASK, axis=1))

    gradient = jax.grad(rows)(MATRIX.at[1].set(jnp.nan))
    np.testing.assert_array_equal(gradient, [[0.5, 0, 0.5], [0, 0, 0]])


MANY = [2**31 - 1, 2**31, 3 * 2**30]  # int32 ends at 2**31 - 1


@pytest.mark.parametrize("size", MANY)
@pytest.mark.parametrize("masked", [False, True])
def test_a_mean_of_more_elements_than_int32_counts(size, masked):
    def mean(x):
        where = jnp.broadcast_to(x > 0, (size,)) if masked else None
        return mean_loss(jnp.broadcast_to(x, (size,)), where=where)

    value, gradient = jax.jit(jax.value_and_grad(mean))(jnp.float32(0.5))
    np.testing.assert_allclose(value, 0.5, rtol=1e-3)
    np.testing.assert_allclose(gradient, 1, rtol=1e-3)


@pytest.mark.parametrize("masked", [False, True])
def test_the_count_of_a_mean_does_not_wrap_over_shards(masked):
    """2**20 elements in each of 2**12 shards, which ``vmap`` simulates."""
    loss = jnp.full(2**20, 0.5)
    where = jnp.ones(2**20, bool) if masked else None

    def mean(_):
        return mean_loss(loss, where=where, axis_name="data")

    means = jax.jit(jax.vmap(mean, axis_name="data"))(jnp.zeros(2**12))
    np.testing.assert_allclose(means[0], 0.5, rtol=1e-3)


def test_the_count_of_half_precision_is_a_float32():
    assert mean_loss(jnp.ones(2**11 + 1, jnp.float16), where=jnp.ones(2**11 + 1, bool)) == 1


def test_the_axes_of_over_axis_may_be_a_list():
    assert OverAxis(mean_loss, ["a", "b"]) == OverAxis(mean_loss, ("a", "b"))
    assert hash(OverAxis(mean_loss, ["a", "b"])) == hash(OverAxis(mean_loss, ("a", "b")))
