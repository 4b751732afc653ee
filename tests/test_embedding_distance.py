"""Embedding distance: mining by hand, the borders of the clamp, pairs that take no part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss import EmbeddingDistanceLoss, embedding_distance_loss

PRED = jnp.array([[0.9, 0.5, 0.2, 0.31, 0.8, 0.7]])
TARGET = jnp.array([[1, 0, 0, 0, 0, 0]])


def differentiate(pred, target, weight=None, **options):
    step = jax.jit(
        jax.value_and_grad(lambda p: embedding_distance_loss(p, target, weight, **options))
    )
    return step(jnp.asarray(pred))


def test_by_hand():
    value, gradient = differentiate(PRED, TARGET)
    np.testing.assert_allclose(value, (0.1**2 + 0.2**2 + 0.5**2 + 0.4**2) / 4, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.05, 0.1, 0, 0, 0.25, 0.2]], atol=1e-7)


@pytest.mark.parametrize(
    ("ub", "kept"), [(1.0, 1), (2.5, 2), (0.5, 0), (5.0, 5), (-1.0, 5), (0.0, 5)]
)
def test_the_bound_of_negatives(ub, kept):
    _, weight, count = EmbeddingDistanceLoss(neg_pos_ub=ub).update_weight(
        PRED, TARGET, jnp.ones((1, 6))
    )
    assert count == 1 + kept
    hardest = np.argsort(-np.asarray(PRED[0, 1:]))[:kept] + 1
    np.testing.assert_array_equal(np.flatnonzero(weight), sorted([0, *hardest]))


def test_without_positives_the_bound_counts_one():
    _, weight, count = EmbeddingDistanceLoss().update_weight(PRED, TARGET * 0, jnp.ones((1, 6)))
    np.testing.assert_array_equal(weight, [[1, 0, 0, 0, 1, 1]])
    assert count == 3
    assert embedding_distance_loss(PRED, TARGET * 0, neg_pos_ub=0.5) == 0  # keeps none: 0, not NaN


def test_equal_costs_are_kept_from_the_lowest_index():
    loss = EmbeddingDistanceLoss(neg_pos_ub=2.0)
    pred = jnp.array([[0.9, 0.5, 0.5], [0.5, 0.5, 0.5]])
    target = jnp.array([[1, 0, 0], [0, 0, 0]])
    _, weight, _ = loss.update_weight(pred, target, jnp.ones((2, 3)))
    np.testing.assert_array_equal(weight, [[1, 1, 1], [0, 0, 0]])
    # Beyond 1 the clamp makes costs equal: the first are kept, not the largest similarities.
    _, weight, _ = loss.update_weight(pred.at[1].set(7.0) + 1, target, jnp.ones((2, 3)))
    np.testing.assert_array_equal(weight, [[1, 1, 1], [0, 0, 0]])


def test_the_limit_is_that_of_doubles():
    pred, target = jnp.full((10, 20), 0.5), jnp.arange(200).reshape(10, 20) < 100
    _, _, count = EmbeddingDistanceLoss(neg_pos_ub=0.29).update_weight(
        pred, target, jnp.ones((10, 20))
    )
    assert count == 100 + 28


def test_the_clamp_passes_the_gradient_at_its_borders():
    # Positives at 0 and 1, beyond both; a negative exactly margin + 1.
    value, gradient = differentiate([[0.0, 1.0, 1.25, -0.125]], jnp.ones((1, 4)))
    assert value == (1 + 0 + 0 + 1) / 4
    np.testing.assert_array_equal(gradient, [[-0.5, 0, 0, 0]])
    _, gradient = differentiate([[1.25]], jnp.zeros((1, 1)), neg_margin=0.25)
    assert gradient == 2.0


def test_margins():
    value, _ = differentiate([[1.0, 0.5]], jnp.array([[1, 0]]), pos_margin=0.3, neg_margin=0.1)
    np.testing.assert_allclose(value, (0.3**2 + 0.4**2) / 2, rtol=1e-6)
    value, _ = differentiate([[1.0, 0.5]], jnp.array([[1, 0]]), pos_margin=-0.3, neg_margin=-0.1)
    np.testing.assert_allclose(value, (0 + 0.5**2) / 2, rtol=1e-6)


def test_weights_scale_the_sum_but_rank_and_count_as_one():
    weight = jnp.array([[0.5, 0.25, 1.0, 1.0, 0.01, 1.0]])
    value, _ = differentiate(PRED, TARGET, weight, neg_pos_ub=2.0)
    np.testing.assert_allclose(value, (0.5 * 0.1**2 + 0.01 * 0.5**2 + 1.0 * 0.4**2) / 3, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 0.99])
@pytest.mark.parametrize("how", ["target", "weight", "negative weight", "where"])
def test_ignored_pairs_take_no_part_in_anything(how, bad):
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


def test_the_chosen_pairs_are_returned_without_padding():
    where = jnp.array([[True, True, False, True, True, True]])
    pred = PRED.at[0, 2].set(jnp.nan)
    x, weight, _ = EmbeddingDistanceLoss().update_weight(
        pred, TARGET, jnp.ones((1, 6)), where=where
    )
    np.testing.assert_allclose(x, [[0.9, 0.2, 0, 0.01, 0.5, 0.4]], atol=1e-6)
    np.testing.assert_array_equal(weight, [[1, 1, 0, 0, 1, 1]])


@pytest.mark.parametrize("bad", [2.0, 0.5, np.nan])
def test_a_target_that_is_no_label_gives_nan(bad):
    target = TARGET.astype(float).at[0, 2].set(bad)
    assert np.isnan(embedding_distance_loss(PRED, target))
    assert not np.isnan(embedding_distance_loss(PRED, target, jnp.ones((1, 6)).at[0, 2].set(0)))


def test_all_weights_0_give_0_and_0():
    value, gradient = differentiate(PRED, TARGET, jnp.zeros((1, 6)))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_random_mining_needs_a_key_and_keeps_as_many():
    loss = EmbeddingDistanceLoss(neg_pos_ub=2.0, hard_mining=False)
    with pytest.raises(
        ValueError, match="embedding_distance_loss: hard_mining=False needs key, got key"
    ):
        loss(PRED, TARGET)
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


def test_errors():
    with pytest.raises(
        ValueError, match=r"embedding_distance_loss: pred and target and weight must "
    ):
        embedding_distance_loss(PRED, TARGET, jnp.ones((1, 1)))
