"""The weighted reducers: by hand, under masks, where the divisor is 0, and their mistakes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises
from jax.experimental import checkify

from vis4d_jax_loss import (
    SumWeightedLoss,
    WeightedMeanLoss,
    cross_entropy,
    l1_loss,
    mean_loss,
)

LOSS = jnp.array([1.0, 2.0, 6.0])
WHERE = jnp.array([True, True, False])


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


def test_weight_broadcasts_in_one_way_only():
    loss = jnp.arange(6.0).reshape(2, 3)
    assert SumWeightedLoss(jnp.array([0.0, 0.0, 1.0]), 1.0)(loss) == 2 + 5
    assert SumWeightedLoss(jnp.array([[0.0], [1.0]]), 1.0)(loss) == 3 + 4 + 5
    broadcast = "SumWeightedLoss: weight must broadcast to the shape of the loss"
    rows = "For one weight per row write weight[:, None]."
    with raises(ValueError, f"{broadcast}, got weight (2,) and loss (2, 3). {rows}"):
        SumWeightedLoss(jnp.ones(2), 1.0)(loss)
    rows = "For one weight per row write weight[:, None, None]."
    with raises(ValueError, f"{broadcast}, got weight (2,) and loss (2, 3, 4). {rows}"):
        SumWeightedLoss(jnp.ones(2), 1.0)(jnp.ones((2, 3, 4)))
    with raises(ValueError, f"{broadcast}, got weight (3, 1) and loss (3,)."):
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


def weighted_mean(loss, weight, where=None):
    return WeightedMeanLoss(weight)(loss, where=where)


def test_a_weighted_mean_by_hand():
    weight = jnp.array([1.0, 0.5, 0.25])
    assert weighted_mean(LOSS, weight) == (1 + 1 + 1.5) / 1.75
    assert weighted_mean(LOSS, weight, WHERE) == (1 + 1) / 1.5
    assert weighted_mean(LOSS, 7.0) == mean_loss(LOSS)


def test_a_weight_that_broadcasts_counts_once_per_element():
    loss = jnp.arange(6.0).reshape(2, 3)
    assert weighted_mean(loss, jnp.array([[1.0], [3.0]])) == (0 + 1 + 2 + 3 * (3 + 4 + 5)) / 12
    where = jnp.array([[True, True, False], [True, False, False]])
    assert weighted_mean(loss, jnp.array([[1.0], [3.0]]), where) == (0 + 1 + 3 * 3) / 5


def test_a_weighted_mean_ignores_what_is_masked():
    loss, weight = jnp.array([1.0, 2.0, jnp.nan]), jnp.array([1.0, 3.0, jnp.inf])
    step = jax.value_and_grad(weighted_mean, argnums=(0, 1))
    value, gradients = step(loss, weight, WHERE)
    assert value == (1 + 6) / 4
    # With respect to a weight, the gradient is (loss - mean) / sum of the weights.
    np.testing.assert_array_equal(gradients, [[0.25, 0.75, 0], [-0.1875, 0.0625, 0]])


@pytest.mark.parametrize("weight", [[0.0, 0.0, 0.0], [1.0, -2.0, 1.0]])
def test_weights_that_add_up_to_0_give_zero_value_and_gradient(weight):
    step = jax.jit(jax.value_and_grad(weighted_mean, argnums=(0, 1)))
    value, gradients = step(LOSS, jnp.array(weight))
    assert value == 0
    np.testing.assert_array_equal(gradients, 0)


def test_a_weighted_mean_of_everything_masked_or_of_nothing_is_0():
    value, gradient = jax.value_and_grad(weighted_mean)(LOSS * jnp.nan, 2.0, WHERE & False)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    assert weighted_mean(jnp.zeros(0), jnp.zeros(0)) == 0


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_added_up_in_float32(dtype):
    ones = jnp.ones(70_000, dtype)
    value = weighted_mean(ones, ones)  # infinity / infinity in float16
    assert value == 1
    assert value.dtype == jnp.float32


def test_the_weight_of_a_mean_broadcasts_in_one_way_only():
    rule = "WeightedMeanLoss: weight must fit the loss in one way only, got weight (3,) and loss"
    remedy = "Write weight[:, None] for rows or weight[None, :] for columns."
    with raises(ValueError, f"{rule} (3, 3). {remedy}"):
        weighted_mean(jnp.ones((3, 3)), jnp.ones(3))


def test_a_weighted_mean_is_a_jit_argument_but_not_static():
    reducer = WeightedMeanLoss(jnp.ones(3))
    assert jax.jit(lambda reducer, loss: reducer(loss))(reducer, LOSS) == 3
    with pytest.raises(ValueError, match="Non-hashable static arguments"):
        jax.jit(lambda reducer, loss: reducer(loss), static_argnums=0)(reducer, LOSS)


def test_a_weighted_mean_over_shards_adds_both_sums():
    loss, weight = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[1.0, 0.0], [3.0, 6.0]])
    means = jax.vmap(lambda x, w: WeightedMeanLoss(w, axis_name="shards")(x), axis_name="shards")(
        loss, weight
    )
    np.testing.assert_allclose(means, [(1 + 9 + 24) / 10] * 2)


def test_checkify_reports_a_weight_of_a_mean_that_is_not_finite():
    checked = checkify.checkify(lambda w: l1_loss(LOSS, LOSS, WeightedMeanLoss(w)))
    checked(LOSS)[0].throw()
    error, _ = checked(LOSS.at[1].set(jnp.inf))
    assert "WeightedMeanLoss: weight must be finite, got inf at (1)" in error.get()


def test_the_mean_that_torch_divides_by_the_weights_of_the_labels():
    logits, labels = jnp.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]), jnp.array([0, 0, 1])
    class_weights = jnp.array([0.25, 2.0])
    loss = cross_entropy(logits, labels, reducer=WeightedMeanLoss(class_weights[labels]))
    softplus = jax.nn.softplus(jnp.array([-1.0, 2.0, 3.0]))
    np.testing.assert_allclose(loss, softplus @ jnp.array([0.25, 0.25, 2.0]) / 2.5, rtol=1e-6)
