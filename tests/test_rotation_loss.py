"""Rotation: bins by hand, empty bins, rows that must not be looked at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss import SumWeightedLoss, mean_loss, rotation_loss, sum_loss

# 2 bins: logits, then (sin, cos) of each. The second bin is active in rows 0 and 2, the first never.
PRED = jnp.array(
    [
        [0.0, 1.0, 9.0, 9.0, 0.5, 1.0],
        [2.0, -1.0, 9.0, 9.0, 9.0, 9.0],
        [0.0, 0.0, 9.0, 9.0, 0.0, 3.0],
    ]
)
BINS = jnp.array([[0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
RES = jnp.zeros((3, 2))


def softplus(x):
    return np.log1p(np.exp(x))


BCE = np.array([softplus(0) + softplus(-1), softplus(2) + softplus(-1), softplus(0) + softplus(0)])
RESIDUAL = np.array([0.5**2 / 2 + 0, 0, 0 + (2 - 0.5)])


@pytest.mark.parametrize("reducer", [mean_loss, jnp.mean], ids=["mean_loss", "jnp.mean"])
def test_mean_by_hand(reducer):
    loss = rotation_loss(PRED, BINS, RES, 2, reducer)
    np.testing.assert_allclose(loss, BCE.mean() + RESIDUAL.sum() / 2, rtol=1e-6)


def test_sum_and_weights_by_hand():
    np.testing.assert_allclose(
        rotation_loss(PRED, BINS, RES, 2, sum_loss), BCE.mean() + RESIDUAL.sum(), rtol=1e-6
    )
    weighted = SumWeightedLoss(jnp.array([2.0, jnp.nan, 1.0]), 4.0)  # row 1 has no active bin
    np.testing.assert_allclose(
        rotation_loss(PRED, BINS, RES, 2, weighted), BCE.mean() + (0.25 + 1.5) / 4, rtol=1e-6
    )


def test_without_a_reducer_each_row_has_its_own_loss():
    np.testing.assert_allclose(rotation_loss(PRED, BINS, RES, 2), BCE + RESIDUAL, rtol=1e-6)
    where = jnp.array([True, False, True])
    np.testing.assert_allclose(
        rotation_loss(PRED, BINS, RES, 2, where=where), (BCE + RESIDUAL) * where, rtol=1e-6
    )


def test_no_active_bin_at_all_leaves_the_cross_entropy():
    value, gradient = jax.value_and_grad(
        lambda pred: rotation_loss(pred, BINS * 0, RES, 2, mean_loss)
    )(PRED)
    expected = np.array([softplus(0) + softplus(1), softplus(2) + softplus(-1), 2 * softplus(0)])
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-6)
    np.testing.assert_array_equal(gradient[:, 2:], 0)


def test_soft_bins_have_no_residual():
    bins = jnp.array([[0.0, 0.999], [0.0, 0.0], [0.0, 1.0]])
    hard = rotation_loss(PRED, BINS, RES, 2, sum_loss)
    soft = rotation_loss(PRED, bins, RES, 2, sum_loss)
    np.testing.assert_allclose(hard - soft, RESIDUAL[0] - 0.001 * 1.0 / 3, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_inactive_residuals_are_not_looked_at(bad):
    pred = PRED.at[:, 2:4].set(bad).at[1, 4:].set(bad)
    res = RES.at[:, 0].set(bad).at[1, 1].set(bad)
    step = jax.jit(
        jax.value_and_grad(lambda p, r: rotation_loss(p, BINS, r, 2, mean_loss), argnums=(0, 1))
    )
    value, gradients = step(pred, res)
    expected, expected_gradients = step(PRED, RES)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(gradients[0], expected_gradients[0])
    np.testing.assert_array_equal(gradients[1], expected_gradients[1])


def test_gradient_of_a_logit_of_0_and_of_large_logits():
    pred = jnp.array([[0.0, 0, 0], [1000.0, 0, 0], [-1000.0, 0, 0]])
    bins = jnp.array([[1.0], [0.0], [1.0]])
    loss = jax.value_and_grad(lambda p: rotation_loss(p, bins, pred[:, 1:2], 1, jnp.sum) * 3)
    value, gradient = loss(pred)
    np.testing.assert_allclose(value, np.log(2) + 2000 + 3 * 2 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, 0], [-0.5, 1, -1])


def test_bins_may_be_booleans_and_inputs_wider():
    wider = jnp.pad(PRED, ((0, 0), (0, 2)), constant_values=jnp.nan)
    loss = rotation_loss(wider, BINS.astype(bool), jnp.pad(RES, ((0, 0), (0, 1))), 2, mean_loss)
    np.testing.assert_array_equal(loss, rotation_loss(PRED, BINS, RES, 2, mean_loss))


def test_errors():
    with pytest.raises(
        ValueError, match=r"rotation_loss: for num_bins=3, pred must be \[B, >= 9\]"
    ):
        rotation_loss(PRED, BINS, RES, 3, mean_loss)
    with pytest.raises(
        ValueError, match=r"got pred \(3, 6\) and target_bin \(3, 1\) and target_res"
    ):
        rotation_loss(PRED, BINS[:, :1], RES, 2, mean_loss)
    with pytest.raises(ValueError, match="num_bins must be positive, got num_bins 0"):
        rotation_loss(PRED, BINS, RES, 0, mean_loss)
    with pytest.raises(TypeError, match="a reducer must accept where="):
        rotation_loss(PRED, BINS, RES, 2, lambda loss: loss.mean())
