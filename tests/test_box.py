"""The IoU of pairs and of sets: values and derivatives, which the eps of a loss would hide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises
from jax.experimental import checkify
from jax.test_util import check_grads

from vis4d_jax_loss._numerics import enable_x64
from vis4d_jax_loss.box import paired_iou, pairwise_iou

pytestmark = pytest.mark.usefixtures("each_form")
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


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.int32, jnp.uint32])
@pytest.mark.parametrize("function", [paired_iou, pairwise_iou])
def test_half_precision_and_integers_are_computed_in_float32(function, dtype):
    first, second = jnp.array([[0, 0, 256, 512]], dtype), jnp.array([[0, 0, 512, 512]], dtype)
    iou = function(first, second)
    assert iou.dtype == jnp.float32
    np.testing.assert_array_equal(iou.ravel(), [0.5])


@pytest.mark.parametrize("function", [paired_iou, pairwise_iou])
def test_integers_are_exact_at_large_coordinates(function):
    low = 100_000_000
    first = np.array([[low, low, low + 1, low + 2]])
    second = np.array([[low, low, low + 2, low + 2]])
    np.testing.assert_array_equal(function(first, second).ravel(), [0.5])
    mixed = function(first.astype(np.uint32), second.astype(np.int32))
    assert mixed.dtype == jnp.float32


def test_pairwise_equals_paired_for_each_pair():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 6, (2, 3, 7, 2, 2))
    corners[..., 1:, :, :] = np.sort(corners[..., 1:, :, :], axis=-2)  # the first may be inverted
    first, second = jnp.asarray(corners.reshape(2, 3, 7, 4), jnp.float32)
    second = second[:, :5]
    iou = pairwise_iou(first, second)
    assert iou.shape == (3, 7, 5)
    assert np.count_nonzero(iou) > 10
    for i in range(7):
        for j in range(5):
            np.testing.assert_allclose(iou[:, i, j], paired_iou(first[:, i], second[:, j]))


@pytest.mark.parametrize("kind", NO_SHARED_AREA)
def test_pairs_of_sets_that_share_no_area_have_zero_iou_and_gradient(kind):
    sets = jnp.stack([BOX, jnp.zeros(4)]), NO_SHARED_AREA[kind][None]
    np.testing.assert_array_equal(pairwise_iou(*sets), 0)
    for argument in (0, 1):
        gradient = jax.grad(lambda *sets: jnp.sum(pairwise_iou(*sets)), argument)(*sets)
        np.testing.assert_array_equal(gradient, 0)


def test_the_gradient_of_pairwise_agrees_with_paired():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 1, (2, 6, 2))
    first, second = jnp.asarray(np.concatenate([low, low + rng.uniform(0.5, 2, (2, 6, 2))], -1))
    weight = jnp.asarray(rng.normal(size=(6, 6)), jnp.float32)

    def of_sets(first, second):
        return jnp.sum(weight * pairwise_iou(first, second))

    def of_pairs(first, second):
        rows, columns = jnp.repeat(first, 6, axis=0), jnp.tile(second, (6, 1))
        return jnp.sum(weight.ravel() * paired_iou(rows, columns))

    for argument in (0, 1):
        actual, expected = (jax.grad(f, argument)(first, second) for f in (of_sets, of_pairs))
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shapes", [((0, 4), (3, 4)), ((3, 4), (0, 4)), ((2, 0, 4), (2, 0, 4))])
def test_sets_may_be_empty(shapes):
    first, second = map(jnp.zeros, shapes)
    assert pairwise_iou(first, second).shape == (*shapes[0][:-1], shapes[1][-2])
    gradient = jax.grad(lambda first: jnp.sum(pairwise_iou(first, second)))(first)
    np.testing.assert_array_equal(gradient, 0)


def test_a_nan_is_not_hidden():
    first, second = jnp.array([[jnp.nan, 0.0, 1.0, 1.0], BOX]), jnp.stack([BOX, BOX])
    np.testing.assert_array_equal(jnp.isnan(paired_iou(first, second)), [True, False])
    np.testing.assert_array_equal(jnp.isnan(pairwise_iou(first, second)), [[True] * 2, [False] * 2])


def test_wrong_boxes_are_reported():
    boxes = jnp.array([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]])
    for function in (paired_iou, pairwise_iou):
        error, _ = checkify.checkify(jax.jit(function))(boxes, boxes[::-1])
        assert f"{function.__name__}: boxes1 must hold boxes with x1 <= x2" in error.get()


SHAPES = "Losses never broadcast: (N,) against (N, 1) would silently average N * N pairs."


@pytest.mark.parametrize(
    ("function", "shapes", "message"),
    [
        (
            paired_iou,
            ((8, 4), (1, 4)),
            "paired_iou: boxes1 and boxes2 must have the same shape, got boxes1 (8, 4) and boxes2 (1, 4). "
            + SHAPES,
        ),
        (
            paired_iou,
            ((8, 5), (8, 5)),
            "paired_iou: boxes1 and boxes2 must hold boxes (x1, y1, x2, y2) on the last axis, got boxes1 (8, 5) and boxes2 (8, 5). Expected a shape of [..., 4].",
        ),
        (
            pairwise_iou,
            ((2, 8, 4), (3, 8, 4)),
            "pairwise_iou: boxes1 [..., N, 4] and boxes2 [..., M, 4] must have the same leading axes, got boxes1 (2, 8, 4) and boxes2 (3, 8, 4).",
        ),
        (
            pairwise_iou,
            ((4,), (8, 4)),
            "pairwise_iou: boxes1 [..., N, 4] and boxes2 [..., M, 4] must have the same leading axes, got boxes1 (4,) and boxes2 (8, 4).",
        ),
    ],
)
def test_mistakes_are_errors(function, shapes, message):
    with raises(ValueError, message):
        function(*map(jnp.zeros, shapes))
