"""IoU loss: values by hand, degenerate boxes, the limit eps, and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import IoULoss, iou_loss
from vis4d_jax_loss._numerics import enable_x64
from vis4d_jax_loss.losses import _inputs

TARGET = [0.0, 0.0, 4.0, 2.0]
NO_OVERLAP = {
    "disjoint": ([10.0, 10.0, 12.0, 12.0], TARGET),
    "touching edge": ([4.0, 0.0, 6.0, 2.0], TARGET),
    "touching corner": ([4.0, 2.0, 6.0, 4.0], TARGET),
    "no width": ([1.0, 0.0, 1.0, 2.0], TARGET),
    "inverted in x": ([3.0, 0.0, 1.0, 2.0], TARGET),
    "inverted in both": ([3.0, 2.0, 1.0, 0.0], TARGET),
    "both a point": ([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]),
    "both inverted": ([3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0]),
    "both without height": ([0.0, 1.0, 4.0, 1.0], [2.0, 5.0, 9.0, 5.0]),
}
MODES = {"linear": lambda u: 1 - u, "square": lambda u: 1 - u**2, "log": lambda u: -np.log(u)}


def differentiate(pred, target, mode, eps=1e-6, dtype=jnp.float32):
    """Loss of each box, and the gradients with respect to both sides."""

    def loss(pred, target):
        losses = iou_loss(pred, target, mode=mode, eps=eps)
        return jnp.sum(losses), losses

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, losses), gradients = step(jnp.asarray(pred, dtype), jnp.asarray(target, dtype))
    return losses, np.asarray(gradients, np.float32)


@pytest.mark.parametrize("mode", MODES)
def test_values_by_hand(mode):
    losses, _ = differentiate([[1.0, 0.5, 5.0, 3.0]], [TARGET], mode)
    np.testing.assert_allclose(losses, [MODES[mode](4.5 / (10 + 8 - 4.5))], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("eps", [1e-6, 1e-16])
@pytest.mark.parametrize("mode", MODES)
def test_boxes_without_overlap_have_zero_gradient(mode, eps, dtype):
    pred, target = zip(*NO_OVERLAP.values(), strict=True)
    losses, gradients = differentiate(pred, target, mode, eps, dtype)
    for kind, loss, gradient in zip(NO_OVERLAP, losses, gradients.swapaxes(0, 1), strict=True):
        np.testing.assert_allclose(loss, MODES[mode](eps), rtol=1e-6, err_msg=kind)
        np.testing.assert_array_equal(gradient, 0, err_msg=kind)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("mode", MODES)
def test_identical_boxes_have_zero_loss_and_gradient(mode, dtype):
    sides = np.array([1e-3, 1.0, 256.0, 30_000.0])
    boxes = sides[:, None] * np.array([[0.0, 0.0, 1.0, 1.0]])
    losses, gradients = differentiate(boxes, boxes, mode, 1e-16, dtype)
    np.testing.assert_array_equal(losses, 0)
    assert not np.signbit(losses).any()  # it would be printed as -0
    np.testing.assert_array_equal(gradients, 0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_large_boxes_do_not_overflow(dtype):
    pred, target = [[0, 0, 30_000, 15_000]], [[0, 0, 30_000, 30_000]]
    losses, gradients = differentiate(pred, target, "linear", dtype=dtype)
    np.testing.assert_allclose(losses, [0.5], rtol=5e-3)
    np.testing.assert_allclose(gradients[0, 0, 3], -0.5 / 15_000, rtol=1e-2)


def test_the_whole_gradient_passes_at_eps():
    quarter = [[0.0, 0.0, 1.0, 1.0]], [[0.0, 0.0, 2.0, 2.0]]
    _, at_eps = differentiate(*quarter, "linear", eps=0.25)
    _, above = differentiate(*quarter, "linear", eps=0.2)
    _, below = differentiate(*quarter, "linear", eps=0.3)
    np.testing.assert_array_equal(at_eps, above)
    assert np.any(at_eps != 0)
    np.testing.assert_array_equal(below, 0)


def test_an_eps_below_the_smallest_float_is_still_finite():
    losses, gradients = differentiate([NO_OVERLAP["disjoint"][0]], [TARGET], "log", eps=1e-60)
    assert np.all(np.isfinite(losses))
    np.testing.assert_array_equal(gradients, 0)


@pytest.mark.parametrize("mode", MODES)
def test_identical_boxes_have_exactly_zero_gradient_under_jit(mode):
    rng = np.random.default_rng(0)
    integers = np.sort(rng.integers(0, 50, (2000, 2, 2)), axis=1).reshape(-1, 4)
    floats = np.sort(rng.uniform(-1, 1, (2000, 2, 2)), axis=1).reshape(-1, 4)
    boxes = np.concatenate([integers, floats, floats * 1e-12, floats * 1e20])
    _, gradients = differentiate(boxes, boxes, mode)
    np.testing.assert_array_equal(gradients, 0)


SIDES = [1e-13, 1e-6, 1.0, 1e6, 1e19, 1e20, 1e22, 1e24]


@pytest.mark.parametrize("mode", MODES)
def test_boxes_of_any_size_have_the_iou_of_their_shape(mode):
    sides = np.array(SIDES)[:, None]
    pred, target = sides * [[0, 0, 1, 1]], sides * [[0, 0, 2, 1]]
    losses, gradients = differentiate(pred, target, mode)
    np.testing.assert_allclose(losses, MODES[mode](0.5), rtol=1e-5)
    # Of the right side x: shared area x, union 2. Of an edge that both boxes have, half of the
    # slopes inwards and outwards. Inwards the IoU falls by 1/2 per unit, outwards by 1/4.
    iou_slopes = np.array([-0.25 / 2, -0.25 / 2, 0.5, (0.5 - 0.25) / 2])
    slope = {"linear": -1, "square": -1, "log": -2}[mode]
    expected = slope * iou_slopes
    np.testing.assert_allclose(gradients[0] * sides, np.tile(expected, (len(SIDES), 1)), rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_integer_boxes_keep_their_overlap_at_large_coordinates(dtype):
    low = 100_000_000
    pred = np.array([[low, low, low + 1, low + 2]], dtype)
    target = np.array([[low, low, low + 2, low + 2]], dtype)
    assert iou_loss(pred, target, mode="linear") == 0.5  # no area in float32
    assert iou_loss(pred, pred, mode="linear") == 0


@functools.cache
def with_traced_eps(mode):
    def loss(pred, target, eps):
        return jnp.sum(iou_loss(pred, target, mode=mode, eps=eps))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 2)))


@pytest.mark.parametrize("mode", MODES)
def test_a_traced_eps_gives_the_same_losses_and_gradients(mode):
    disjoint = jnp.array([NO_OVERLAP["disjoint"][0]])
    half, target = jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([TARGET])
    for eps in (1e-6, 0.01):
        value, (slope, _) = with_traced_eps(mode)(disjoint, target, eps)
        np.testing.assert_allclose(value, MODES[mode](eps), rtol=1e-6)
        np.testing.assert_array_equal(slope, 0)
        value, (slope, of_eps) = with_traced_eps(mode)(half, target, eps)
        np.testing.assert_allclose(value, MODES[mode](0.5), rtol=1e-6)
        _, gradients = differentiate(half, target, mode, eps)
        np.testing.assert_array_equal(slope, gradients[0])
        assert of_eps == 0


def test_the_gradient_of_eps_by_hand():
    disjoint, target = jnp.array([NO_OVERLAP["disjoint"][0]]), jnp.array([TARGET])
    expected = {"linear": -1, "square": -2 * 0.01, "log": -1 / 0.01}
    for mode in MODES:
        _, (_, gradient) = with_traced_eps(mode)(disjoint, target, 0.01)
        np.testing.assert_allclose(gradient, expected[mode], rtol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 1e-45, -1.0])
def test_a_traced_eps_below_the_smallest_float_is_still_finite(eps):
    disjoint, target = jnp.array([NO_OVERLAP["disjoint"][0]]), jnp.array([TARGET])
    value, gradients = with_traced_eps("log")(disjoint, target, eps)
    np.testing.assert_allclose(value, -np.log(np.finfo(np.float32).tiny), rtol=1e-6)
    assert all(np.all(np.asarray(g) == 0) for g in gradients)


def test_an_eps_of_numpy_keeps_float32():
    box = jnp.array([TARGET], jnp.float32)
    with enable_x64(True):
        for eps in (np.float64(1e-6), np.float32(1e-6), jnp.float32(1e-6)):
            assert iou_loss(box, box, eps=eps).dtype == jnp.float32


def test_a_nan_prediction_is_not_hidden():
    losses, _ = differentiate([[np.nan, 0.0, 1.0, 1.0], TARGET], [TARGET, TARGET], "log")
    np.testing.assert_array_equal(np.isnan(losses), [True, False])


def test_boxes_may_have_any_number_of_leading_axes():
    pred = jnp.broadcast_to(jnp.array(TARGET), (2, 3, 4))
    assert iou_loss(pred, pred).shape == (2, 3)


def test_each_argument_is_validated_once(monkeypatch):
    calls = []

    def counted(name):
        check = getattr(_inputs, name)

        def wrapped(function, *arguments, **arrays):
            calls.extend((name, argument) for argument in arrays or ["where"])
            return check(function, *arguments, **arrays)

        return wrapped

    for name in ("check_numeric", "check_same_shape", "check_mask"):
        monkeypatch.setattr(_inputs, name, counted(name))
    boxes = jnp.array([TARGET])
    iou_loss(boxes, boxes, where=jnp.array([True]))
    assert sorted(calls) == [
        ("check_mask", "where"),
        ("check_numeric", "pred"),
        ("check_numeric", "target"),
        ("check_same_shape", "pred"),
        ("check_same_shape", "target"),
    ]


BOXES = jnp.zeros((8, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: iou_loss(BOXES, jnp.zeros((1, 4))),
            "iou_loss: pred and target must have the same shape, got pred (8, 4) and target (1, 4). Losses never broadcast: (N,) against (N, 1) would silently average N * N pairs.",
        ),
        (
            lambda: iou_loss(jnp.zeros((8, 5)), jnp.zeros((8, 5))),
            "iou_loss: pred and target must hold boxes (x1, y1, x2, y2) on the last axis, got pred (8, 5) and target (8, 5). Expected a shape of [..., 4].",
        ),
        (
            lambda: iou_loss(BOXES, BOXES, where=jnp.ones((8, 4), bool)),
            "iou_loss: where must cover the leading axes of the loss, got where (8, 4) and loss (8,). A mask is never matched to trailing axes.",
        ),
        (
            lambda: iou_loss(BOXES, BOXES, mode="giou"),
            "iou_loss: mode must be one of 'linear', 'square', 'log', got mode 'giou'.",
        ),
        (
            lambda: IoULoss(mode="giou"),
            "IoULoss: mode must be one of 'linear', 'square', 'log', got mode 'giou'.",
        ),
    ],
)
def test_mistakes_are_errors(call, message):
    with raises(ValueError, message):
        call()
