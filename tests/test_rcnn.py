"""The second stage of Faster R-CNN: numbers by hand, unused deltas, labels, errors."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_text import raises
from jax.experimental import checkify

import vis4d_jax_loss as vjl

# Four proposals and two classes. Logits of 0 cost log(3) each.
LOG3 = np.log(3.0)
CLASS_OUTS = np.zeros((4, 3), np.float32)
DELTAS = np.array(
    [[1, 1, 1, 1, 9, 9, 9, 9], [9, 9, 9, 9, 2, 0, 0, 0], [9] * 8, [9, 9, 9, 9, 0, 0, 0, 3]],
    np.float32,
)
LABELS = np.array([0, 1, 2, 1])  # 2 is background
TARGETS = np.zeros((4, 4), np.float32)
NAN = np.nan


def losses_of(class_outs=CLASS_OUTS, deltas=DELTAS, labels=LABELS, targets=TARGETS, **options):
    options = dict(num_classes=2) | options
    return vjl.rcnn_loss(class_outs, deltas, labels, targets, **options)


def close(losses, loss_cls, loss_bbox):
    np.testing.assert_allclose(losses, (loss_cls, loss_bbox), rtol=1e-6)


def test_both_sums_are_divided_by_the_number_of_proposals():
    losses = losses_of()
    assert losses._fields == ("rcnn_loss_cls", "rcnn_loss_bbox")
    close(losses, LOG3, (4 + 2 + 3) / 4)


def test_only_valid_proposals_count():
    where = jnp.array([True, False, True, False])
    labels = np.where(where, LABELS, [0, -7, 0, 99])
    close(losses_of(labels=labels, where=where), LOG3, 4 / 2)


def test_boxes_may_be_the_same_for_all_classes():
    close(losses_of(deltas=DELTAS[:, :4]), LOG3, (4 + 36 + 36) / 4)


def test_deltas_of_other_classes_and_of_background_may_be_nan():
    deltas = np.where(DELTAS == 9, NAN, DELTAS)
    targets = np.where(LABELS[:, None] == 2, NAN, TARGETS)
    step = jax.value_and_grad(lambda d, t: losses_of(deltas=d, targets=t).rcnn_loss_bbox, (0, 1))
    value, gradients = step(deltas, targets)
    np.testing.assert_allclose(value, 9 / 4)
    np.testing.assert_array_equal(gradients[0], np.where(DELTAS == 9, 0, np.sign(DELTAS)) / 4)
    np.testing.assert_array_equal(gradients[1], np.zeros(TARGETS.shape))  # targets are constants


def test_no_positive_gives_a_box_loss_of_0():
    close(losses_of(labels=np.full(4, 2)), LOG3, 0)


@pytest.mark.parametrize("bad", [-1, 3, 255, 2**40])
def test_a_label_out_of_range_makes_the_classification_loss_nan_and_is_reported(bad):
    labels = np.array([0, 1, 2, bad])
    losses = losses_of(labels=labels)
    assert np.isnan(losses.rcnn_loss_cls)
    np.testing.assert_allclose(losses.rcnn_loss_bbox, (4 + 2) / 4)
    error, _ = checkify.checkify(lambda labels: losses_of(labels=labels))(labels)
    assert "rcnn_loss: labels must hold labels from 0 to 2, got " in error.get()


@pytest.mark.parametrize("loss_cls", [vjl.cross_entropy, vjl.CrossEntropyLoss()])
def test_class_255_of_lvis_is_learned_without_a_warning(loss_cls):
    outs, deltas = np.zeros((1, 301), np.float32), np.ones((1, 1200), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = losses_of(
            outs, deltas, np.array([255]), TARGETS[:1], num_classes=300, loss_cls=loss_cls
        )
    close(losses, np.log(301), 4)


def test_other_losses():
    def integer_labels(pred, target, *, reducer, where):
        return reducer(optax.softmax_cross_entropy_with_integer_labels(pred, target))

    smooth = functools.partial(vjl.smooth_l1_loss, beta=2.0)
    close(losses_of(loss_cls=integer_labels, loss_bbox=smooth), LOG3, (1 + 1 + 2) / 4)
    focal = vjl.SoftmaxFocalLoss(gamma=1.0)
    losses = vjl.RCNNLoss(2, loss_cls=focal)(CLASS_OUTS, DELTAS, LABELS, TARGETS)
    close(losses, LOG3 * 2 / 3, 9 / 4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"class_outs": CLASS_OUTS[:, :2]},
            "class_outs must be [P, 3], got class_outs (4, 2). Axes of size 1 never broadcast.",
        ),
        (
            {"labels": LABELS[:1]},
            "labels must be [P] if class_outs is [P, 3], got class_outs (4, 3) and labels (1,). "
            "Axes of size 1 never broadcast.",
        ),
        (
            {"deltas": DELTAS[:, :6]},
            "regression_outs must be [P, 4] or [P, 8], four per class, got regression_outs (4, 6). "
            "num_classes is 2.",
        ),
    ],
)
def test_shapes_must_agree(changed, message):
    with raises(ValueError, f"rcnn_loss: {message}"):
        losses_of(**changed)


def test_options_are_checked_when_a_module_is_made():
    with raises(TypeError, "RCNNLoss: num_classes must be an integer, got num_classes 2.0."):
        vjl.RCNNLoss(2.0)
    with pytest.raises(TypeError, match=r"^RCNNLoss: loss_cls must be a loss, "):
        vjl.RCNNLoss(loss_cls=vjl.CrossEntropyLoss)
