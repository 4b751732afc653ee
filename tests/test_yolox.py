"""YOLOX's head: numbers by hand, unused background, the L1 term, the divisor, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

import vis4d_jax_loss as vjl

# One image with three predictions, of which two are foreground. A logit of 0 costs log(2).
LOG2 = np.log(2.0)
INPUTS = dict(
    cls_outs=np.zeros((1, 3, 2), np.float32),
    boxes=np.array([[[0, 0, 2, 2], [0, 0, 4, 4], [7, 7, 8, 8]]], np.float32),
    obj_outs=np.zeros((1, 3), np.float32),
    foreground=np.array([[True, True, False]]),
    cls_targets=np.array([[[1, 0], [0, 0.5], [1, 1]]], np.float32),
    bbox_targets=np.array([[[0, 0, 4, 2], [0, 0, 4, 4], [0, 0, 1, 1]]], np.float32),
)
RAW = dict(reg_outs=np.full((1, 3, 4), 0.5, np.float32), l1_targets=np.zeros((1, 3, 4), "f"))
NAN = np.nan


def losses_of(**changed):
    return vjl.yolox_head_loss(**(INPUTS | changed))


def close(losses, loss_cls, loss_bbox, loss_obj):
    np.testing.assert_allclose(losses[:3], (loss_cls, loss_bbox, loss_obj), rtol=1e-6, atol=1e-7)


def test_sums_are_divided_by_the_number_of_the_foreground():
    losses = losses_of()  # IoU 1 / 2 and 1
    close(losses, 4 * LOG2 / 2, 5 * (3 / 4 + 0) / 2, 3 * LOG2 / 2)
    assert losses.loss_l1 is None


def test_the_l1_loss_of_raw_outputs():
    losses = losses_of(**RAW)
    close(losses, 4 * LOG2 / 2, 5 * (3 / 4 + 0) / 2, 3 * LOG2 / 2)
    assert losses.loss_l1 == 2 * 4 * 0.5 / 2


def test_all_of_the_background_but_its_objectness_may_be_nan():
    inputs = {k: x.copy() for k, x in (INPUTS | RAW).items()}
    for name in set(inputs) - {"obj_outs", "foreground"}:
        inputs[name][0, 2] = NAN
    floats = {k: inputs.pop(k) for k in list(inputs) if inputs[k].dtype == np.float32}

    def total(floats):
        return sum(vjl.yolox_head_loss(**floats, **inputs))

    value, gradients = jax.jit(jax.value_and_grad(total))(floats)
    np.testing.assert_allclose(value, sum(losses_of(**RAW)), rtol=1e-6)
    for name in ("cls_outs", "boxes", "reg_outs"):
        np.testing.assert_array_equal(gradients[name][0, 2], 0)
        assert np.any(gradients[name][0, 0])
    np.testing.assert_allclose(gradients["obj_outs"], [[-0.25, -0.25, 0.25]])
    for name in ("cls_targets", "bbox_targets", "l1_targets"):  # targets are constants
        np.testing.assert_array_equal(gradients[name], np.zeros_like(gradients[name]))


def test_without_foreground_the_divisor_is_1():
    losses = losses_of(foreground=np.zeros((1, 3), bool), **RAW)
    close(losses, 0, 0, 3 * LOG2)
    assert losses.loss_l1 == 0


def test_masked_foreground_is_not_counted():
    losses = losses_of(where=jnp.array([[False, True, True]]), **RAW)
    close(losses, 2 * LOG2, 0, 2 * LOG2)
    assert losses.loss_l1 == 4 * 0.5


def test_a_mask_of_images():
    twice = {k: np.concatenate([x, x]) for k, x in INPUTS.items()}
    twice["obj_outs"][1] = NAN
    losses = vjl.yolox_head_loss(**twice, where=jnp.array([True, False]))
    close(losses, 4 * LOG2 / 2, 5 * (3 / 4 + 0) / 2, 3 * LOG2 / 2)


def test_inner_losses_are_options():
    module = vjl.YOLOXHeadLoss(
        2,
        loss_cls=vjl.SigmoidFocalLoss(alpha=None, gamma=1.0),
        loss_bbox=vjl.IoULoss(mode="linear"),
        loss_obj=vjl.l2_loss,
    )
    close(module(**INPUTS), 4 * LOG2 / 2 / 2, 5 * (1 / 2) / 2, 2 / 2)


def test_one_of_two_inputs_is_missing():
    rule = "yolox_head_loss: reg_outs and l1_targets must be given together, got only "
    for name, x in RAW.items():
        with raises(ValueError, f"{rule}{name}."):
            losses_of(**{name: x})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"obj_outs": INPUTS["obj_outs"][..., None]},
            "obj_outs must be [B, A] if cls_outs is [B, A, C], got cls_outs (1, 3, 2) and obj_outs "
            "(1, 3, 1). Axes of size 1 never broadcast.",
        ),
        (
            {"num_classes": 80},
            "cls_outs must have num_classes classes, got cls_outs with 2 classes and num_classes "
            "80.",
        ),
    ],
)
def test_shapes_must_agree(changed, message):
    with raises(ValueError, f"yolox_head_loss: {message}"):
        losses_of(**changed)


def test_the_foreground_is_boolean():
    message = (
        "yolox_head_loss: foreground must be boolean, got foreground float32. True means that the "
        "prediction has an object."
    )
    with raises(TypeError, message):
        losses_of(foreground=np.ones((1, 3), np.float32))
