"""Dense anchor heads: numbers by hand, background, both masks, the divisor, inner losses, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

import vis4d_jax_loss as vjl

# One image with four anchors and two classes. A logit of 0 costs log(2) per class.
LOG2 = np.log(2.0)
CLS = np.zeros((1, 4, 2), np.float32)
REG = np.array([[[1, 1, 1, 1], [2, 0, 0, 0], [5, 5, 5, 5], [0, 0, 0, 3]]], np.float32)
LABELS = np.array([[0, 1, 2, 1]])  # 2 is background
TARGETS = np.zeros((1, 4, 4), np.float32)
NAN = np.nan


def losses_of(cls_outs=CLS, reg_outs=REG, labels=LABELS, bbox_targets=TARGETS, **options):
    options = dict(loss_cls=vjl.binary_cross_entropy, loss_bbox=vjl.l1_loss) | options
    return vjl.dense_anchor_head_loss(cls_outs, reg_outs, labels, bbox_targets, **options)


def close(losses, loss_cls, loss_bbox):
    np.testing.assert_allclose(losses, (loss_cls, loss_bbox), rtol=1e-6)


def test_both_sums_are_divided_by_the_number_of_anchors():
    close(losses_of(), 8 * LOG2 / 4, (4 + 2 + 3) / 4)


@pytest.mark.parametrize("background", [2, -1, 255, -(2**31), 2**40, 2.0, NAN, -1.5])
def test_any_label_out_of_range_is_background(background):
    cls_outs = np.log(np.array([[[3, 1]]], np.float32))  # probabilities 3 / 4 and 1 / 2
    labels = np.array([[background]])
    losses = losses_of(cls_outs, REG[:, :1], labels, TARGETS[:, :1])
    close(losses, np.log(4) + LOG2, 0)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.float32, jnp.bfloat16])
def test_labels_may_have_any_dtype(dtype):
    close(losses_of(labels=LABELS.astype(dtype)), 8 * LOG2 / 4, (4 + 2 + 3) / 4)


def test_more_classes_than_a_narrow_dtype_has_numbers():
    labels = np.array([[255]], np.uint8)
    losses = losses_of(np.zeros((1, 1, 300), np.float32), REG[:, :1], labels, TARGETS[:, :1])
    close(losses, 300 * LOG2, 4)


def test_with_a_single_logit_the_label_1_is_an_object_and_0_is_not():
    cls_outs = np.full((1, 4, 1), np.log(3.0), np.float32)
    losses = losses_of(cls_outs, labels=np.array([[1, 0, True, 2]]))
    by_hand = 2 * (np.log(4) - np.log(3)) + 2 * np.log(4)
    close(losses, by_hand / 4, (4 + 20 / 4 * 4) / 4)


def test_the_counted_anchors_are_the_divisor_and_those_with_an_object_have_a_box_loss():
    label_where = jnp.array([[True, False, True, True]])
    close(losses_of(label_where=label_where), 6 * LOG2 / 3, (4 + 3) / 3)


def test_the_box_mask_is_independent_of_labels():
    bbox_where = jnp.array([[False, False, True, True]])
    close(losses_of(bbox_where=bbox_where), 8 * LOG2 / 4, (20 + 3) / 4)
    both = losses_of(label_where=jnp.array([[True, False, False, False]]), bbox_where=bbox_where)
    close(both, 2 * LOG2, 23)


def test_a_mask_of_images_counts_all_their_anchors():
    two = [np.concatenate([x, x * NAN if x.dtype == np.float32 else x]) for x in (CLS, REG)]
    two += [np.concatenate([x, x]) for x in (LABELS, TARGETS)]
    losses = losses_of(*two, label_where=jnp.array([True, False]))
    close(losses, 8 * LOG2 / 4, 9 / 4)


@pytest.mark.parametrize("avg_factor", [2, 2.0, np.float32(2), jnp.int32(2), jnp.bfloat16(2)])
def test_the_divisor_may_be_given(avg_factor):
    losses = losses_of(avg_factor=avg_factor)
    close(losses, 8 * LOG2 / 2, 9 / 2)
    assert all(x.dtype == jnp.float32 for x in losses)


def test_nothing_counted_gives_0_with_zero_gradient():
    def total(cls_outs, reg_outs):
        return sum(losses_of(cls_outs, reg_outs, label_where=jnp.zeros((1, 4), bool)))

    value, gradients = jax.jit(jax.value_and_grad(total, (0, 1)))(CLS * NAN, REG * NAN)
    assert value == 0
    assert all(np.all(np.asarray(g) == 0) for g in gradients)


@pytest.mark.parametrize("avg_factor", [0, 0.0])
def test_a_divisor_of_0_gives_0(avg_factor):
    close(losses_of(avg_factor=avg_factor), 0, 0)


def test_boxes_of_background_may_be_anything():
    reg_outs, targets = REG.copy(), TARGETS.copy()
    reg_outs[0, 2], targets[0, 2] = NAN, np.inf

    def total(reg_outs, targets):
        return losses_of(reg_outs=reg_outs, bbox_targets=targets).loss_bbox

    value, gradients = jax.value_and_grad(total, (0, 1))(reg_outs, targets)
    np.testing.assert_allclose(value, 9 / 4)
    expected = np.array([[[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]]) / 4
    np.testing.assert_array_equal(gradients[0], expected)
    np.testing.assert_array_equal(gradients[1], np.zeros(TARGETS.shape))  # targets are constants


def test_any_callable_of_prediction_and_target_is_an_inner_loss():
    seen = []

    def loss_cls(pred, target, *, reducer, where):
        seen.append((pred.shape, target.shape, target.dtype, where))
        return reducer(jnp.sum(target, axis=2))  # one loss per anchor

    losses = losses_of(loss_cls=loss_cls, loss_bbox=functools.partial(vjl.smooth_l1_loss, beta=2.0))
    close(losses, 3 / 4, (4 * 1 / 4 + 1 + 2) / 4)
    assert seen == [((1, 4, 2), (1, 4, 2), jnp.float32, None)]


def test_softmax_losses_see_one_hot_probabilities():
    labels = np.array([[0, 1, 1, 0]])
    losses = losses_of(CLS + np.array([0, np.log(3)], np.float32), labels=labels,
        loss_cls=vjl.cross_entropy)  # fmt: skip
    close(losses, (2 * np.log(4) + 2 * (np.log(4) - np.log(3))) / 4, (4 + 2 + 20 + 3) / 4)


def test_shapes_must_agree():
    message = (
        "dense_anchor_head_loss: labels must be [B, A] if cls_outs is [B, A, C], got cls_outs "
        "(1, 4, 2) and labels (1, 4, 1). Axes of size 1 never broadcast."
    )
    with raises(ValueError, message):
        losses_of(labels=LABELS[..., None])


def test_a_mask_is_named_in_its_error():
    message = (
        "dense_anchor_head_loss: bbox_where must cover the leading axes of the loss, got bbox_where "
        "(4,) and loss (1, 4). A mask is never matched to trailing axes."
    )
    with raises(ValueError, message):
        losses_of(bbox_where=jnp.ones(4, bool))


def test_a_divisor_must_be_a_scalar():
    message = "dense_anchor_head_loss: avg_factor must be a scalar, got avg_factor (2,)."
    with raises(ValueError, message):
        losses_of(avg_factor=jnp.ones(2))


def test_an_inner_loss_must_be_callable():
    with pytest.raises(TypeError, match=r"^DenseAnchorHeadLoss: loss_cls must be a loss, .* got "):
        vjl.DenseAnchorHeadLoss("focal", vjl.l1_loss)
    with pytest.raises(TypeError, match=r"^dense_anchor_head_loss: loss_bbox must be a loss, "):
        losses_of(loss_bbox=None)
