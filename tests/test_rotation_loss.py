"""Rotation loss: bins by hand, bins that are not active, and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import (
    OverAxis,
    RotationLoss,
    SumWeightedLoss,
    identity_loss,
    mean_loss,
    rotation_loss,
    sum_loss,
)

# Two bins: logits, then (sin, cos) of each. Only the second bin is active, in rows 0 and 2.
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
def test_the_mean_by_hand(reducer):
    loss = rotation_loss(PRED, BINS, RES, 2, reducer)
    np.testing.assert_allclose(loss, BCE.mean() + RESIDUAL.sum() / 2, rtol=1e-6)


def test_the_sum_and_the_weighted_sum_by_hand():
    np.testing.assert_allclose(
        rotation_loss(PRED, BINS, RES, 2, sum_loss), BCE.mean() + RESIDUAL.sum(), rtol=1e-6
    )
    weighted = SumWeightedLoss(jnp.array([2.0, jnp.nan, 1.0]), 4.0)  # row 1 has no active bin
    np.testing.assert_allclose(
        rotation_loss(PRED, BINS, RES, 2, weighted), BCE.mean() + (0.25 + 1.5) / 4, rtol=1e-6
    )


def test_without_a_reducer_there_is_one_loss_per_row():
    np.testing.assert_allclose(rotation_loss(PRED, BINS, RES, 2), BCE + RESIDUAL, rtol=1e-6)
    where = jnp.array([True, False, True])
    np.testing.assert_allclose(
        rotation_loss(PRED, BINS, RES, 2, where=where), (BCE + RESIDUAL) * where, rtol=1e-6
    )


def test_without_active_bins_the_cross_entropy_remains():
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
def test_residuals_of_inactive_bins_may_be_anything(bad):
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


def test_gradients_of_logits_by_hand():
    pred = jnp.array([[0.0, 0, 0], [1000.0, 0, 0], [-1000.0, 0, 0]])
    bins = jnp.array([[1.0], [0.0], [1.0]])
    loss = jax.value_and_grad(lambda p: rotation_loss(p, bins, pred[:, 1:2], 1, jnp.sum) * 3)
    value, gradient = loss(pred)
    np.testing.assert_allclose(value, np.log(2) + 2000 + 3 * 2 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, 0], [-0.5, 1, -1])


def test_bins_may_be_boolean_and_inputs_may_have_more_columns():
    wider = jnp.pad(PRED, ((0, 0), (0, 2)), constant_values=jnp.nan)
    loss = rotation_loss(wider, BINS.astype(bool), jnp.pad(RES, ((0, 0), (0, 1))), 2, mean_loss)
    np.testing.assert_array_equal(loss, rotation_loss(PRED, BINS, RES, 2, mean_loss))


def test_the_mesh_axis_covers_the_bins_and_the_residuals():
    """Two shards that ``vmap`` simulates: the second bin is active in rows 0 and 2 alone."""
    shards = [jnp.stack([x[:2], jnp.concatenate([x[2:], x[2:]])]) for x in (PRED, BINS, RES)]
    where = jnp.array([[True, True], [True, False]])

    def loss(pred, bins, res, where, reducer):
        return rotation_loss(pred, bins, res, 2, reducer, where=where, axis_name="data")

    for reducer, residual in ((mean_loss, RESIDUAL.sum() / 2), (sum_loss, RESIDUAL.sum())):
        step = jax.jit(jax.vmap(functools.partial(loss, reducer=reducer), axis_name="data"))
        np.testing.assert_allclose(step(*shards, where), [BCE.mean() + residual] * 2, rtol=1e-6)
    rows = jax.jit(jax.vmap(functools.partial(loss, reducer=identity_loss), axis_name="data"))
    expected = (BCE + RESIDUAL)[[0, 1, 2, 2]].reshape(2, 2) * where
    np.testing.assert_allclose(rows(*shards, where), expected, rtol=1e-6)


def test_the_module_takes_the_mesh_axis_as_an_option():
    loss = RotationLoss(mean_loss, axis_name="data")
    step = jax.jit(jax.vmap(loss, axis_name="data"))
    result = step(*(jnp.stack([x, x]) for x in (PRED, BINS, RES)))
    np.testing.assert_allclose(
        result, [rotation_loss(PRED, BINS, RES, 2, mean_loss)] * 2, rtol=1e-6
    )


def test_a_reducer_of_ones_own_adds_over_shards_if_it_takes_axis_name():
    def half(loss, *, where=None, axis_name=None):
        return 0.5 * sum_loss(loss, where=where, axis_name=axis_name)

    def loss(pred, bins, res):
        return rotation_loss(pred, bins, res, 2, half, axis_name="data")

    result = jax.jit(jax.vmap(loss, axis_name="data"))(*(x[None] for x in (PRED, BINS, RES)))
    np.testing.assert_allclose(result, [BCE.mean() + 0.5 * RESIDUAL.sum()], rtol=1e-6)


@pytest.mark.parametrize(
    ("reducer", "axis_name", "message"),
    [
        (
            OverAxis(mean_loss, "data"),
            None,
            "rotation_loss: the reducer must not have a mesh axis, because this loss reduces by itself, got reducer OverAxis. Pass axis_name='data' to the loss; a mean over shards would be a mean of means.",
        ),
        (
            OverAxis(mean_loss, "data"),
            "data",
            "rotation_loss: the reducer must not have a mesh axis, because this loss reduces by itself, got reducer OverAxis. Pass axis_name='data' to the loss; a mean over shards would be a mean of means.",
        ),
        (
            jnp.mean,
            "data",
            "rotation_loss: reducer must accept axis_name if the loss has one, got reducer mean. Use mean_loss, sum_loss or identity_loss.",
        ),
    ],
)
def test_the_mesh_axis_is_an_argument_of_the_loss(reducer, axis_name, message):
    with raises(TypeError, message):
        rotation_loss(PRED, BINS, RES, 2, reducer, axis_name=axis_name)


COLUMNS = "Columns of pred are num_bins logits, then (sin, cos) for each bin."


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: rotation_loss(PRED, BINS, RES, 3, mean_loss),
            ValueError,
            f"rotation_loss: for num_bins=3, pred must be [B, >= 9], target_bin [B, 3] and target_res [B, >= 3], got pred (3, 6) and target_bin (3, 2) and target_res (3, 2). {COLUMNS}",
        ),
        (
            lambda: rotation_loss(PRED, BINS[:, :1], RES, 2, mean_loss),
            ValueError,
            f"rotation_loss: for num_bins=2, pred must be [B, >= 6], target_bin [B, 2] and target_res [B, >= 2], got pred (3, 6) and target_bin (3, 1) and target_res (3, 2). {COLUMNS}",
        ),
        (
            lambda: rotation_loss(PRED, BINS[:1], RES, 2, mean_loss),
            ValueError,
            f"rotation_loss: for num_bins=2, pred must be [B, >= 6], target_bin [B, 2] and target_res [B, >= 2], got pred (3, 6) and target_bin (1, 2) and target_res (3, 2). {COLUMNS}",
        ),
        (
            lambda: rotation_loss(PRED, BINS, RES, 0, mean_loss),
            ValueError,
            "rotation_loss: num_bins must be positive, got num_bins 0.",
        ),
        (
            lambda: rotation_loss(PRED, BINS, RES, 2, lambda loss: loss.mean()),
            TypeError,
            "reducer: a reducer must accept where= when elements are masked, got reducer <lambda>. Use mean_loss, sum_loss or jnp.mean, or add a keyword where=None to yours.",
        ),
    ],
)
def test_mistakes_are_errors(call, kind, message):
    with raises(kind, message):
        call()
