"""The IoU alone: its values and derivatives, which the eps of a loss would hide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from vis4d_jax_loss import box
from vis4d_jax_loss._numerics import enable_x64
from vis4d_jax_loss.box import paired_iou


@pytest.fixture(
    params=[None, "_iou_gradient_by_corner", "_iou_gradient_by_coordinate"], autouse=True
)
def form(request, monkeypatch):
    """Run every test with each form of the derivative; a platform uses only one of them."""
    if request.param:
        monkeypatch.setattr(box, "_iou_gradient", getattr(box, request.param))


BOX = jnp.array([0.0, 0.0, 1.0, 1.0])
NO_SHARED_AREA = {
    "apart": jnp.array([2.0, 2.0, 3.0, 3.0]),
    "touching": jnp.array([1.0, 0.0, 2.0, 1.0]),
    "a point": jnp.zeros(4),
    "inverted": jnp.array([1.0, 1.0, 0.0, 0.0]),
}


def test_values_by_hand():
    first = jnp.array([[0.0, 0.0, 4.0, 2.0], [0.0, 0.0, 4.0, 2.0]])
    second = jnp.array([[1.0, 0.5, 5.0, 3.0], [1.0, 0.0, 3.0, 2.0]])
    shared, unions = [3 * 1.5, 2 * 2], [8 + 10 - 4.5, 8]
    np.testing.assert_allclose(paired_iou(first, second), np.divide(shared, unions), rtol=1e-6)


def test_a_gradient_by_hand():
    # If the right side of the left box moves by d, the shared area is 1 + 2 d, and the union stays 5.
    left, right = jnp.array([0.0, 0.0, 1.5, 2.0]), jnp.array([1.0, 0.0, 2.5, 2.0])
    shared, union = 0.5 * 2, 3 + 3 - 1
    expected = (2 * union - shared * (2 - 2)) / union**2
    np.testing.assert_allclose(jax.grad(paired_iou)(left, right)[2], expected, rtol=1e-6)


@pytest.mark.parametrize("first", [BOX, jnp.zeros(4)], ids=["box", "point"])
@pytest.mark.parametrize("kind", NO_SHARED_AREA)
def test_boxes_that_share_no_area_have_zero_iou_and_gradient(kind, first):
    pair = first, NO_SHARED_AREA[kind]
    assert paired_iou(*pair) == 0
    for argument in (0, 1):
        gradient = jax.grad(paired_iou, argument)
        np.testing.assert_array_equal(gradient(*pair), 0)
        np.testing.assert_array_equal(jax.jacrev(gradient, argument)(*pair), 0)
    with jax.debug_infs(True):
        jax.grad(paired_iou)(*pair)


def test_identical_boxes_have_iou_1_and_zero_gradient():
    assert paired_iou(BOX, BOX) == 1
    for argument in (0, 1):
        np.testing.assert_array_equal(jax.grad(paired_iou, argument)(BOX, BOX), 0)


@pytest.mark.parametrize("side", [1e-13, 1e-6, 1e6, 1e18, 1e20, 1e22, 1e24])
def test_a_scaled_pair_has_the_same_iou_and_the_inverse_gradient(side):
    low, high = jnp.array([0.0, 0.0, 3.0, 2.0]), jnp.array([1.0, 0.5, 4.0, 1.5])
    differentiate = jax.jit(jax.value_and_grad(paired_iou, argnums=(0, 1)))
    unit, unit_gradients = differentiate(low / 4, high / 4)
    value, gradients = differentiate(low * (side / 4), high * (side / 4))
    np.testing.assert_allclose(value, unit, rtol=1e-5)
    for gradient, expected in zip(gradients, unit_gradients, strict=True):
        np.testing.assert_allclose(gradient * side, expected, rtol=1e-4, atol=1e-5)


def test_a_thin_and_a_wide_box():
    """Sides of 1e-10 and 1e10 in one box: the IoU is the ratio of the widths."""
    thin, wide = jnp.array([0.0, 0.0, 1e-10, 1e10]), jnp.array([0.0, 0.0, 4e-10, 1e10])
    np.testing.assert_allclose(paired_iou(thin, wide), 0.25, rtol=1e-5)
    gradient = jax.grad(paired_iou)(thin, wide)
    np.testing.assert_allclose(gradient[2], 1 / 4e-10, rtol=1e-5)


def test_derivatives_agree_with_finite_differences():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 1, (2, 8, 2))
    boxes = np.concatenate([low, low + rng.uniform(1.5, 3, (2, 8, 2))], axis=-1)
    with enable_x64(True):
        check_grads(paired_iou, tuple(jnp.asarray(boxes)), order=2, modes=("fwd", "rev"))
