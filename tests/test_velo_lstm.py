"""VeloLSTM: states by hand, what takes no part, short trajectories, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import VeloLSTMLoss, velo_lstm_loss

# Two trajectories of T = 6 states, each of one number. The last prediction takes no part.
TRUTH = jnp.array([[9.0, 0.0, 1.0, 2.0, 3.0, 4.0], [9.0, 0.0, 0.0, 0.0, 0.0, 0.0]])[..., None]
REFINES = (
    TRUTH[:, 1:] + jnp.array([[0.5, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 3.0]])[..., None]
)
PREDS = jnp.array([[1.0, 2.0, 4.0, 4.0, 7.0], [0.0, 1.0, 0.0, 1.0, 7.0]])[..., None]
REFINE = np.array([0.5**2 / 2 / 5, (3 - 0.5) / 5])  # smooth L1 with beta 1
PRED = np.array([2 * 0.5 / 4 - 0.5 / 4, 2 * 0.5 / 4])  # errors 0 0 1 0, and 0 1 0 1
LINEAR = np.array([(1 + 2) / 2, (2 + 2) / 2])  # motions 1 2 0, and 1 -1 1
NAMES = ["refine_loss", "pred_loss", "linear_loss"]


def loss_of(preds, refines, truth, where=None, **options):
    options = {"loc_dim": 1, "smooth_weight": 0.5} | options
    return velo_lstm_loss(preds, refines, truth, where=where, **options)


def test_all_losses_by_hand():
    losses = loss_of(PREDS, REFINES, TRUTH)
    assert list(losses) == NAMES
    expected = [REFINE.mean(), PRED.mean(), 0.5 * LINEAR.mean()]
    np.testing.assert_allclose(list(losses.values()), expected, rtol=1e-6)


@pytest.mark.parametrize("kept", [0, 1])
def test_padding_may_be_anything(kept):
    where = jnp.arange(2) == kept
    for bad in (jnp.nan, jnp.inf, 1e30):
        inputs = [x.at[1 - kept].set(bad) for x in (PREDS, REFINES, TRUTH)]
        losses = loss_of(*inputs, where)
        expected = [REFINE[kept], PRED[kept], 0.5 * LINEAR[kept]]
        np.testing.assert_allclose(list(losses.values()), expected, rtol=1e-6)


def gradients(*inputs):
    return jax.jit(jax.grad(lambda *x: sum(loss_of(*x).values()), argnums=(0, 1, 2)))(*inputs)


def test_the_last_prediction_the_first_state_and_further_numbers_take_no_part():
    truth = jnp.concatenate([TRUTH.at[:, 0].set(jnp.nan), jnp.full_like(TRUTH, jnp.nan)], axis=-1)
    inputs = PREDS.at[:, -1].set(jnp.nan), REFINES, truth
    assert jax.tree.map(float, loss_of(*inputs)) == jax.tree.map(
        float, loss_of(PREDS, REFINES, TRUTH)
    )
    of_preds, of_refines, of_truth = gradients(*inputs)
    np.testing.assert_array_equal(of_preds[:, -1], 0)
    assert np.isfinite(of_preds).all()
    assert np.isfinite(of_refines).all()
    np.testing.assert_array_equal(of_truth, 0)  # a constant


def test_exact_matches_and_constant_motion_have_gradient_0():
    truth = jnp.broadcast_to(jnp.arange(6.0)[None, :, None], (2, 6, 1))
    preds = jnp.concatenate([truth[:, 2:], truth[:, :1]], axis=1)
    for gradient in gradients(preds, truth[:, 1:], truth):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("times", [1, 2, 3, 4])
def test_without_a_second_difference_the_linear_loss_is_0(times):
    inputs = PREDS[:, : times - 1], REFINES[:, : times - 1], TRUTH[:, :times]
    losses = loss_of(*inputs)
    assert losses["linear_loss"] == 0
    assert all(np.isfinite(loss) for loss in losses.values())
    assert all(np.isfinite(gradient).all() for gradient in gradients(*inputs))


def test_a_mean_of_nothing_is_0():
    for inputs, where in (
        ([x[:0] for x in (PREDS, REFINES, TRUTH)], None),
        ([x * jnp.nan for x in (PREDS, REFINES, TRUTH)], jnp.zeros(2, bool)),
    ):
        assert list(map(float, loss_of(*inputs, where).values())) == [0, 0, 0]


def test_the_weight_may_be_traced():
    step = jax.jit(lambda weight: loss_of(PREDS, REFINES, TRUTH, smooth_weight=weight))
    np.testing.assert_allclose(step(2.0)["linear_loss"], 2 * LINEAR.mean(), rtol=1e-6)


def test_the_mesh_axis_covers_all_means():
    loss = VeloLSTMLoss(1, 0.5, axis_name="data")
    step = jax.jit(jax.vmap(lambda *x: loss(*x[:3], where=x[3]), axis_name="data"))
    shards = [jnp.stack([x, x]) for x in (PREDS, REFINES, TRUTH)]
    losses = step(*shards, jnp.array([[True, True], [True, False]]))
    for name, one in zip(NAMES, (REFINE, PRED, 0.5 * LINEAR), strict=True):
        np.testing.assert_allclose(losses[name], [one[[0, 1, 0]].mean()] * 2, rtol=1e-6)


SHORT = TRUTH[:, :5]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: velo_lstm_loss(PREDS, REFINES, TRUTH),
            ValueError,
            "velo_lstm_loss: loc_preds must be [B, T - 1, 7], got loc_preds (2, 5, 1). Axes of size 1 never broadcast.",
        ),
        (
            lambda: loss_of(PREDS, REFINES[:1], TRUTH),
            ValueError,
            "velo_lstm_loss: loc_refines must be [B, T - 1, 1] if loc_preds is [B, T - 1, 1], got loc_preds (2, 5, 1) and loc_refines (1, 5, 1). Axes of size 1 never broadcast.",
        ),
        (
            lambda: loss_of(PREDS, REFINES, SHORT),
            ValueError,
            "velo_lstm_loss: gt_traj must be [B, T, >= 1] if loc_preds is [B, T - 1, 1], got loc_preds (2, 5, 1) and gt_traj (2, 5, 1). The first state of gt_traj has no prediction.",
        ),
        (
            lambda: loss_of(PREDS, REFINES, TRUTH[..., :0]),
            ValueError,
            "velo_lstm_loss: gt_traj must be [B, T, >= 1] if loc_preds is [B, T - 1, 1], got loc_preds (2, 5, 1) and gt_traj (2, 6, 0). The first state of gt_traj has no prediction.",
        ),
        (
            lambda: loss_of(PREDS, REFINES, TRUTH, jnp.ones((2, 5), bool)),
            ValueError,
            "velo_lstm_loss: where must cover the leading axes of the loss, got where (2, 5) and loss (2,). A mask is never matched to trailing axes.",
        ),
        (
            lambda: VeloLSTMLoss(loc_dim=0),
            ValueError,
            "VeloLSTMLoss: loc_dim must be positive, got loc_dim 0.",
        ),
        (
            lambda: VeloLSTMLoss(smooth_weight="a"),
            TypeError,
            "VeloLSTMLoss: smooth_weight must be a number, got smooth_weight 'a'.",
        ),
    ],
)
def test_mistakes_are_errors(call, kind, message):
    with raises(kind, message):
        call()
