"""Segmentation losses at several levels: values by hand, weights, levels and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import (
    MultiLevelSegLoss,
    identity_loss,
    multi_level_seg_loss,
    seg_cross_entropy_loss,
    sum_loss,
)
from vis4d_jax_loss._numerics import enable_x64

# Two levels of logits for labels of 1 x 2 pixels: 2 classes, and 3 classes with a margin.
FINE = jnp.log(jnp.array([[[[0.5, 0.5], [0.2, 0.8]]]]))
COARSE = jnp.zeros((1, 2, 3, 3))
LABELS = jnp.array([[[0, 1]]])
FINE_LOSS, COARSE_LOSS = -np.log(0.5 * 0.8) / 2, np.log(3)


def test_values_by_hand():
    losses = multi_level_seg_loss([FINE, COARSE], LABELS, feature_idx=(0, 1), weights=(2.0, 0.5))
    assert list(losses) == ["loss_seg_level0", "loss_seg_level1"]
    expected = [2 * FINE_LOSS, 0.5 * COARSE_LOSS]
    np.testing.assert_allclose(list(losses.values()), expected, rtol=1e-6)


def test_by_default_the_first_level_has_weight_1():
    losses = multi_level_seg_loss([FINE, COARSE], LABELS)
    assert list(losses) == ["loss_seg_level0"]
    np.testing.assert_allclose(losses["loss_seg_level0"], FINE_LOSS, rtol=1e-6)


def test_levels_keep_their_order_and_may_count_from_the_end():
    losses = multi_level_seg_loss([FINE, COARSE], LABELS, feature_idx=(-1, 0))
    assert list(losses) == ["loss_seg_level-1", "loss_seg_level0"]
    np.testing.assert_allclose(list(losses.values()), [COARSE_LOSS, FINE_LOSS], rtol=1e-6)


def test_no_level_gives_no_loss():
    assert multi_level_seg_loss([FINE], LABELS, identity_loss, ()) == {}


@pytest.mark.parametrize("class_axis", [-1, 1])
def test_each_level_is_a_segmentation_loss(class_axis):
    rng = np.random.default_rng(0)
    levels = [rng.normal(size=(2, *size, 3)) for size in ((4, 5), (6, 5))]
    levels = [np.moveaxis(x, -1, class_axis) for x in levels]
    labels = rng.integers(0, 3, (2, 4, 5))
    labels[0, 0] = 7  # ignored
    options = dict(ignore_index=7, class_axis=class_axis, where=jnp.array([True, False]))
    losses = multi_level_seg_loss(levels, labels, sum_loss, (0, 1), **options)
    for name, level in zip(losses, levels, strict=True):
        expected = seg_cross_entropy_loss(level, labels, sum_loss, **options)
        np.testing.assert_allclose(losses[name], expected, rtol=1e-6)


def test_ignored_labels_and_the_margin_have_zero_gradient():
    def loss(level):
        return multi_level_seg_loss([level], jnp.array([[[0, 255]]]), sum_loss)["loss_seg_level0"]

    gradient = jax.grad(loss)(COARSE.at[0, 1].set(jnp.nan))
    np.testing.assert_allclose(gradient[0, 0, 0], [-2 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_array_equal(gradient[0, 0, 1:], 0)
    np.testing.assert_array_equal(gradient[0, 1], 0)


def test_weights_may_be_traced():
    def total(weights):
        losses = multi_level_seg_loss([FINE, COARSE], LABELS, feature_idx=(0, 1), weights=weights)
        return sum(losses.values())

    gradient = jax.jit(jax.grad(total))([1.0, 1.0])
    np.testing.assert_allclose(gradient, [FINE_LOSS, COARSE_LOSS], rtol=1e-6)


def test_the_module_equals_the_function():
    loss = MultiLevelSegLoss(feature_idx=(1, -2), weights=(2.0, 3.0))
    losses = loss([FINE, COARSE], LABELS)
    assert list(losses) == ["loss_seg_level1", "loss_seg_level-2"]
    expected = [2 * COARSE_LOSS, 3 * FINE_LOSS]
    np.testing.assert_allclose(list(losses.values()), expected, rtol=1e-6)
    assert loss([FINE, COARSE], LABELS * 0 + 9, 9) == {"loss_seg_level1": 0, "loss_seg_level-2": 0}


def test_weights_of_numpy_keep_float32():
    with enable_x64(True):
        for weight in (np.float64(2), np.float32(2), 2):
            level = jnp.asarray(FINE, jnp.float32)
            loss = multi_level_seg_loss([level], LABELS, weights=(weight,))["loss_seg_level0"]
            assert loss.dtype == jnp.float32
            np.testing.assert_allclose(loss, 2 * FINE_LOSS, rtol=1e-6)


def test_several_ignored_labels():
    losses = multi_level_seg_loss([FINE], LABELS, ignore_index=(0, 255))
    np.testing.assert_allclose(losses["loss_seg_level0"], -np.log(0.8) / 2, rtol=1e-6)


ONE_WEIGHT_EACH = "weights must hold one weight for each entry of feature_idx"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: multi_level_seg_loss([FINE], LABELS, feature_idx=(0, 0)),
            "multi_level_seg_loss: feature_idx must not repeat a level, got feature_idx (0, 0) and outputs of 1 levels. Each level has one loss; negative indices count from the end.",
        ),
        (
            lambda: multi_level_seg_loss([FINE, COARSE], LABELS, feature_idx=(0, -2)),
            "multi_level_seg_loss: feature_idx must not repeat a level, got feature_idx (0, -2) and outputs of 2 levels. Each level has one loss; negative indices count from the end.",
        ),
        (
            lambda: multi_level_seg_loss([FINE], LABELS, weights=(jnp.ones(2),)),
            "multi_level_seg_loss: the weight of a level must be a scalar, got a weight (2,). Weights of elements belong in SumWeightedLoss.",
        ),
        (
            lambda: multi_level_seg_loss([FINE], LABELS, identity_loss, weights=(np.ones((1, 1)),)),
            "multi_level_seg_loss: the weight of a level must be a scalar, got a weight (1, 1). Weights of elements belong in SumWeightedLoss.",
        ),
        (
            lambda: multi_level_seg_loss([FINE], LABELS, feature_idx=(1,)),
            "multi_level_seg_loss: feature_idx must name levels of outputs, got feature_idx (1,) and outputs of 1 levels.",
        ),
        (
            lambda: multi_level_seg_loss([FINE], LABELS, feature_idx=(-2,)),
            "multi_level_seg_loss: feature_idx must name levels of outputs, got feature_idx (-2,) and outputs of 1 levels.",
        ),
        (
            lambda: multi_level_seg_loss([FINE], LABELS, weights=(1.0, 2.0)),
            f"multi_level_seg_loss: {ONE_WEIGHT_EACH}, got weights (1.0, 2.0) and feature_idx (0,).",
        ),
        (
            lambda: MultiLevelSegLoss(feature_idx=(0, 1), weights=(1.0,)),
            f"MultiLevelSegLoss: {ONE_WEIGHT_EACH}, got weights (1.0,) and feature_idx (0, 1).",
        ),
        (
            lambda: multi_level_seg_loss([FINE], jnp.zeros((1, 2, 2), int)),
            "seg_cross_entropy_loss: output without its class axis must be at least as large as target [..., H, W], got output (1, 1, 2, 2) and target (1, 2, 2). Logits have one axis more than labels: the classes, here class_axis=-1; use class_axis=1 for the layout [N, C, H, W]. Enlarge smaller logits first, with jax.image.resize.",
        ),
    ],
)
def test_mistakes_are_errors(call, message):
    with raises(ValueError, message):
        call()
