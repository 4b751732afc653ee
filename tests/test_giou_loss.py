"""Loss functions of GIoU, DIoU and CIoU: inputs of every kind. The formulas are tested alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import (
    CIoULoss,
    DIoULoss,
    GIoULoss,
    ciou_loss,
    diou_loss,
    giou_loss,
    mean_loss,
    paired_iou,
)

LOSSES = {"giou_loss": giou_loss, "diou_loss": diou_loss, "ciou_loss": ciou_loss}
MODULES = {"giou_loss": GIoULoss, "diou_loss": DIoULoss, "ciou_loss": CIoULoss}
every_loss = pytest.mark.parametrize("name", LOSSES)

# torchvision 0.28: generalized_box_iou_loss, distance_box_iou_loss and complete_box_iou_loss.
PRED = [[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]]
TARGET = [[1.0, 1.0, 3.0, 4.0], [2.0, 2.0, 4.0, 3.0]]
TORCHVISION = {
    "giou_loss": [1.138889, 1.75],
    "diou_loss": [1.018889, 1.41],
    "ciou_loss": [1.019165, 1.411689],
}


@every_loss
def test_values_of_torchvision(name):
    losses = LOSSES[name](jnp.array(PRED), jnp.array(TARGET))
    np.testing.assert_allclose(losses, TORCHVISION[name], rtol=1e-6)
    mean = MODULES[name](mean_loss)(jnp.array(PRED), jnp.array(TARGET))
    np.testing.assert_allclose(mean, np.mean(TORCHVISION[name]), rtol=1e-6)


@every_loss
def test_each_loss_keeps_to_its_own_formula_under_a_mask(name):
    pred = jnp.array([*PRED, [jnp.nan, jnp.inf, 1e30, 0.0]])
    target = jnp.array([*TARGET, [0.0, -jnp.inf, jnp.nan, 1.0]])
    valid = jnp.array([True, True, False])
    step = jax.jit(jax.value_and_grad(LOSSES[name], argnums=(0, 1)), static_argnums=2)
    value, gradients = step(pred, target, mean_loss, where=valid)
    np.testing.assert_allclose(value, np.mean(TORCHVISION[name]), rtol=1e-6)
    _, expected = step(pred[:2], target[:2], mean_loss)
    for gradient, unpadded in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient[:2], unpadded, rtol=1e-5)
        np.testing.assert_array_equal(gradient[2], 0)


@every_loss
@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_integer_boxes_are_exact_at_large_coordinates(name, dtype):
    low = np.array(100_000_000, dtype)
    pred, target = low + np.array(PRED, dtype), low + np.array(TARGET, dtype)
    np.testing.assert_allclose(LOSSES[name](pred, target), TORCHVISION[name], rtol=1e-6)
    np.testing.assert_array_equal(LOSSES[name](pred, pred), 0)


@every_loss
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_does_not_overflow(name, dtype):
    pred, target = jnp.array([[0, 0, 4096, 2048]], dtype), jnp.array([[0, 0, 4096, 4096]], dtype)
    single = LOSSES[name](pred.astype(jnp.float32) / 4096, target.astype(jnp.float32) / 4096)
    np.testing.assert_allclose(LOSSES[name](pred, target), single, rtol=1e-6)
    np.testing.assert_array_equal(LOSSES[name](pred, pred), 0)
    gradient = jax.grad(LOSSES[name])(pred, target, mean_loss)
    assert gradient.dtype == dtype
    assert np.all(np.isfinite(np.asarray(gradient, np.float32)))


@every_loss
def test_training_brings_boxes_together_that_do_not_overlap(name):
    target = jnp.array([[5.0, 5.0, 7.0, 8.0]])

    @jax.jit
    def descend(box):
        return box - 0.5 * jax.grad(LOSSES[name])(box, target, mean_loss)

    box = jnp.array([[0.0, 0.0, 1.0, 2.0]])
    for _ in range(400):
        box = descend(box)
    assert paired_iou(box, target)[0] > 0


@every_loss
def test_mistakes_are_errors(name):
    message = (
        f"{name}: pred and target must have the same shape, got pred (8, 4) and target (1, 4). "
        "Losses never broadcast: (N,) against (N, 1) would silently average N * N pairs."
    )
    with raises(ValueError, message):
        LOSSES[name](jnp.zeros((8, 4)), jnp.zeros((1, 4)))
    message = (
        f"{name}: pred and target must hold boxes (x1, y1, x2, y2) on the last axis, "
        "got pred (8, 5) and target (8, 5). Expected a shape of [..., 4]."
    )
    with raises(ValueError, message):
        LOSSES[name](jnp.zeros((8, 5)), jnp.zeros((8, 5)))
