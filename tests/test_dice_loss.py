"""Dice loss: soft counts by hand, absent classes, pixels that do not count, and saturation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import DiceLoss, OverAxis, dice_loss, identity_loss, mean_loss, sum_loss

# One image of two pixels. Class 0: TP 0.75, FP 0.5, FN 0.25. Class 1: TP 0.5, FP 0.25, FN 0.5.
LOGITS = np.log(np.array([[[0.75, 0.25], [0.5, 0.5]]], np.float32))
LABELS = np.array([[0, 1]])


def differentiate(logits, labels, reducer=mean_loss, **options):
    """Value and gradient in one compiled function."""
    loss = functools.partial(dice_loss, target=labels, reducer=reducer, **options)
    return jax.jit(jax.value_and_grad(loss))(jnp.asarray(logits))


def by_formula(logits, labels, smooth=1.0, alpha=0.5, beta=0.5):
    """Losses ``[B, C]`` of logits ``[B, N, C]``, all of whose pixels count."""
    p = jax.nn.softmax(logits, axis=-1)
    target = jax.nn.one_hot(labels, logits.shape[-1], dtype=p.dtype)
    tp, fp, fn = (jnp.sum(x, axis=1) for x in (p * target, p * (1 - target), (1 - p) * target))
    return 1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"smooth": 0.0}, [0.375 / 1.125, 0.375 / 0.875]),
        ({}, [0.375 / 2.125, 0.375 / 1.875]),
        ({"smooth": 0.0, "alpha": 0.3, "beta": 0.7}, [0.325 / 1.075, 0.425 / 0.925]),  # Tversky
        ({"smooth": 0.0, "alpha": 1.0, "beta": 1.0}, [0.75 / 1.5, 0.75 / 1.25]),  # Jaccard
        ({"smooth": 0.0, "alpha": 0, "beta": 1}, [0.25, 0.5]),  # 1 - recall
        ({"smooth": 0.0, "alpha": 1, "beta": 0}, [0.5 / 1.25, 0.25 / 0.75]),  # 1 - precision
    ],
)
def test_losses_by_hand(options, expected):
    loss = dice_loss(LOGITS, LABELS, identity_loss, **options)
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)


def test_one_class_has_the_probability_of_a_sigmoid():
    logits = np.log(np.array([[[3.0], [1.0]]], np.float32))  # 0.75 and 0.5
    for labels in (np.array([[1, 0]]), np.array([[True, False]]), np.array([[1.0, 0.0]])):
        loss = dice_loss(logits, labels, identity_loss, smooth=0.0)
        np.testing.assert_allclose(loss, [[0.375 / 1.125]], rtol=1e-6)  # that of class 0 above


def test_one_class_equals_the_second_of_two_classes():
    rng = np.random.default_rng(0)
    two = rng.normal(size=(2, 5, 2)).astype(np.float32)
    one, labels = two[..., 1:] - two[..., :1], rng.integers(0, 2, (2, 5))
    labels[0, 0] = 255
    expected = dice_loss(two, labels, identity_loss)[:, 1:]
    np.testing.assert_allclose(dice_loss(one, labels, identity_loss), expected, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 65, 257])  # up to 256 classes, one class at a time
@pytest.mark.parametrize("class_axis", [1, -1])
def test_any_number_of_classes(count, class_axis):
    rng = np.random.default_rng(count)
    logits = rng.normal(size=(2, 7, count)).astype(np.float32)
    labels = rng.integers(0, max(count, 2), (2, 7))
    full = np.concatenate([np.zeros_like(logits), logits], -1) if count == 1 else logits

    def formula(logits):
        losses = by_formula(logits, labels, 0.5, 0.3, 0.7)
        return jnp.mean(losses[:, 1:] if count == 1 else losses)

    expected, expected_gradient = jax.jit(jax.value_and_grad(formula))(full)
    moved = np.moveaxis(logits, -1, class_axis)
    options = dict(smooth=0.5, alpha=0.3, beta=0.7, ignore_index=None, class_axis=class_axis)
    value, gradient = differentiate(moved, labels, **options)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    expected_gradient = np.moveaxis(expected_gradient[..., -count:], -1, class_axis)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-7)


def test_without_classes_there_is_no_loss():
    ignored = np.full((1, 2), 255)
    assert dice_loss(np.zeros((1, 2, 0)), ignored, identity_loss).shape == (1, 0)
    assert dice_loss(np.zeros((1, 2, 0)), ignored) == 0


@pytest.mark.parametrize("class_axis", [0, 1, 2, 3, -1, -2])
def test_the_classes_may_be_on_any_axis(class_axis):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 3, 4, 5)), rng.integers(0, 5, (2, 3, 4))
    labels[0, 0] = 255
    expected, expected_gradient = differentiate(logits, labels)
    moved = np.moveaxis(logits, -1, class_axis)
    value, gradient = differentiate(moved, labels, class_axis=class_axis)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    gradient = np.moveaxis(gradient, class_axis, -1)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


# An image of class 0 alone, with probabilities 1/3. Class 0: TP 4/3, FP 0, FN 8/3.
# Classes 1 and 2: TP 0, FP 4/3, FN 0.
FLAT, ONLY_0 = np.zeros((1, 4, 3), np.float32), np.zeros((1, 4), int)


def test_absent_classes_are_counted_or_skipped():
    present, absent = (4 / 3) / (4 / 3 + 4 / 3 + 1), (2 / 3) / (2 / 3 + 1)
    losses = dice_loss(FLAT, ONLY_0, identity_loss)
    np.testing.assert_allclose(losses, [[present, absent, absent]], rtol=1e-6)
    skipped = dice_loss(FLAT, ONLY_0, identity_loss, absent="skip")
    np.testing.assert_allclose(skipped, [[present, 0, 0]], rtol=1e-6)
    value, gradient = differentiate(FLAT, ONLY_0, absent="skip")
    np.testing.assert_allclose(value, present, rtol=1e-6)
    assert np.all(gradient < 0, where=np.array([True, False, False]))


def test_a_class_whose_labels_are_all_masked_is_absent():
    labels, where = np.array([[0, 0, 1, 2]]), np.array([[True, True, False, True]])
    skipped = dice_loss(FLAT, labels, identity_loss, absent="skip", where=where)
    assert (np.asarray(skipped) > 0).tolist() == [[True, False, True]]
    ignored = dice_loss(FLAT, np.where(where, labels, 255), identity_loss, absent="skip")
    np.testing.assert_array_equal(ignored, skipped)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_an_image_without_foreground(smooth):
    logits, labels = np.zeros((2, 4, 1), np.float32), np.array([[0, 0, 0, 0], [1, 1, 1, 1]])
    losses = dice_loss(logits, labels, identity_loss, smooth)
    without, full = 1.0 / (1 + smooth), 1.0 / (2 + 1 + smooth)  # FP 2; TP 2, FN 2
    np.testing.assert_allclose(losses, [[without], [full]], rtol=1e-6)
    value, gradient = differentiate(logits, labels, smooth=smooth, absent="skip")
    np.testing.assert_allclose(value, full, rtol=1e-6)
    np.testing.assert_array_equal(gradient[0], 0)
    value, gradient = differentiate(logits[:1], labels[:1], smooth=smooth, absent="skip")
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("class_axis", [1, -1])
@pytest.mark.parametrize("reducer", [mean_loss, jnp.mean, sum_loss])
def test_an_image_without_a_valid_pixel_is_not_counted(reducer, class_axis, count):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 5, count)).astype(np.float32)
    labels = rng.integers(0, 2, (2, 5))
    expected, expected_gradient = differentiate(logits[:1], labels[:1], reducer)
    logits[1] = [[np.nan], [np.inf], [-np.inf], [1e30], [0.0]]
    labels[1] = 255
    moved = np.moveaxis(logits, -1, class_axis)
    value, gradient = differentiate(moved, labels, reducer, class_axis=class_axis)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    gradient = np.moveaxis(gradient, class_axis, -1)
    np.testing.assert_allclose(gradient[:1], expected_gradient, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(gradient[1], 0)
    value, gradient = differentiate(moved[1:], labels[1:], reducer, class_axis=class_axis)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("count", [1, 3])
def test_a_mask_covers_images_rows_or_pixels(count):
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(3, 2, 4, count)), rng.integers(0, 2, (3, 2, 4))
    pixels = rng.random((3, 2, 4)) > 0.4
    for where in (pixels, pixels[:, :, 0], np.array([True, False, True])):
        spread = np.broadcast_to(where.reshape(where.shape + (1,) * (3 - where.ndim)), (3, 2, 4))
        ignored = np.where(spread, labels, 255)
        expected, expected_gradient = differentiate(logits, ignored)
        value, gradient = differentiate(logits, labels, where=where)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6)
        np.testing.assert_array_equal(gradient[~spread], 0)


def test_several_labels_are_ignored_or_none():
    labels = np.array([[0, 1, 7, 255]])
    logits = np.concatenate([LOGITS, LOGITS], axis=1)
    ignored = dice_loss(logits, labels, ignore_index=(7, 255))
    np.testing.assert_allclose(ignored, dice_loss(LOGITS, LABELS), rtol=1e-6)
    assert np.isnan(dice_loss(logits, labels))
    assert np.isnan(dice_loss(LOGITS, np.array([[0, 255]]), ignore_index=None))


@pytest.mark.parametrize("label", [-1, 3, 2.0**40, np.nan])
@pytest.mark.parametrize("count", [1, 3])
def test_an_invalid_label_makes_the_losses_of_its_image_nan(count, label):
    logits = np.zeros((2, 2, count), np.float32)
    labels = np.array([[0, 1], [1, label]])
    for absent in ("count", "skip"):
        losses = dice_loss(logits, labels, identity_loss, absent=absent)
        assert np.all(np.isnan(losses[1]))
        expected = dice_loss(logits[:1], labels[:1], identity_loss, absent=absent)
        np.testing.assert_allclose(losses[:1], expected, rtol=1e-6)
    masked = dice_loss(logits, labels, identity_loss, where=np.array([[True, True], [True, False]]))
    assert np.all(np.isfinite(masked))


PREDICTED, CERTAIN = np.array([[0, 1, 1]]), 1e4


@pytest.mark.parametrize("scale", [CERTAIN, 1e30])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("class_axis", [1, -1])
def test_probabilities_of_exactly_0_and_1(scale, smooth, class_axis):
    """Their derivatives are 0 in every order, up to rounding."""
    logits = scale * np.eye(3, dtype=np.float32)[PREDICTED]
    moved = jnp.asarray(np.moveaxis(logits, -1, class_axis))
    options = dict(smooth=smooth, class_axis=class_axis)
    for labels, expected in [
        (PREDICTED, [0, 0, 0]),
        # Class 0: FP 1. Class 1: FP 2. Class 2: FN 3.
        (np.array([[2, 2, 2]]), [0.5 / (0.5 + smooth), 1 / (1 + smooth), 1.5 / (1.5 + smooth)]),
    ]:
        losses = dice_loss(moved, labels, identity_loss, **options)
        np.testing.assert_allclose(losses, [expected], rtol=1e-6)

        def loss(z, labels=labels):
            return dice_loss(z, labels, **options)

        np.testing.assert_allclose(jax.jit(jax.grad(loss))(moved), 0, atol=1e-7)
        second = jax.jit(jax.grad(lambda z, f=loss: jnp.sum(jax.grad(f)(z) ** 2)))(moved)
        np.testing.assert_allclose(second, 0, atol=1e-7)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_one_class_with_probabilities_of_exactly_0_and_1(smooth):
    logits = CERTAIN * np.array([[[-1.0], [-1.0]], [[1.0], [-1.0]]], np.float32)
    labels = np.array([[0, 0], [1, 0]])
    value, gradient = differentiate(logits, labels, smooth=smooth)
    assert value == 0  # without smooth, the first image is 0 / 0
    np.testing.assert_array_equal(gradient, 0)
    wrong, gradient = differentiate(-logits[1:], labels[1:], smooth=smooth)
    np.testing.assert_allclose(wrong, 1 / (1 + smooth), rtol=1e-6)  # FP 1, FN 1
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("class_axis", [1, -1])
def test_large_logits_keep_their_differences(class_axis):
    rng = np.random.default_rng(0)
    logits = rng.integers(-3, 4, (1, 4, 9)).astype(np.float32)
    labels = rng.integers(0, 4, (1, 9))
    logits = logits if class_axis == 1 else logits.swapaxes(1, 2)
    expected = differentiate(logits, labels, class_axis=class_axis)
    for shift in (1e4, -1e4):
        shifted = differentiate(logits + np.float32(shift), labels, class_axis=class_axis)
        for actual, wanted in zip(shifted, expected, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("class_axis", [1, -1])
def test_a_class_that_is_switched_off(class_axis):
    logits = np.array([[[-np.inf, 0.0, 0.0], [-np.inf, 0.0, 0.0]]], np.float32)
    moved = np.moveaxis(logits, -1, class_axis)
    losses = dice_loss(moved, np.array([[1, 2]]), identity_loss, 0.0, class_axis=class_axis)
    np.testing.assert_allclose(losses, [[0, 0.5, 0.5]], rtol=1e-6)  # TP, FP and FN 0.5
    _, gradient = differentiate(moved, np.array([[1, 2]]), class_axis=class_axis)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(np.moveaxis(gradient, class_axis, -1)[..., 0], 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("count", [1, 2])
def test_counts_in_half_precision_are_not_limited(count, dtype):
    """70,000 pixels: more than float16 holds, and more than bfloat16 counts."""
    logits, labels = jnp.zeros((1, 70_000, count), dtype), np.ones((1, 70_000), np.uint8)
    losses = dice_loss(logits, labels, identity_loss, smooth=0.0)
    expected = [[1 / 3]] if count == 1 else [[1, 1 / 3]]  # TP and FN 35,000
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize("class_axis", [1, -1])
def test_a_loss_is_never_negative(class_axis):
    """Of nearly perfect predictions, whose sums may round to more than the number of pixels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (50, 40))
    logits = 10 * np.eye(3)[labels] + rng.normal(size=(50, 40, 3))
    logits = np.moveaxis(logits, -1, class_axis).astype(np.float32)
    for factor in (1.5, 1.6, 1.7, 2.0):
        losses = dice_loss(factor * logits, labels, identity_loss, 0.0, class_axis=class_axis)
        assert np.all(np.asarray(losses) >= 0)


def test_a_correct_pixel_has_a_gradient_although_its_errors_round_to_0():
    """FN is 1 - p, which is 0 in float32. ``jnp.maximum`` would halve its gradient there."""
    logits = np.array([[[17.0, 0.0], [0.0, 17.0]]], np.float32)
    _, gradient = differentiate(logits, LABELS, smooth=0.0)
    wrong = np.exp(-17.0) * (0.5 + 0.5) / 2  # p times the slopes for FN of one class, FP of another
    np.testing.assert_allclose([gradient[0, 0, 1], gradient[0, 1, 0]], [wrong, wrong], rtol=1e-3)


HARMFUL = jnp.array(
    [[[0.3, -0.2, 1.0], [0.0, jnp.inf, jnp.nan], [jnp.nan, -jnp.inf, 0.0], [1e30, -1e30, 0.5]]]
)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("class_axis", [1, -1])
def test_derivatives_through_a_shared_bias_ignore_harmful_logits(class_axis, count):
    """Of the second and the third derivative too: all pixels but the first are skipped."""
    logits = HARMFUL[..., :count]
    labels, where = np.array([[1, 255, 0, -7]]), np.array([[True, True, False, False]])

    def loss(bias, logits, **options):
        shifted = jnp.moveaxis(logits + bias[None, None], -1, class_axis)
        return dice_loss(shifted, class_axis=class_axis, **options)

    masked = functools.partial(loss, logits=logits, target=labels, where=where)
    clean = functools.partial(loss, logits=logits[:, :1], target=labels[:, :1])
    bias = jnp.zeros(count)
    for derivative in (jax.grad, jax.hessian, lambda f: jax.jacfwd(jax.hessian(f))):
        actual, expected = (jax.jit(derivative(f))(bias) for f in (masked, clean))
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("count", [3, 257])
@pytest.mark.parametrize("class_axis", [1, -1])
def test_second_derivatives_equal_those_of_the_formula(class_axis, count):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(1, 3, count)), jnp.float32)
    labels, direction = rng.integers(0, count, (1, 3)), rng.normal(size=(1, 3, count))

    def products(loss):
        return jax.jit(lambda z: jax.jvp(jax.grad(loss), (z,), (jnp.asarray(direction, z.dtype),)))

    def ours(z):
        moved = jnp.moveaxis(z, -1, class_axis)
        return dice_loss(moved, labels, ignore_index=None, class_axis=class_axis)

    actual = products(ours)(logits)
    expected = products(lambda z: jnp.mean(by_formula(z, labels)))(logits)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_debug_nans_does_not_stop_at_logits_that_do_not_count():
    labels = np.array([[1, 255, 255, 255]])
    with jax.debug_nans(True), jax.debug_infs(True):
        step = jax.value_and_grad(lambda z: dice_loss(z, labels))
        value, gradient = step(HARMFUL)
    assert np.isfinite(value)
    np.testing.assert_array_equal(gradient[:, 1:], 0)


def test_options_may_be_traced_and_have_a_gradient():
    def loss(options):
        return dice_loss(LOGITS, LABELS, sum_loss, **options)

    options = {"smooth": jnp.float32(1.0), "alpha": jnp.float32(0.5), "beta": jnp.float32(0.5)}
    value, gradient = jax.jit(jax.value_and_grad(loss))(options)
    np.testing.assert_allclose(value, 0.375 / 2.125 + 0.375 / 1.875, rtol=1e-6)
    # With errors e and denominator d: -e / d^2 for smooth, FP (d - e) / d^2 for alpha.
    slopes = [0.375 / d**2 for d in (2.125, 1.875)]
    np.testing.assert_allclose(gradient["smooth"], -sum(slopes), rtol=1e-5)
    by_alpha = 0.5 * 1.75 / 2.125**2 + 0.25 * 1.5 / 1.875**2
    np.testing.assert_allclose(gradient["alpha"], by_alpha, rtol=1e-5)
    by_beta = 0.25 * 1.75 / 2.125**2 + 0.5 * 1.5 / 1.875**2
    np.testing.assert_allclose(gradient["beta"], by_beta, rtol=1e-5)


def test_a_reducer_without_where_sees_every_loss_unless_some_are_to_be_left_out():
    def worst(loss):
        return jnp.max(loss)

    assert dice_loss(LOGITS, LABELS, worst) == dice_loss(LOGITS, LABELS, identity_loss).max()
    with pytest.raises(TypeError, match="must accept where="):
        dice_loss(LOGITS, LABELS, worst, absent="skip")


def test_the_module_has_the_options_of_the_function():
    options = dict(smooth=0.5, alpha=0.3, beta=0.7, ignore_index=1, absent="skip", class_axis=1)
    logits = LOGITS.swapaxes(1, 2)
    expected = dice_loss(logits, LABELS, **options)
    np.testing.assert_array_equal(DiceLoss(**options)(logits, LABELS), expected)
    assert DiceLoss(axis_name="data") != DiceLoss()


def test_a_mesh_axis_may_be_named_for_the_images_and_for_the_pixels():
    """One device: the same call as over many. The numbers of many are in eight_devices_dice.py."""
    kinds = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((1, 1), ("images", "pixels"), axis_types=kinds)
    spec = jax.sharding.PartitionSpec

    def step(logits, labels):
        return dice_loss(logits, labels, OverAxis(mean_loss, "images"), axis_name="pixels")

    specs = spec("images", "pixels", None), spec("images", "pixels")
    mapped = jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=spec())
    np.testing.assert_allclose(mapped(LOGITS, LABELS), dice_loss(LOGITS, LABELS), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: dice_loss(np.zeros((2, 4, 3)), np.zeros((2, 4, 1), int)),
            "dice_loss: output without its class axis must have the shape of target, got output "
            "(2, 4, 3) and target (2, 4, 1). Logits have one axis more than labels: the classes, "
            "here class_axis=-1; use class_axis=1 for the layout [N, C, H, W].",
        ),
        (
            lambda: dice_loss(np.zeros((2, 4)), np.zeros((2, 4), int)),  # no axis of the class
            "dice_loss: output without its class axis must have the shape of target, got output "
            "(2, 4) and target (2, 4). For one-hot targets pass the labels, target.argmax(-1).",
        ),
        (
            lambda: dice_loss(np.zeros(3), np.array(0)),
            "dice_loss: target must be [B, ...], with an axis of images, got output (3,) and "
            "target ().",
        ),
        (
            lambda: dice_loss(LOGITS, LABELS, absent="ignore"),
            'dice_loss: absent must be "count" or "skip", got absent \'ignore\'.',
        ),
        (
            lambda: DiceLoss(absent=None),
            'DiceLoss: absent must be "count" or "skip", got absent None.',
        ),
    ],
)
def test_mistakes_are_errors(call, message):
    with raises(ValueError, message):
        call()


@pytest.mark.parametrize("option", ["smooth", "alpha", "beta"])
def test_options_must_be_numbers(option):
    for call in (lambda **o: dice_loss(LOGITS, LABELS, **o), DiceLoss):
        with pytest.raises(TypeError, match=rf"^\w+: {option} must be a number, got {option} "):
            call(**{option: (1.0, 2.0)})
