"""The mask head of Mask R-CNN: numbers by hand, unused masks, classes out of range, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises
from jax.experimental import checkify

from vis4d_jax_loss import MaskRCNNHeadLoss, mask_rcnn_head_loss

# Two objects, three classes, masks of 1 x 2 pixels. A logit of log(3) is the probability 3 / 4.
LOG3, LOG2, LOG4 = np.log(3.0), np.log(2.0), np.log(4.0)
PREDS = np.full((2, 3, 1, 2), 9.0, np.float32)
PREDS[0, 2] = [[LOG3, 0]]
PREDS[1, 0] = [[0, -LOG3]]
CLASSES = np.array([2, 0])
MASKS = np.array([[[1, 0]], [[1, 1]]])
BY_HAND = [[LOG4 - LOG3, LOG2], [LOG2, LOG4]]  # -log(3/4), -log(1/2); -log(1/2), -log(1/4)


def loss_of(preds, *args, **options):
    return mask_rcnn_head_loss(preds, *args, **options).rcnn_loss_mask


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float32])
def test_the_mean_over_the_pixels_of_each_objects_own_class(dtype):
    value = loss_of(PREDS, CLASSES, MASKS.astype(dtype))
    np.testing.assert_allclose(value, np.mean(BY_HAND), rtol=1e-6)


def test_a_masked_object_is_not_counted():
    value = loss_of(PREDS, CLASSES, MASKS, where=jnp.array([False, True]))
    np.testing.assert_allclose(value, np.mean(BY_HAND[1]), rtol=1e-6)


def test_the_masks_of_other_classes_may_be_nan_and_get_no_gradient():
    preds = np.where(PREDS == 9, np.nan, PREDS)
    value, gradient = jax.jit(jax.value_and_grad(loss_of))(preds, CLASSES, MASKS)
    np.testing.assert_allclose(value, np.mean(BY_HAND), rtol=1e-6)
    expected = np.zeros_like(PREDS)
    expected[0, 2] = [[(3 / 4 - 1) / 4, (1 / 2) / 4]]
    expected[1, 0] = [[(1 / 2 - 1) / 4, (1 / 4 - 1) / 4]]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_target_masks_have_no_gradient():
    gradient = jax.grad(loss_of, argnums=2)(PREDS, CLASSES, MASKS.astype(np.float32))
    np.testing.assert_array_equal(gradient, np.zeros(MASKS.shape))


@pytest.mark.parametrize("bad", [-1, 3, 2**40])
def test_a_class_out_of_range_makes_the_loss_nan_and_is_reported(bad):
    classes = np.array([2, bad])
    assert np.isnan(loss_of(PREDS, classes, MASKS))
    assert loss_of(PREDS, classes, MASKS, where=np.array([True, False])) > 0
    error, _ = checkify.checkify(loss_of)(PREDS, classes, MASKS)
    text = "mask_rcnn_head_loss: target_classes must hold labels from 0 to 2, got "
    assert text in error.get()
    assert "at (1). Bad values: 1 of 2." in error.get()


def test_no_valid_object_gives_0():
    where = jnp.zeros(2, bool)
    value, gradient = jax.value_and_grad(loss_of)(PREDS * np.nan, CLASSES, MASKS, where=where)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros(PREDS.shape))


def test_one_class_of_all_objects():
    value = loss_of(PREDS[:1, 2:], np.array([0]), MASKS[:1])
    np.testing.assert_allclose(value, np.mean(BY_HAND[0]), rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"target_classes": CLASSES[:1]},
            "target_classes must be [K] if mask_preds is [K, C, h, w], got mask_preds (2, 3, 1, 2) "
            "and target_classes (1,).",
        ),
        (
            {"target_masks": MASKS[:, 0]},
            "target_masks must be [K, h, w] if mask_preds is [K, C, h, w], got mask_preds "
            "(2, 3, 1, 2) and target_masks (2, 2).",
        ),
        (
            {"mask_preds": PREDS[0]},
            "mask_preds must be [K, C, h, w], got mask_preds (3, 1, 2).",
        ),
    ],
)
def test_shapes_must_agree(changed, message):
    inputs = dict(mask_preds=PREDS, target_classes=CLASSES, target_masks=MASKS) | changed
    with raises(ValueError, f"mask_rcnn_head_loss: {message} Axes of size 1 never broadcast."):
        mask_rcnn_head_loss(**inputs)


def test_the_number_of_classes_is_checked():
    message = (
        "mask_rcnn_head_loss: mask_preds must have num_classes classes, got mask_preds with 3 "
        "classes and num_classes 80."
    )
    with raises(ValueError, message):
        MaskRCNNHeadLoss(80)(PREDS, CLASSES, MASKS)
