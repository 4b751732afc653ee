"""Segmentation cross-entropy: values by hand, the margin that is cut off, layouts and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import (
    SegCrossEntropyLoss,
    cross_entropy,
    identity_loss,
    mean_loss,
    seg_cross_entropy_loss,
    sum_loss,
)

# One image of 2 x 2 pixels and two classes, as probabilities of class 0.
PROBS = np.array([[[0.5, 0.25], [0.8, 0.1]]])
LOGITS = jnp.log(jnp.stack([PROBS, 1 - PROBS], axis=-1))
LABELS = jnp.array([[[0, 1], [0, 255]]])
BY_HAND = -np.log([[[0.5, 0.75], [0.8, 1.0]]])  # the pixel of label 255 has loss 0


def test_values_by_hand():
    losses = seg_cross_entropy_loss(LOGITS, LABELS, identity_loss)
    np.testing.assert_allclose(losses, BY_HAND, rtol=1e-6)
    np.testing.assert_allclose(seg_cross_entropy_loss(LOGITS, LABELS), BY_HAND.sum() / 4, rtol=1e-6)


def test_a_mean_counts_ignored_pixels_unless_they_are_masked():
    valid = seg_cross_entropy_loss(LOGITS, LABELS, mean_loss, where=LABELS != 255)
    np.testing.assert_allclose(valid, BY_HAND.sum() / 3, rtol=1e-6)


@pytest.mark.parametrize("ignore_index", [0, -1, 7])
def test_ignored_pixels_have_zero_loss_and_gradient(ignore_index):
    labels = jnp.array([[[1, ignore_index], [1, 1]]])
    logits = LOGITS.at[0, 0, 1].set(jnp.nan)

    def loss(logits):
        return seg_cross_entropy_loss(logits, labels, sum_loss, ignore_index)

    value, gradient = jax.value_and_grad(loss)(logits)
    np.testing.assert_allclose(value, -np.log(0.5 * 0.2 * 0.9), rtol=1e-6)
    np.testing.assert_array_equal(gradient[0, 0, 1], 0)
    np.testing.assert_allclose(gradient[0, 0, 0], [0.5, -0.5], rtol=1e-6)


@pytest.mark.parametrize("class_axis", [-1, 1])
def test_the_margin_at_the_right_and_the_bottom_is_cut_off(class_axis):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 5, 7, 3)), rng.integers(0, 3, (2, 4, 5))
    logits[:, 4:] = logits[:, :, 5:] = np.nan
    expected = cross_entropy(logits[:, :4, :5], labels)
    inside = np.zeros((2, 5, 7, 3), bool)
    inside[:, :4, :5] = True

    def loss(logits):
        logits = jnp.moveaxis(logits, -1, class_axis)
        return seg_cross_entropy_loss(logits, labels, sum_loss, class_axis=class_axis)

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
    np.testing.assert_allclose(value, expected.sum(), rtol=1e-6)
    np.testing.assert_array_equal(gradient != 0, inside)


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_one_image_or_a_video(lead):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(*lead, 5, 7, 3)), rng.integers(0, 3, (*lead, 4, 5))
    expected = cross_entropy(logits[..., :4, :5, :], labels)
    np.testing.assert_allclose(seg_cross_entropy_loss(logits, labels), expected.mean(), rtol=1e-6)


def test_a_mask_may_cover_images():
    logits = jnp.concatenate([LOGITS, jnp.full_like(LOGITS, jnp.nan)])
    labels, where = jnp.concatenate([LABELS, LABELS + 9]), jnp.array([True, False])
    loss = seg_cross_entropy_loss(logits, labels, sum_loss, where=where)
    np.testing.assert_allclose(loss, BY_HAND.sum(), rtol=1e-6)


def test_the_module_returns_a_dict():
    losses = SegCrossEntropyLoss()(LOGITS, LABELS)
    assert list(losses) == ["loss_seg"]
    np.testing.assert_allclose(losses["loss_seg"], BY_HAND.mean(), rtol=1e-6)
    assert SegCrossEntropyLoss()(LOGITS, LABELS * 0 + 7, 7) == {"loss_seg": 0}
    channels_first = SegCrossEntropyLoss(class_axis=1)(jnp.moveaxis(LOGITS, -1, 1), LABELS)
    np.testing.assert_allclose(channels_first["loss_seg"], losses["loss_seg"], rtol=1e-6)


@pytest.mark.parametrize(
    ("output", "target"),
    [
        ((2, 4, 4, 3), (2, 5, 4)),  # too few rows
        ((1, 4, 4, 3), (2, 4, 4)),  # another number of images
        ((2, 2, 4, 4, 3), (2, 3, 4, 4)),  # another number of frames
        ((2, 3, 4, 4), (2, 4, 4)),  # the layout of class_axis=1, with fewer classes than rows
        ((4, 3), (4,)),  # a row instead of an image
    ],
)
def test_logits_must_be_at_least_as_large_as_labels(output, target):
    message = (
        "seg_cross_entropy_loss: output without its class axis must be at least as large as "
        f"target [..., H, W], got output {output} and target {target}. "
        "Logits have one axis more than labels: the classes, here class_axis=-1; "
        "use class_axis=1 for the layout [N, C, H, W]. "
        "Enlarge smaller logits first, with jax.image.resize."
    )
    with raises(ValueError, message):
        seg_cross_entropy_loss(jnp.zeros(output), jnp.zeros(target, int))


@pytest.mark.parametrize("classes", [5, 150])
def test_channels_first_by_mistake_is_an_error_also_if_classes_outnumber_rows(classes):
    """As [N, H, W, C] it would be an image of more rows, with 4 classes."""
    logits, labels = jnp.zeros((1, classes, 4, 4)), jnp.zeros((1, 4, 4), int)
    message = (
        "seg_cross_entropy_loss: output must have its classes on class_axis, "
        f"got output (1, {classes}, 4, 4) and target (1, 4, 4) with class_axis=-1. "
        "It looks like [N, C, H, W]: pass class_axis=1. Otherwise cut output to size first."
    )
    with raises(ValueError, message):
        seg_cross_entropy_loss(logits, labels)
    loss = seg_cross_entropy_loss(logits, labels, class_axis=1)
    np.testing.assert_allclose(loss, np.log(classes), rtol=1e-6)


@pytest.mark.parametrize(
    ("output", "target"),
    [
        ((1, 4, 4, 4), (1, 4, 4)),  # as many classes as columns
        ((1, 6, 6, 4), (1, 4, 4)),  # a margin on both sides
        ((1, 5, 4, 3), (1, 4, 4)),  # a margin of rows
        ((5, 4, 3), (4, 4)),  # one image
    ],
)
def test_what_does_not_look_like_channels_first(output, target):
    loss = seg_cross_entropy_loss(jnp.zeros(output), jnp.zeros(target, int))
    np.testing.assert_allclose(loss, np.log(output[-1]), rtol=1e-6)


def test_several_ignored_labels_count_in_the_mean():
    loss = seg_cross_entropy_loss(LOGITS, LABELS, mean_loss, (1, 255))
    np.testing.assert_allclose(loss, -np.log(0.5 * 0.8) / 4, rtol=1e-6)
