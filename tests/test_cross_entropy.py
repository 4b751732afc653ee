"""Cross-entropy: values by hand, labels of any kind, huge logits, layouts and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import CrossEntropyLoss, cross_entropy, mean_loss, sum_loss
from vis4d_jax_loss._numerics import enable_x64

LOGITS = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5], [0.2, 0.3, 0.5]]))
LABELS = jnp.array([0, 1, 255, 1])
BY_HAND = -np.log([0.7, 0.6, 1, 0.3])


def differentiate(logits, labels, **options):
    step = jax.jit(
        jax.value_and_grad(lambda z: cross_entropy(z, labels, reducer=sum_loss, **options))
    )
    return step(jnp.asarray(logits))


def test_values_by_hand():
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), BY_HAND, rtol=1e-6, atol=1e-7)


def test_a_mean_counts_ignored_elements_unless_they_are_masked():
    pixels = cross_entropy(LOGITS, LABELS, reducer=mean_loss)
    valid = cross_entropy(LOGITS, LABELS, reducer=mean_loss, where=LABELS != 255)
    np.testing.assert_allclose(pixels, BY_HAND.sum() / 4, rtol=1e-6)
    np.testing.assert_allclose(valid, BY_HAND.sum() / 3, rtol=1e-6)
    np.testing.assert_allclose(CrossEntropyLoss()(LOGITS, LABELS), pixels)


def test_class_weights_do_not_change_the_divisor():
    loss = CrossEntropyLoss(class_weights=[0.5, -2.0, np.nan])  # class 2 is never a label
    expected = (0.5 * BY_HAND[0] - 2 * BY_HAND[1] - 2 * BY_HAND[3]) / 4
    np.testing.assert_allclose(loss(LOGITS, LABELS), expected, rtol=1e-6)
    traced = jax.jit(lambda w: cross_entropy(LOGITS, LABELS, w, reducer=mean_loss))
    np.testing.assert_allclose(traced(jnp.array([0.5, -2.0, 0.0])), expected, rtol=1e-6)


@pytest.mark.parametrize("ignore_index", [255, -1, -100, 0])
def test_ignored_elements_have_zero_loss_and_gradient_for_any_logits(ignore_index):
    logits = LOGITS.at[2].set(jnp.array([jnp.nan, jnp.inf, -jnp.inf]))
    labels = jnp.array([1, 2, ignore_index, 1])
    value, gradient = differentiate(logits, labels, ignore_index=ignore_index)
    np.testing.assert_allclose(value, -np.log(0.2 * 0.3 * 0.3), rtol=1e-6)
    np.testing.assert_array_equal(gradient[2], 0)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("label", [255, -1, -100, 3, 2**31 - 1, -(2**31)])
def test_an_invalid_label_gives_nan(label):
    losses = cross_entropy(LOGITS, jnp.array([0, 1, 2, label]), ignore_index=254)
    np.testing.assert_array_equal(np.isnan(losses), [False, False, False, True])


@pytest.mark.parametrize("label", [np.nan, np.inf, -np.inf, 1e30, 3.0, -1.0])
def test_an_invalid_float_label_gives_nan(label):
    losses = cross_entropy(LOGITS, jnp.array([0.0, 1.0, 2.0, label]))
    np.testing.assert_array_equal(np.isnan(losses), [False, False, False, True])


def test_float_labels_are_truncated():
    labels = jnp.array([0.9, 1.99, 255.0, -0.5])
    np.testing.assert_array_equal(
        cross_entropy(LOGITS, labels), cross_entropy(LOGITS, jnp.array([0, 1, 255, 0]))
    )


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int16, jnp.uint32, jnp.bfloat16, jnp.float16])
def test_labels_may_have_any_dtype(dtype):
    np.testing.assert_array_equal(
        cross_entropy(LOGITS, LABELS.astype(dtype)), cross_entropy(LOGITS, LABELS)
    )
    binary = cross_entropy(LOGITS, jnp.array([True, False, True, True]))
    np.testing.assert_array_equal(binary, cross_entropy(LOGITS, jnp.array([1, 0, 1, 1])))


def test_int8_labels_cannot_hold_255_and_give_nan():
    assert np.isnan(cross_entropy(LOGITS, LABELS.astype(jnp.int8))[2])


def test_wide_labels_never_wrap_to_a_class():
    with enable_x64(True):
        losses = cross_entropy(LOGITS, jnp.array([0, 1, 2**32 + 1, 1], jnp.int64))
    np.testing.assert_array_equal(np.isnan(losses), [False, False, True, False])


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_logits_do_not_overflow(size):
    logits = jnp.array([[size, -size, 0.0], [-size, size, size]])
    value, gradient = differentiate(logits, jnp.array([0, 1]))
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0, 0, 0], [0, -0.5, 0.5]], atol=1e-6)
    value, gradient = differentiate(logits, jnp.array([1, 0]))
    np.testing.assert_allclose(value, 4 * size + np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[1, -1, 0], [-1, 0.5, 0.5]], atol=1e-6)


def test_half_precision_logits_do_not_overflow():
    value, gradient = differentiate(jnp.array([[60_000.0, -60_000.0]], jnp.float16), jnp.array([1]))
    assert value == 120_000
    np.testing.assert_array_equal(gradient, [[1, -1]])


def test_a_logit_of_minus_infinity_removes_its_class():
    eager = cross_entropy(jnp.array([0.0, 0.0, -jnp.inf]), jnp.array(0))
    np.testing.assert_allclose(eager, np.log(2), rtol=1e-6)
    value, gradient = differentiate([[0.0, 0.0, -np.inf]], jnp.array([0]))
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.5, 0.5, 0]], rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2])
def test_the_classes_may_be_on_any_axis(axis):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 3, 4, 5)), rng.integers(0, 5, (2, 3, 4))
    expected = cross_entropy(logits, labels)
    moved = cross_entropy(np.moveaxis(logits, -1, axis), labels, class_axis=axis)
    np.testing.assert_allclose(moved, expected, rtol=1e-6)


def test_a_single_example_needs_no_batch_axis():
    np.testing.assert_allclose(cross_entropy(LOGITS[0], jnp.array(1)), -np.log(0.2), rtol=1e-6)


def test_a_mask_covers_pixels_or_images():
    logits, labels = jnp.zeros((2, 2, 2, 4)), jnp.zeros((2, 2, 2), int)
    pixels = jnp.array([[[True, False], [False, False]], [[True, True], [True, True]]])
    loss = cross_entropy(logits, labels, where=pixels)
    np.testing.assert_allclose(loss, np.log(4) * pixels, rtol=1e-6)
    loss = cross_entropy(logits, labels, where=jnp.array([True, False]), reducer=sum_loss)
    np.testing.assert_allclose(loss, 4 * np.log(4), rtol=1e-6)


HARMFUL = jnp.array([[0.0, 1.0, 2.0], [0.0, jnp.inf, jnp.nan], [jnp.nan, -jnp.inf, 0.0]])


@pytest.mark.parametrize("class_axis", [0, -1])
def test_derivatives_through_a_shared_bias_ignore_harmful_logits(class_axis):
    """Of the second and the third derivative too: rows 1 and 2 are ignored and masked."""
    labels, where = jnp.array([0, 255, 1]), jnp.array([True, True, False])
    logits = jnp.moveaxis(HARMFUL, -1, class_axis)
    p = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()

    def loss(bias):
        shifted = logits + (bias[:, None] if class_axis == 0 else bias[None])
        options = dict(class_axis=class_axis, reducer=sum_loss, where=where)
        return cross_entropy(shifted, labels, **options)

    def penalty(bias):
        return jnp.sum(jax.grad(loss)(bias) ** 2)

    bias = jnp.zeros(3)
    np.testing.assert_allclose(jax.grad(loss)(bias), p - [1, 0, 0], rtol=1e-6)
    hessian = np.diag(p) - np.outer(p, p)
    np.testing.assert_allclose(jax.jit(jax.hessian(loss))(bias), hessian, rtol=1e-5, atol=1e-7)
    expected = 2 * hessian @ (p - [1, 0, 0])
    np.testing.assert_allclose(jax.jit(jax.grad(penalty))(bias), expected, rtol=1e-5, atol=1e-7)
    third = jax.jit(jax.jacfwd(jax.hessian(loss)))(bias)
    assert np.all(np.isfinite(third))
    np.testing.assert_allclose(np.sum(third, axis=0), 0, atol=1e-6)


def test_debug_nans_does_not_stop_at_logits_that_are_ignored_or_masked():
    labels = jnp.array([0, 255, 1])
    with jax.debug_nans(True), jax.debug_infs(True):
        for where in (jnp.array([True, True, False]), labels == 0):
            step = jax.value_and_grad(
                lambda z, w=where: cross_entropy(z, labels, reducer=mean_loss, where=w)
            )
            value, gradient = step(HARMFUL)
            assert np.isfinite(value)
            np.testing.assert_array_equal(gradient[1:], 0)


@pytest.mark.parametrize("class_axis", [0, -1])
def test_a_mask_of_classes_by_minus_infinity(class_axis):
    """A class that is switched off has probability 0, and its own loss is infinite."""
    logits = jnp.array([[-jnp.inf, 0.0, 0.0], [-jnp.inf, 0.0, 0.0]])
    value, gradient = differentiate(
        jnp.moveaxis(logits, -1, class_axis), jnp.array([1, 2]), class_axis=class_axis
    )
    np.testing.assert_allclose(value, 2 * np.log(2), rtol=1e-6)
    expected = np.array([[0, -0.5, 0.5], [0, 0.5, -0.5]])
    np.testing.assert_allclose(gradient, np.moveaxis(expected, -1, class_axis), rtol=1e-6)
    assert cross_entropy(logits[0], jnp.array(0)) == jnp.inf


@pytest.mark.parametrize("count", [1, 2, 64, 65])  # up to 64 classes, one class at a time
@pytest.mark.parametrize("class_axis", [0, -1])
def test_any_number_of_classes(count, class_axis):
    logits = np.arange(3 * count, dtype=np.float32).reshape(3, count) / count
    labels = np.array([0, count - 1, count // 2])
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    value, gradient = differentiate(
        np.moveaxis(logits, -1, class_axis), labels, class_axis=class_axis
    )
    picked = probs[np.arange(3), labels]
    np.testing.assert_allclose(value, -np.log(picked).sum(), rtol=1e-5, atol=1e-6)
    expected = np.moveaxis(probs - np.eye(count)[labels], -1, class_axis)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_without_classes_every_label_is_invalid():
    assert np.isnan(cross_entropy(jnp.zeros((1, 0)), jnp.array([0])))
    assert cross_entropy(jnp.zeros((1, 0)), jnp.array([255])) == 0


def test_class_weights_have_a_gradient():
    def loss(weights):
        return cross_entropy(LOGITS, LABELS, weights, reducer=sum_loss)

    gradient = jax.jit(jax.grad(loss))(jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(gradient, [BY_HAND[0], BY_HAND[1] + BY_HAND[3], 0], rtol=1e-6)


IMAGES, LABEL_MAPS = jnp.zeros((2, 3, 8, 8)), jnp.zeros((2, 8, 8), int)


def mismatch(output, target, class_axis):
    axes = (
        f"Logits have one axis more than labels: the classes, here class_axis={class_axis}; "
        "use class_axis=1 for the layout [N, C, H, W]. Class probabilities have the shape of output."
    )
    return (
        "cross_entropy: output without its class axis must have the shape of target, "
        f"got output {output} and target {target}. {axes}"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cross_entropy(IMAGES, LABEL_MAPS), mismatch((2, 3, 8, 8), (2, 8, 8), -1)),
        (
            lambda: cross_entropy(IMAGES, LABEL_MAPS, class_axis=4),
            mismatch((2, 3, 8, 8), (2, 8, 8), 4),
        ),
        (
            lambda: cross_entropy(jnp.zeros((2, 3)), jnp.zeros((2, 2))),  # one class less
            mismatch((2, 3), (2, 2), -1),
        ),
        (
            lambda: cross_entropy(jnp.zeros(()), jnp.zeros(())),  # no classes
            mismatch((), (), -1),
        ),
        (
            lambda: cross_entropy(LOGITS, LABELS, label_smoothing=1.5),
            "cross_entropy: label_smoothing must be from 0 to 1, got label_smoothing 1.5.",
        ),
        (
            lambda: CrossEntropyLoss(label_smoothing=-0.1),
            "CrossEntropyLoss: label_smoothing must be from 0 to 1, got label_smoothing -0.1.",
        ),
        (
            lambda: cross_entropy(IMAGES, LABEL_MAPS, jnp.ones(4), class_axis=1),
            "cross_entropy: class_weights must hold 3 weights, one per class, got class_weights (4,). The classes are counted along class_axis of output.",
        ),
    ],
)
def test_mistakes_are_errors(call, message):
    with raises(ValueError, message):
        call()
