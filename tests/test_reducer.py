"""From many losses to one number."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss import (
    OverAxis,
    SumWeightedLoss,
    identity_loss,
    l1_loss,
    mean_loss,
    multi_pos_cross_entropy,
    sum_loss,
)

LOSS = jnp.array([1.0, 2.0, 6.0])
WHERE = jnp.array([True, True, False])


def test_each_by_hand():
    np.testing.assert_array_equal(identity_loss(LOSS), [1, 2, 6])
    assert sum_loss(LOSS) == 1 + 2 + 6
    assert mean_loss(LOSS) == (1 + 2 + 6) / 3
    assert SumWeightedLoss(jnp.array([1.0, 0.5, -1.0]), 2.0)(LOSS) == (1 + 1 - 6) / 2


def test_each_by_hand_under_a_mask():
    np.testing.assert_array_equal(identity_loss(LOSS, where=WHERE), [1, 2, 0])
    assert sum_loss(LOSS, where=WHERE) == 1 + 2
    assert mean_loss(LOSS, where=WHERE) == (1 + 2) / 2
    assert SumWeightedLoss(jnp.array([1.0, 0.5, -1.0]), 2.0)(LOSS, where=WHERE) == (1 + 1) / 2


def test_a_mask_of_rows_covers_them_whole():
    loss = jnp.arange(6.0).reshape(3, 2)
    assert mean_loss(loss, where=WHERE) == (0 + 1 + 2 + 3) / 4


def test_masked_losses_and_weights_may_be_nan():
    loss, weight = jnp.array([1.0, 2.0, jnp.nan]), jnp.array([1.0, 2.0, jnp.inf])

    def weighted(loss, weight):
        return SumWeightedLoss(weight, 2.0)(loss, where=WHERE)

    value, gradients = jax.value_and_grad(weighted, argnums=(0, 1))(loss, weight)
    assert value == (1 + 4) / 2
    np.testing.assert_array_equal(gradients, [[0.5, 1, 0], [0.5, 1, 0]])
    assert mean_loss(loss, where=WHERE) == 1.5


def test_sum_weighted_loss_by_a_zero_factor_is_0_with_gradient_0():
    def weighted(loss, weight, avg_factor):
        return SumWeightedLoss(weight, avg_factor)(loss)

    step = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2)))
    value, gradients = step(LOSS, jnp.ones(3), jnp.zeros(()))
    assert value == 0
    assert all(np.all(np.asarray(g) == 0) for g in gradients)


def test_gradients_reach_weight_and_factor():
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


def test_weight_broadcasts_into_the_loss_in_one_way_only():
    loss = jnp.arange(6.0).reshape(2, 3)
    assert SumWeightedLoss(jnp.array([0.0, 0.0, 1.0]), 1.0)(loss) == 2 + 5
    assert SumWeightedLoss(jnp.array([[0.0], [1.0]]), 1.0)(loss) == 3 + 4 + 5
    with pytest.raises(
        ValueError, match=r"weight must broadcast .* weight \(2,\) and loss \(2, 3\)"
    ):
        SumWeightedLoss(jnp.ones(2), 1.0)(loss)
    with pytest.raises(
        ValueError, match=r"weight must broadcast .* weight \(3, 1\) and loss \(3,\)"
    ):
        SumWeightedLoss(jnp.ones((3, 1)), 1.0)(LOSS)
    with pytest.raises(ValueError, match="in one way only, got weight"):
        SumWeightedLoss(jnp.ones(3), 1.0)(jnp.ones((3, 3)))
    with pytest.raises(ValueError, match=r"avg_factor must be a scalar, got avg_factor \(3,\)"):
        SumWeightedLoss(1.0, jnp.ones(3))(LOSS)


def test_sum_weighted_loss_travels_through_jit_and_is_no_static_argument():
    reducer = SumWeightedLoss(jnp.ones(3), jnp.asarray(3.0))
    assert jax.jit(lambda reducer, loss: reducer(loss))(reducer, LOSS) == 3
    with pytest.raises(ValueError, match="Non-hashable static arguments"):
        jax.jit(lambda reducer, loss: reducer(loss), static_argnums=0)(reducer, LOSS)


def test_a_users_reducer_serves_without_a_mask_and_is_refused_with_one():
    def worst(loss):
        return jnp.max(loss)

    pred = jnp.array([[1.0, 2.0]])
    assert l1_loss(pred, jnp.zeros((1, 2)), worst) == 2
    with pytest.raises(TypeError, match=r"reducer must accept where= .* got reducer worst"):
        l1_loss(pred, jnp.zeros((1, 2)), worst, where=jnp.array([True]))
    # Rows without a pair are known only from the data: such a reducer simply sees their 0.
    assert multi_pos_cross_entropy(pred, jnp.array([[-1, -1]]), worst) == 0


def test_a_users_reducer_with_where_gets_the_whole_mask():
    seen = {}

    def reducer(loss, *, where):
        seen.update(loss=loss, where=where)
        return jnp.sum(loss)

    l1_loss(jnp.array([[1.0, 2.0], [jnp.nan, 3.0]]), jnp.zeros((2, 2)), reducer, where=WHERE[1:])
    np.testing.assert_array_equal(seen["where"], [[True, True], [False, False]])
    np.testing.assert_array_equal(seen["loss"], [[1, 2], [0, 0]])


def test_numpy_reductions_of_nothing_are_0():
    nothing = jnp.zeros(3, bool)
    for reducer in (jnp.mean, jnp.sum, functools.partial(jnp.mean, axis=0)):
        loss = jax.value_and_grad(lambda x, r=reducer: l1_loss(x, LOSS, r, where=nothing))
        value, gradient = loss(jnp.full(3, jnp.nan))
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


def test_numpy_reductions_of_nothing_make_no_nan_on_the_way():
    with jax.debug_nans(True):
        assert l1_loss(LOSS, LOSS + 1, jnp.mean, where=jnp.zeros(3, bool)) == 0


def test_over_axis_is_a_value():
    reducer = OverAxis(mean_loss, "data")
    assert reducer == OverAxis(mean_loss, "data") != OverAxis(sum_loss, "data")
    assert hash(reducer) == hash(pickle.loads(pickle.dumps(reducer)))
