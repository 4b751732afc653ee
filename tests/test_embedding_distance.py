"""Embedding distance: mining by hand, the borders of the clamp, and ignored pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import EmbeddingDistanceLoss, embedding_distance_loss

PRED = jnp.array([[0.9, 0.5, 0.2, 0.31, 0.8, 0.7]])
TARGET = jnp.array([[1, 0, 0, 0, 0, 0]])


def differentiate(pred, target, weight=None, **options):
    step = jax.jit(
        jax.value_and_grad(lambda p: embedding_distance_loss(p, target, weight, **options))
    )
    return step(jnp.asarray(pred))


def test_values_by_hand():
    value, gradient = differentiate(PRED, TARGET)
    np.testing.assert_allclose(value, (0.1**2 + 0.2**2 + 0.5**2 + 0.4**2) / 4, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.05, 0.1, 0, 0, 0.25, 0.2]], atol=1e-7)


@pytest.mark.parametrize(
    ("neg_pos_ub", "kept"), [(1.0, 1), (2.5, 2), (0.5, 0), (5.0, 5), (-1.0, 5), (0.0, 5)]
)
def test_the_maximum_number_of_negatives(neg_pos_ub, kept):
    _, weight, count = EmbeddingDistanceLoss(neg_pos_ub=neg_pos_ub).update_weight(
        PRED, TARGET, jnp.ones((1, 6))
    )
    assert count == 1 + kept
    hardest = np.argsort(-np.asarray(PRED[0, 1:]))[:kept] + 1
    np.testing.assert_array_equal(np.flatnonzero(weight), sorted([0, *hardest]))


def test_without_positives_the_maximum_is_that_of_one_positive():
    _, weight, count = EmbeddingDistanceLoss().update_weight(PRED, TARGET * 0, jnp.ones((1, 6)))
    np.testing.assert_array_equal(weight, [[1, 0, 0, 0, 1, 1]])
    assert count == 3
    assert embedding_distance_loss(PRED, TARGET * 0, neg_pos_ub=0.5) == 0  # no pair is kept


def test_ties_go_to_the_lowest_index():
    loss = EmbeddingDistanceLoss(neg_pos_ub=2.0)
    pred = jnp.array([[0.9, 0.5, 0.5], [0.5, 0.5, 0.5]])
    target = jnp.array([[1, 0, 0], [0, 0, 0]])
    _, weight, _ = loss.update_weight(pred, target, jnp.ones((2, 3)))
    np.testing.assert_array_equal(weight, [[1, 1, 1], [0, 0, 0]])
    # Above 1 the clamp makes the losses equal: the first pairs are kept.
    _, weight, _ = loss.update_weight(pred.at[1].set(7.0) + 1, target, jnp.ones((2, 3)))
    np.testing.assert_array_equal(weight, [[1, 1, 1], [0, 0, 0]])


def test_the_maximum_is_computed_like_in_python():
    pred, target = jnp.full((10, 20), 0.5), jnp.arange(200).reshape(10, 20) < 100
    _, _, count = EmbeddingDistanceLoss(neg_pos_ub=0.29).update_weight(
        pred, target, jnp.ones((10, 20))
    )
    assert count == 100 + 28


def test_the_clamp_passes_the_whole_gradient_at_its_borders():
    # Positives at 0 and 1, above 1 and below 0; then a negative at exactly 1 + margin.
    value, gradient = differentiate([[0.0, 1.0, 1.25, -0.125]], jnp.ones((1, 4)))
    assert value == (1 + 0 + 0 + 1) / 4
    np.testing.assert_array_equal(gradient, [[-0.5, 0, 0, 0]])
    _, gradient = differentiate([[1.25]], jnp.zeros((1, 1)), neg_margin=0.25)
    assert gradient == 2.0


def test_margins_by_hand():
    value, _ = differentiate([[1.0, 0.5]], jnp.array([[1, 0]]), pos_margin=0.3, neg_margin=0.1)
    np.testing.assert_allclose(value, (0.3**2 + 0.4**2) / 2, rtol=1e-6)
    value, _ = differentiate([[1.0, 0.5]], jnp.array([[1, 0]]), pos_margin=-0.3, neg_margin=-0.1)
    np.testing.assert_allclose(value, (0 + 0.5**2) / 2, rtol=1e-6)


def test_weights_scale_the_sum_but_not_the_order_or_the_count():
    weight = jnp.array([[0.5, 0.25, 1.0, 1.0, 0.01, 1.0]])
    value, _ = differentiate(PRED, TARGET, weight, neg_pos_ub=2.0)
    np.testing.assert_allclose(value, (0.5 * 0.1**2 + 0.01 * 0.5**2 + 1.0 * 0.4**2) / 3, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 0.99])
@pytest.mark.parametrize("how", ["target", "weight", "negative weight", "where"])
def test_ignored_pairs_change_nothing(how, bad):
    pred, target = jnp.array([[0.9, bad, 0.8, 0.7, 0.6]]), jnp.array([[1, 0, 0, 0, 0]])
    weight, where = jnp.ones((1, 5)), None
    if how == "target":
        target = target.at[0, 1].set(-1)
    elif how == "where":
        where = jnp.array([[True, False, True, True, True]])
        weight, target = weight.at[0, 1].set(jnp.nan), target.at[0, 1].set(7)
    else:
        weight = weight.at[0, 1].set(0.0 if how == "weight" else -3.0)
    value, gradient = differentiate(pred, target, weight, neg_pos_ub=2.0, where=where)
    kept = np.array([0, 2, 3, 4])
    expected, expected_gradient = differentiate(pred[:, kept], target[:, kept], neg_pos_ub=2.0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, kept], expected_gradient, rtol=1e-6)
    assert gradient[0, 1] == 0


def test_update_weight_returns_the_pairs_without_padding():
    where = jnp.array([[True, True, False, True, True, True]])
    pred = PRED.at[0, 2].set(jnp.nan)
    x, weight, _ = EmbeddingDistanceLoss().update_weight(
        pred, TARGET, jnp.ones((1, 6)), where=where
    )
    np.testing.assert_allclose(x, [[0.9, 0.2, 0, 0.01, 0.5, 0.4]], atol=1e-6)
    np.testing.assert_array_equal(weight, [[1, 1, 0, 0, 1, 1]])


@pytest.mark.parametrize("bad", [2.0, 0.5, np.nan])
def test_an_invalid_target_gives_nan(bad):
    target = TARGET.astype(float).at[0, 2].set(bad)
    assert np.isnan(embedding_distance_loss(PRED, target))
    assert not np.isnan(embedding_distance_loss(PRED, target, jnp.ones((1, 6)).at[0, 2].set(0)))


def test_weights_of_0_give_zero_loss_and_gradient():
    value, gradient = differentiate(PRED, TARGET, jnp.zeros((1, 6)))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_random_mining_keeps_the_same_number():
    loss = EmbeddingDistanceLoss(neg_pos_ub=2.0, hard_mining=False)
    chosen = set()
    for seed in range(8):
        key = jax.random.key(seed)
        _, weight, count = loss.update_weight(PRED, TARGET, jnp.ones((1, 6)), key)
        assert weight[0, 0] == 1
        assert weight.sum() == count == 3
        chosen.add(tuple(np.flatnonzero(weight)))
        assert loss(PRED, TARGET, key=key) >= 0
    assert len(chosen) > 2


def test_mining_under_vmap_and_in_half_precision():
    preds = jnp.stack([PRED, PRED[:, ::-1]]).astype(jnp.float16)
    targets = jnp.stack([TARGET, TARGET[:, ::-1]])
    losses = jax.vmap(EmbeddingDistanceLoss())(preds, targets)
    np.testing.assert_allclose(losses, [0.115, 0.115], rtol=1e-3)
    assert losses.dtype == jnp.float32


def test_a_large_half_precision_loss_does_not_overflow():
    pred = jnp.ones((300, 300), jnp.float16)
    assert embedding_distance_loss(pred, jnp.zeros((300, 300)), neg_pos_ub=0.0, neg_margin=0.0) == 1


BROADCAST = "Losses never broadcast: (N,) against (N, 1) would silently average N * N pairs."


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: embedding_distance_loss(PRED, TARGET[:, :1]),
            f"pred and target must have the same shape, got pred (1, 6) and target (1, 1). {BROADCAST}",
        ),
        (
            lambda: embedding_distance_loss(PRED, TARGET, jnp.ones((1, 1))),
            f"pred and weight must have the same shape, got pred (1, 6) and weight (1, 1). {BROADCAST}",
        ),
        (
            lambda: embedding_distance_loss(PRED, TARGET, hard_mining=False),
            "hard_mining=False needs key, got key None. Pass a jax.random key, a new one per step.",
        ),
    ],
)
def test_mistakes_are_errors(call, message):
    with raises(ValueError, f"embedding_distance_loss: {message}"):
        call()


def test_an_error_of_update_weight_names_the_method():
    message = (
        "EmbeddingDistanceLoss.update_weight: hard_mining=False needs key, got key None. "
        "Pass a jax.random key, a new one per step."
    )
    with raises(ValueError, message):
        EmbeddingDistanceLoss(hard_mining=False).update_weight(PRED, TARGET, jnp.ones((1, 6)))
