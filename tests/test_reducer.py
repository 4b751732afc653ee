"""Reducers by hand, under masks, in half precision, and those that a user writes."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import (
    OverAxis,
    SumWeightedLoss,
    identity_loss,
    l1_loss,
    mean_loss,
    multi_pos_cross_entropy,
    sum_loss,
)
from vis4d_jax_loss._reduce_loss import parameters_of, reduce_loss
from vis4d_jax_loss.reducer import psum_over

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


def test_masked_losses_and_weights_may_be_nan():
    loss, weight = jnp.array([1.0, 2.0, jnp.nan]), jnp.array([1.0, 2.0, jnp.inf])

    def weighted(loss, weight):
        return SumWeightedLoss(weight, 2.0)(loss, where=WHERE)

    value, gradients = jax.value_and_grad(weighted, argnums=(0, 1))(loss, weight)
    assert value == (1 + 4) / 2
    np.testing.assert_array_equal(gradients, [[0.5, 1, 0], [0.5, 1, 0]])
    assert mean_loss(loss, where=WHERE) == 1.5


def test_a_weighted_sum_divided_by_0_has_zero_value_and_gradient():
    def weighted(loss, weight, avg_factor):
        return SumWeightedLoss(weight, avg_factor)(loss)

    step = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2)))
    value, gradients = step(LOSS, jnp.ones(3), jnp.zeros(()))
    assert value == 0
    assert all(np.all(np.asarray(g) == 0) for g in gradients)


def test_weight_and_factor_have_gradients():
    def weighted(weight, avg_factor):
        return SumWeightedLoss(weight, avg_factor)(LOSS)

    weight, factor = jax.grad(weighted, argnums=(0, 1))(jnp.ones(3), 2.0)
    np.testing.assert_array_equal(weight, LOSS / 2)
    assert factor == -(1 + 2 + 6) / 2**2


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    ones = jnp.ones(70_000, dtype)
    assert sum_loss(ones) == 70_000  # infinity in float16, 256 in bfloat16
    assert mean_loss(ones) == 1
    assert SumWeightedLoss(jnp.ones((), dtype), 70_000)(ones) == 1


def test_integers_have_a_mean():
    assert mean_loss(jnp.array([1, 2])) == 1.5


def test_weight_broadcasts_in_one_way_only():
    loss = jnp.arange(6.0).reshape(2, 3)
    assert SumWeightedLoss(jnp.array([0.0, 0.0, 1.0]), 1.0)(loss) == 2 + 5
    assert SumWeightedLoss(jnp.array([[0.0], [1.0]]), 1.0)(loss) == 3 + 4 + 5
    broadcast = "SumWeightedLoss: weight must broadcast to the shape of the loss"
    rows = "For one weight per row write weight[:, None]."
    with raises(ValueError, f"{broadcast}, got weight (2,) and loss (2, 3). {rows}"):
        SumWeightedLoss(jnp.ones(2), 1.0)(loss)
    with raises(ValueError, f"{broadcast}, got weight (3, 1) and loss (3,). {rows}"):
        SumWeightedLoss(jnp.ones((3, 1)), 1.0)(LOSS)
    message = (
        "SumWeightedLoss: weight must fit the loss in one way only, "
        "got weight (3,) and loss (3, 3). "
        "Write weight[:, None] for rows or weight[None, :] for columns."
    )
    with raises(ValueError, message):
        SumWeightedLoss(jnp.ones(3), 1.0)(jnp.ones((3, 3)))


@pytest.mark.parametrize("chex_enabled", [True, False])
def test_the_factor_must_be_a_scalar(chex_enabled, request):
    if not chex_enabled:
        chex.disable_asserts()
        request.addfinalizer(chex.enable_asserts)
    message = (
        "SumWeightedLoss: avg_factor must be a scalar, got avg_factor (3,). "
        "To divide each element by its own factor, divide the weight."
    )
    with raises(ValueError, message):
        SumWeightedLoss(1.0, jnp.ones(3))(LOSS)


def test_a_weighted_sum_is_a_jit_argument_but_not_static():
    reducer = SumWeightedLoss(jnp.ones(3), jnp.asarray(3.0))
    assert jax.jit(lambda reducer, loss: reducer(loss))(reducer, LOSS) == 3
    with pytest.raises(ValueError, match="Non-hashable static arguments"):
        jax.jit(lambda reducer, loss: reducer(loss), static_argnums=0)(reducer, LOSS)


def worst(loss):
    return jnp.max(loss)


def test_a_users_reducer_without_where_works_until_something_is_masked():
    pred = jnp.array([[1.0, 2.0]])
    assert l1_loss(pred, jnp.zeros((1, 2)), worst) == 2
    message = (
        "reducer: a reducer must accept where= when elements are masked, got reducer worst. "
        "Use mean_loss, sum_loss or jnp.mean, or add a keyword where=None to yours."
    )
    with raises(TypeError, message):
        l1_loss(pred, jnp.zeros((1, 2)), worst, where=jnp.array([True]))


def test_a_mask_that_follows_from_the_data_is_optional():
    # Only the data says which rows have no pair. A reducer without where counts their 0.
    target = jnp.array([[-1, -1]])
    assert multi_pos_cross_entropy(jnp.array([[1.0, 2.0]]), target, worst) == 0
    assert reduce_loss(worst, LOSS, WHERE, optional=True) == 6
    assert reduce_loss(mean_loss, LOSS, WHERE, optional=True) == 1.5


def test_a_users_reducer_gets_the_whole_mask_and_no_padding():
    seen = {}

    def reducer(loss, *, where):
        seen.update(loss=loss, where=where)
        return jnp.sum(loss)

    l1_loss(jnp.array([[1.0, 2.0], [jnp.nan, 3.0]]), jnp.zeros((2, 2)), reducer, where=WHERE[1:])
    np.testing.assert_array_equal(seen["where"], [[True, True], [False, False]])
    np.testing.assert_array_equal(seen["loss"], [[1, 2], [0, 0]])


def test_numpy_reducers_return_0_if_everything_is_masked():
    everything = jnp.zeros(3, bool)
    for reducer in (jnp.mean, jnp.sum, functools.partial(jnp.mean, axis=0)):
        loss = jax.value_and_grad(lambda x, r=reducer: l1_loss(x, LOSS, r, where=everything))
        value, gradient = loss(jnp.full(3, jnp.nan))
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


def test_numpy_reducers_compute_no_nan_if_everything_is_masked():
    with jax.debug_nans(True):
        assert l1_loss(LOSS, LOSS + 1, jnp.mean, where=jnp.zeros(3, bool)) == 0


def test_numpy_reducers_return_0_for_an_empty_array():
    assert l1_loss(jnp.zeros(0), jnp.zeros(0), jnp.mean) == 0


def test_over_axis_is_compared_and_hashed_by_value():
    reducer = OverAxis(mean_loss, "data")
    assert reducer == OverAxis(mean_loss, "data") != OverAxis(sum_loss, "data")
    assert hash(reducer) == hash(pickle.loads(pickle.dumps(reducer)))


def test_sums_are_added_over_a_mesh_axis():
    shards = jnp.arange(4.0)
    assert psum_over(shards, None) is shards
    added = jax.vmap(lambda x: psum_over(x, "shards"), axis_name="shards")(shards)
    np.testing.assert_array_equal(added, [6] * 4)


def test_parameters_of_a_callable():
    assert list(parameters_of(worst)) == ["loss"]
    assert list(parameters_of(functools.partial(l1_loss, reducer=jnp.mean)))[:2] == [
        "pred",
        "target",
    ]
    assert parameters_of(dict) is None
