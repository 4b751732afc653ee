"""GIoU, DIoU and CIoU of pairs of boxes: values and derivatives at difficult points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from vis4d_jax_loss._box_pairs import on_pairs
from vis4d_jax_loss._numerics import enable_x64
from vis4d_jax_loss.losses._giou import CIOU, DIOU, GIOU

pytestmark = pytest.mark.usefixtures("each_form")
FUNCTIONS = {"giou": GIOU, "diou": DIOU, "ciou": CIOU}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def differentiate(name, boxes1, boxes2, dtype=jnp.float32):
    """Losses of pairs of boxes and the gradient with respect to both."""

    def loss(boxes1, boxes2):
        losses = on_pairs(FUNCTIONS[name], boxes1, boxes2)
        return jnp.sum(losses), losses

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, losses), gradients = step(jnp.asarray(boxes1, dtype), jnp.asarray(boxes2, dtype))
    return np.asarray(losses), np.asarray(gradients)


# Two unit squares side by side, with a gap of one: IoU 0, U = 2, C = 3, d = 2 and c^2 = 10.
LEFT, RIGHT = [[0.0, 0.0, 1.0, 1.0]], [[2.0, 0.0, 3.0, 1.0]]
APART = {
    # Moving x1 changes U and C by -1, moving x2 changes only U. y1 and y2 are shared edges: they
    # change C by half of its width, and U by 1.
    "giou": (1 + 1 / 3, [(3 - 2) / 9, (3 - 2 * 1.5) / 9, -1 / 3, (-3 + 2 * 1.5) / 9]),
    # Moving x1 or x2 changes d^2 by -2 and moving x1 changes c^2 by -6. y1 and y2 change c^2 by
    # half of 2.
    "diou": (1.4, [(-2 * 10 + 4 * 6) / 100, 4 / 100, -2 / 10, -4 / 100]),
}
APART["ciou"] = APART["diou"]  # boxes of equal shape


@every_function
def test_boxes_apart_by_hand(name):
    losses, (left, right) = differentiate(name, LEFT, RIGHT)
    value, gradient = APART[name]
    np.testing.assert_allclose(losses, [value], rtol=1e-6)
    np.testing.assert_allclose(left, [gradient], rtol=1e-6, atol=1e-7)
    mirrored = np.array(gradient)[[2, 1, 0, 3]] * [-1, 1, -1, 1]
    np.testing.assert_allclose(right, [mirrored], rtol=1e-6, atol=1e-7)


def test_the_aspect_of_overlapping_boxes_by_hand():
    square, flat = [[0.0, 0.0, 2.0, 2.0]], [[0.0, 0.0, 2.0, 1.0]]
    v = 4 / np.pi**2 * (np.arctan2(2, 1) - np.arctan2(2, 2)) ** 2
    diou = 1 - 0.5 + 0.5**2 / (2**2 + 2**2)
    np.testing.assert_allclose(differentiate("diou", square, flat)[0], [diou], rtol=1e-6)
    losses, _ = differentiate("ciou", square, flat)
    np.testing.assert_allclose(losses, [diou + v / (0.5 + v) * v], rtol=1e-6)


def test_alpha_counts_below_an_iou_of_one_half():
    tall, wide = [[0.0, 0.0, 1.0, 2.0]], [[3.0, 0.0, 5.0, 1.0]]
    v = 4 / np.pi**2 * (np.arctan2(2, 1) - np.arctan2(1, 2)) ** 2
    difference = differentiate("ciou", tall, wide)[0] - differentiate("diou", tall, wide)[0]
    np.testing.assert_allclose(difference, [v / (1 + v) * v], rtol=1e-5)


def test_the_gradient_of_ciou_keeps_alpha_constant():
    first, second = np.array([0.0, 0.0, 3.0, 1.0]), np.array([1.0, 0.25, 2.0, 3.25])

    def angle(box):
        return np.arctan2(box[2] - box[0], box[3] - box[1])

    def v(first, second):
        return 4 / np.pi**2 * (angle(second) - angle(first)) ** 2

    iou = 0.75 / (3 + 3 - 0.75)
    alpha = v(first, second) / (1 - iou + v(first, second))
    with enable_x64(True):
        _, of_ciou = differentiate("ciou", first, second, jnp.float64)
        _, of_diou = differentiate("diou", first, second, jnp.float64)
        for argument in (0, 1):
            for k, step in enumerate(1e-6 * np.eye(4)):
                shifts = [(step, 0), (0, step)][argument]
                high = v(first + shifts[0], second + shifts[1])
                low = v(first - shifts[0], second - shifts[1])
                slope = of_ciou[argument, k] - of_diou[argument, k]
                np.testing.assert_allclose(slope, alpha * (high - low) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["giou", "diou"])
def test_derivatives_agree_with_finite_differences(name):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 3, (2, 12, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.5, 3, (2, 12, 2))], axis=-1)
    function = FUNCTIONS[name]
    with enable_x64(True):
        pairs = tuple(jnp.asarray(boxes))
        check_grads(lambda a, b: on_pairs(function, a, b), pairs, order=2, modes=("fwd", "rev"))


@every_function
def test_identical_boxes_have_zero_loss_and_gradient(name):
    rng = np.random.default_rng(0)
    low = rng.uniform(-1, 1, (500, 2))
    unit = np.concatenate([low, low + rng.uniform(0.5, 1, (500, 2))], axis=-1)
    sides = np.array([1e-12, 1e-6, 1e-3, 1.0, 1e6, 1e20])
    boxes = np.concatenate([(sides[:, None, None] * unit).reshape(-1, 4), [[0, 0, 3, 7]]])
    losses, gradients = differentiate(name, boxes, boxes)
    np.testing.assert_array_equal(losses, 0)
    np.testing.assert_array_equal(gradients, 0)


EMPTY = {
    "points": [0.5, 0.25, 0.5, 0.25],
    "horizontal lines": [0.0, 0.25, 1.0, 0.25],
    "vertical lines": [0.5, 0.0, 0.5, 1.0],
}


@every_function
@pytest.mark.parametrize("kind", EMPTY)
def test_two_empty_boxes_at_one_place_have_loss_1_and_zero_gradient(name, kind):
    losses, gradients = differentiate(name, [EMPTY[kind]], [EMPTY[kind]])
    np.testing.assert_array_equal(losses, 1)
    np.testing.assert_array_equal(gradients, 0)


def test_two_points_apart():
    points = [[0.0, 0.0, 0.0, 0.0]], [[3.0, 4.0, 3.0, 4.0]]
    losses, (first, _) = differentiate("giou", *points)
    np.testing.assert_array_equal(losses, 2)  # U / C is 0
    np.testing.assert_array_equal(first, 0)
    losses, (first, _) = differentiate("diou", *points)
    np.testing.assert_array_equal(losses, 2)  # d^2 / c^2 is 1
    # The high corner changes only d^2 / 25, by -3 and by -4. The low one also changes c^2, by twice
    # as much.
    np.testing.assert_allclose(first, [[3 / 25, 4 / 25, -3 / 25, -4 / 25]], rtol=1e-6)
    assert differentiate("ciou", *points)[0] == 2


def test_an_enclosing_box_without_area_has_giou_loss_1_and_zero_gradient():
    losses, gradients = differentiate("giou", [[0.0, 0.0, 1.0, 0.0]], [[2.0, 0.0, 3.0, 0.0]])
    np.testing.assert_array_equal(losses, 1)
    np.testing.assert_array_equal(gradients, 0)


def test_the_gradient_of_an_area_passes_at_a_side_of_0():
    line, square = [[0.0, 0.0, 0.0, 2.0]], [[1.0, 0.0, 3.0, 2.0]]
    losses, (gradient, _) = differentiate("giou", line, square)
    np.testing.assert_allclose(losses, [1 + (6 - 4) / 6], rtol=1e-6)
    # x1 changes U and C by -2 each, x2 changes U by 2.
    np.testing.assert_allclose(gradient[0, [0, 2]], [2 / 6 - 4 * 2 / 36, -2 / 6], rtol=1e-6)


def test_an_inverted_box_has_no_area():
    inverted, box = [[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]
    losses, (gradient, _) = differentiate("giou", inverted, box)
    np.testing.assert_array_equal(losses, 1)  # and not 0, although the corners are the same
    assert np.all(np.isfinite(gradient))
    # One side is negative. Its own area stays 0 if it moves, and it is inside the enclosing box.
    _, (gradient, _) = differentiate("giou", [[0.75, 0.25, 0.25, 0.75]], box)
    np.testing.assert_array_equal(gradient, 0)


def test_the_overlap_of_touching_boxes_has_zero_gradient():
    losses, (left, _) = differentiate("giou", LEFT, [[1.0, 0.0, 2.0, 1.0]])
    np.testing.assert_array_equal(losses, 1)
    # x2 changes U by 1 and the overlap, if it passed a gradient, by as much.
    np.testing.assert_allclose(left[0, 2], -1 / 2, rtol=1e-6)
    _, (left, _) = differentiate("diou", LEFT, [[1.0, 0.0, 2.0, 1.0]])
    np.testing.assert_allclose(left[0, 2], -1 / 5, rtol=1e-6)  # d^2 alone: 2 * 1 * -0.5 / 5


def test_a_point_has_no_gradient_of_its_angle():
    point, box = [[1.0, 1.0, 1.0, 1.0]], [[0.0, 0.0, 2.0, 4.0]]
    v = 4 / np.pi**2 * np.arctan2(2, 4) ** 2
    losses, (of_ciou, _) = differentiate("ciou", point, box)
    np.testing.assert_allclose(losses, [1 + 1 / 20 + v**2 / (1 + v)], rtol=1e-6)
    np.testing.assert_array_equal(of_ciou, differentiate("diou", point, box)[1][0])


def test_a_box_without_height_has_the_angle_of_a_right_angle():
    line, box = [[0.0, 0.0, 2.0, 0.0]], [[0.0, 0.0, 2.0, 2.0]]
    v = 4 / np.pi**2 * (np.pi / 2 - np.pi / 4) ** 2
    losses, gradients = differentiate("ciou", line, box)
    np.testing.assert_allclose(losses, [1 + 1 / 8 + v**2 / (1 + v)], rtol=1e-6)
    assert np.all(np.isfinite(gradients))


@every_function
@pytest.mark.parametrize("side", [1e-10, 1e-6, 1e6, 1e18, 1e20])
def test_a_scaled_pair_has_the_same_loss_and_the_inverse_gradient(name, side):
    first, second = np.array([[0.0, 0.0, 0.75, 0.5]]), np.array([[0.25, 0.125, 1.0, 0.875]])
    unit, unit_gradients = differentiate(name, first, second)
    losses, gradients = differentiate(name, first * side, second * side)
    np.testing.assert_allclose(losses, unit, rtol=1e-5)
    np.testing.assert_allclose(gradients * side, unit_gradients, rtol=1e-4, atol=1e-5)


@every_function
def test_tiny_boxes_far_apart_have_a_finite_gradient(name):
    # C / U would be infinite.
    losses, gradients = differentiate(name, [[0.0, 0.0, 1e-10, 1e-10]], [[1e18, 1e18] * 2])
    v = 4 / np.pi**2 * (np.pi / 4) ** 2
    np.testing.assert_allclose(losses, [2 + (v**2 / (1 + v) if name == "ciou" else 0)], rtol=1e-6)
    assert np.all(np.isfinite(gradients))


DIFFICULT = [
    *EMPTY.values(),
    [0.0, 0.0, 1.0, 1.0],
    [1.0, 0.0, 2.0, 1.0],
    [1.0, 1.0, 2.0, 2.0],
    [0.25, 0.25, 0.75, 0.75],
    [1.0, 1.0, 0.0, 0.0],
    [1.0, 0.0, 0.0, 1.0],
    [5.0, 5.0, 6.0, 7.0],
]


@every_function
def test_first_and_second_derivatives_are_finite_at_difficult_points(name):
    pairs = jnp.asarray([(a, b) for a in DIFFICULT for b in DIFFICULT])

    def slopes(pairs):
        return jax.grad(lambda pairs: jnp.sum(on_pairs(FUNCTIONS[name], *pairs)))(pairs)

    pairs = pairs.swapaxes(0, 1)
    first = jax.jit(slopes)(pairs)
    second = jax.jit(jax.grad(lambda pairs: jnp.sum(jnp.square(slopes(pairs)))))(pairs)
    forward = jax.jit(lambda pairs: jax.jvp(slopes, (pairs,), (jnp.ones_like(pairs),))[1])(pairs)
    assert np.all(np.isfinite(first))
    assert np.all(np.isfinite(second))
    assert np.all(np.isfinite(forward))


@every_function
def test_a_nan_is_not_hidden(name):
    losses, _ = differentiate(name, [[np.nan, 0.0, 1.0, 1.0], *LEFT], [*LEFT, *LEFT])
    np.testing.assert_array_equal(np.isnan(losses), [True, False])
