"""Cross-entropy: labels that are none, logits of every size, layouts, and the segmentation losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss import (
    CrossEntropyLoss,
    MultiLevelSegLoss,
    SegCrossEntropyLoss,
    cross_entropy,
    identity_loss,
    mean_loss,
    multi_level_seg_loss,
    seg_cross_entropy_loss,
    sum_loss,
)

LOGITS = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5], [0.2, 0.3, 0.5]]))
LABELS = jnp.array([0, 1, 255, 1])
BY_HAND = -np.log([0.7, 0.6, 1, 0.3])


def differentiate(logits, labels, **options):
    step = jax.jit(
        jax.value_and_grad(lambda z: cross_entropy(z, labels, reducer=sum_loss, **options))
    )
    return step(jnp.asarray(logits))


def test_by_hand():
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), BY_HAND, rtol=1e-6, atol=1e-7)


def test_the_denominator_is_for_the_user_to_choose():
    pixels = cross_entropy(LOGITS, LABELS, reducer=mean_loss)
    valid = cross_entropy(LOGITS, LABELS, reducer=mean_loss, where=LABELS != 255)
    np.testing.assert_allclose(pixels, BY_HAND.sum() / 4, rtol=1e-6)
    np.testing.assert_allclose(valid, BY_HAND.sum() / 3, rtol=1e-6)
    np.testing.assert_allclose(CrossEntropyLoss()(LOGITS, LABELS), pixels)


def test_class_weights_do_not_enter_the_denominator():
    loss = CrossEntropyLoss(class_weights=[0.5, -2.0, np.nan])  # class 2 is never a label
    expected = (0.5 * BY_HAND[0] - 2 * BY_HAND[1] - 2 * BY_HAND[3]) / 4
    np.testing.assert_allclose(loss(LOGITS, LABELS), expected, rtol=1e-6)
    traced = jax.jit(lambda w: cross_entropy(LOGITS, LABELS, w, reducer=mean_loss))
    np.testing.assert_allclose(traced(jnp.array([0.5, -2.0, 0.0])), expected, rtol=1e-6)


@pytest.mark.parametrize("ignore_index", [255, -1, -100, 0])
def test_ignored_elements_have_loss_0_and_gradient_0_whatever_their_logits(ignore_index):
    logits = LOGITS.at[2].set(jnp.array([jnp.nan, jnp.inf, -jnp.inf]))
    labels = jnp.array([1, 2, ignore_index, 1])
    value, gradient = differentiate(logits, labels, ignore_index=ignore_index)
    np.testing.assert_allclose(value, -np.log(0.2 * 0.3 * 0.3), rtol=1e-6)
    np.testing.assert_array_equal(gradient[2], 0)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("label", [255, -1, -100, 3, 2**31 - 1, -(2**31)])
def test_a_label_out_of_range_gives_nan_and_no_wrong_number(label):
    losses = cross_entropy(LOGITS, jnp.array([0, 1, 2, label]), ignore_index=254)
    np.testing.assert_array_equal(np.isnan(losses), [False, False, False, True])


@pytest.mark.parametrize("label", [np.nan, np.inf, -np.inf, 1e30, 3.0, -1.0])
def test_a_float_label_out_of_range_gives_nan(label):
    losses = cross_entropy(LOGITS, jnp.array([0.0, 1.0, 2.0, label]))
    np.testing.assert_array_equal(np.isnan(losses), [False, False, False, True])


def test_float_labels_are_truncated():
    labels = jnp.array([0.9, 1.99, 255.0, -0.5])
    np.testing.assert_array_equal(
        cross_entropy(LOGITS, labels), cross_entropy(LOGITS, jnp.array([0, 1, 255, 0]))
    )


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int16, jnp.uint32, jnp.bfloat16, jnp.float16])
def test_labels_of_any_dtype(dtype):
    np.testing.assert_array_equal(
        cross_entropy(LOGITS, LABELS.astype(dtype)), cross_entropy(LOGITS, LABELS)
    )
    binary = cross_entropy(LOGITS, jnp.array([True, False, True, True]))
    np.testing.assert_array_equal(binary, cross_entropy(LOGITS, jnp.array([1, 0, 1, 1])))


def test_int8_cannot_hold_255_and_says_so_by_nan():
    assert np.isnan(cross_entropy(LOGITS, LABELS.astype(jnp.int8))[2])


def test_wide_labels_do_not_wrap_into_the_classes():
    with jax.enable_x64(True):
        losses = cross_entropy(LOGITS, jnp.array([0, 1, 2**32 + 1, 1], jnp.int64))
    np.testing.assert_array_equal(np.isnan(losses), [False, False, True, False])


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_logits(size):
    logits = jnp.array([[size, -size, 0.0], [-size, size, size]])
    value, gradient = differentiate(logits, jnp.array([0, 1]))
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0, 0, 0], [0, -0.5, 0.5]], atol=1e-6)
    value, gradient = differentiate(logits, jnp.array([1, 0]))
    np.testing.assert_allclose(value, 4 * size + np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[1, -1, 0], [-1, 0.5, 0.5]], atol=1e-6)


def test_half_precision_logits_at_the_end_of_their_range():
    value, gradient = differentiate(jnp.array([[60_000.0, -60_000.0]], jnp.float16), jnp.array([1]))
    assert value == 120_000
    np.testing.assert_array_equal(gradient, [[1, -1]])


def test_a_class_of_logit_minus_infinity_is_no_class():
    eager = cross_entropy(jnp.array([0.0, 0.0, -jnp.inf]), jnp.array(0))
    np.testing.assert_allclose(eager, np.log(2), rtol=1e-6)
    value, gradient = differentiate([[0.0, 0.0, -np.inf]], jnp.array([0]))
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.5, 0.5, 0]], rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2])
def test_the_classes_may_lie_on_any_axis(axis):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 3, 4, 5)), rng.integers(0, 5, (2, 3, 4))
    expected = cross_entropy(logits, labels)
    moved = cross_entropy(np.moveaxis(logits, -1, axis), labels, class_axis=axis)
    np.testing.assert_allclose(moved, expected, rtol=1e-6)


def test_a_single_example_without_batch():
    np.testing.assert_allclose(cross_entropy(LOGITS[0], jnp.array(1)), -np.log(0.2), rtol=1e-6)


def test_the_mask_covers_pixels_or_images():
    logits, labels = jnp.zeros((2, 2, 2, 4)), jnp.zeros((2, 2, 2), int)
    pixels = jnp.array([[[True, False], [False, False]], [[True, True], [True, True]]])
    loss = cross_entropy(logits, labels, where=pixels)
    np.testing.assert_allclose(loss, np.log(4) * pixels, rtol=1e-6)
    loss = cross_entropy(logits, labels, where=jnp.array([True, False]), reducer=sum_loss)
    np.testing.assert_allclose(loss, 4 * np.log(4), rtol=1e-6)


def test_mismatches_name_class_axis():
    logits, labels = jnp.zeros((2, 3, 8, 8)), jnp.zeros((2, 8, 8), int)
    message = (
        r"cross_entropy: output without its class axis must have .* class_axis=-1; use class_axis=1"
    )
    with pytest.raises(ValueError, match=message):
        cross_entropy(logits, labels)
    assert cross_entropy(logits, labels, class_axis=1).shape == labels.shape
    with pytest.raises(ValueError, match="here class_axis=4"):
        cross_entropy(logits, labels, class_axis=4)
    with pytest.raises(
        ValueError, match=r"one weight for each of the 3 classes, got class_weights \(4"
    ):
        cross_entropy(logits, labels, jnp.ones(4), class_axis=1)
    with pytest.raises(ValueError, match=r"got output \(2, 3\) and target \(2, 3\)"):
        cross_entropy(jnp.zeros((2, 3)), jnp.zeros((2, 3)))  # soft targets


@pytest.mark.parametrize("class_axis", [-1, 1])
def test_segmentation_cuts_the_margin_at_the_right_and_the_bottom(class_axis):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 5, 7, 3)), rng.integers(0, 3, (2, 4, 5))
    expected = cross_entropy(logits[:, :4, :5], labels)
    gradient_inside = np.zeros((2, 5, 7, 3), bool)
    gradient_inside[:, :4, :5] = True

    def loss(logits):
        logits = jnp.moveaxis(logits, -1, class_axis)
        return seg_cross_entropy_loss(logits, labels, sum_loss, class_axis=class_axis)

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
    np.testing.assert_allclose(value, expected.sum(), rtol=1e-6)
    np.testing.assert_array_equal(gradient != 0, gradient_inside)


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_segmentation_of_one_image_or_of_video(lead):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(*lead, 5, 7, 3)), rng.integers(0, 3, (*lead, 4, 5))
    expected = cross_entropy(logits[..., :4, :5, :], labels)
    np.testing.assert_allclose(seg_cross_entropy_loss(logits, labels), expected.mean(), rtol=1e-6)
    if lead:
        one_frame_less = logits[:, 1:]
        with pytest.raises(ValueError, match=r"at least as large as target \[..., H, W\]"):
            seg_cross_entropy_loss(one_frame_less, labels)


def test_segmentation_modules_name_their_losses():
    logits, labels = jnp.zeros((1, 4, 4, 2)), jnp.full((1, 3, 3), 7)
    assert SegCrossEntropyLoss()(logits, labels, 7) == {"loss_seg": 0}
    losses = MultiLevelSegLoss(feature_idx=(1, -2), weights=(2.0, 3.0))([logits] * 2, labels * 0)
    assert list(losses) == ["loss_seg_level1", "loss_seg_level-2"]
    np.testing.assert_allclose(list(losses.values()), np.log(2) * np.array([2, 3]), rtol=1e-6)


def test_segmentation_mismatches():
    logits, labels = jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 5, 4), int)
    with pytest.raises(
        ValueError, match=r"seg_cross_entropy_loss: output .* at least as large as targ"
    ):
        seg_cross_entropy_loss(logits, labels)
    with pytest.raises(ValueError, match=r"at least as large as target \[..., H, W\]"):
        seg_cross_entropy_loss(jnp.zeros((4, 3)), jnp.zeros(4))
    with pytest.raises(ValueError, match="class_axis=1"):
        seg_cross_entropy_loss(jnp.zeros((2, 3, 4, 4)), jnp.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="feature_idx must not repeat a level"):
        multi_level_seg_loss([logits], labels, feature_idx=(0, 0))
    with pytest.raises(
        ValueError, match=r"must name levels of outputs, got feature_idx \(1,\) and"
    ):
        multi_level_seg_loss([logits], labels, feature_idx=(1,))
    with pytest.raises(ValueError, match="one weight for each entry of feature_idx"):
        multi_level_seg_loss([logits], labels, weights=(1.0, 2.0))
    assert multi_level_seg_loss([logits], labels[:, :4], identity_loss, ()) == {}
