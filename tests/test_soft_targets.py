"""Cross-entropy with smoothed labels and with class probabilities."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from vis4d_jax_loss import CrossEntropyLoss, cross_entropy, mean_loss, sum_loss

PROBS = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6]])
LOGITS = jnp.log(PROBS)
LABELS = jnp.array([0, 2, 255])
TARGET = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.2, 0.3, 0.5]], np.float32)
WEIGHTS = np.array([1.0, 2.0, 4.0])


def by_hand(target, share=0.0, weights=1.0):
    return -(weights * ((1 - share) * target + share / 3) * np.log(PROBS)).sum(-1)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_smoothed_labels_by_hand(share, weights):
    """Smoothing changes nothing at an ignored element."""
    one_hot = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0]])
    expected = by_hand(one_hot, share, 1 if weights is None else weights) * [1, 1, 0]
    losses = cross_entropy(LOGITS, LABELS, weights, label_smoothing=share)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    traced = jax.jit(lambda a: cross_entropy(LOGITS, LABELS, weights, label_smoothing=a))
    np.testing.assert_allclose(traced(share), expected, rtol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("class_axis", [0, -1])
def test_probabilities_by_hand(share, class_axis):
    output, target = (jnp.moveaxis(x, -1, class_axis) for x in (LOGITS, TARGET))
    options = dict(class_axis=class_axis, label_smoothing=share)
    losses = cross_entropy(output, target, WEIGHTS, **options)
    np.testing.assert_allclose(losses, by_hand(TARGET, share, WEIGHTS), rtol=1e-5)
    mean = CrossEntropyLoss(class_weights=WEIGHTS, **options)(output, target)
    np.testing.assert_allclose(mean, losses.mean(), rtol=1e-6)


@pytest.mark.parametrize("dtype", [int, bool, np.uint8, jnp.bfloat16])
def test_one_hot_targets_of_any_dtype_equal_labels(dtype):
    one_hot = jnp.asarray(np.eye(3)[[0, 2, 1]], dtype)
    for share in (0.0, 0.3):
        losses = cross_entropy(LOGITS, one_hot, label_smoothing=share)
        expected = cross_entropy(LOGITS, jnp.array([0, 2, 1]), label_smoothing=share)
        np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_probabilities_of_many_classes_do_not_warn_about_class_255():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = cross_entropy(jnp.zeros((1, 1000)), jnp.full((1, 1000), 0.001))
    np.testing.assert_allclose(loss, np.log(1000), rtol=1e-5)


def test_the_derivative_by_a_probability_is_its_negative_log_probability():
    gradient = jax.grad(lambda t: cross_entropy(LOGITS, t, WEIGHTS, reducer=sum_loss))(TARGET)
    np.testing.assert_allclose(gradient, -WEIGHTS * np.log(PROBS), rtol=1e-5)


def test_the_derivative_by_the_smoothing():
    slope = jax.grad(lambda a: cross_entropy(LOGITS[0], 0, label_smoothing=a))(0.25)
    np.testing.assert_allclose(slope, np.log(0.5) - np.log(PROBS[0]).mean(), rtol=1e-5)


def test_probabilities_that_underflow_have_finite_derivatives():
    def loss(logits, target):
        return cross_entropy(logits, target, reducer=sum_loss)

    logits, target = jnp.array([0.0, -200.0, -jnp.inf]), jnp.array([1.0, 0.0, 0.0])
    gradients = jax.jit(jax.grad(loss, (0, 1)))(logits, target)
    np.testing.assert_array_equal(gradients[0], 0)
    np.testing.assert_allclose(gradients[1], [0, 200, 0])


def test_a_class_that_is_switched_off_has_a_finite_gradient_under_smoothing():
    def loss(logits):
        return cross_entropy(logits, jnp.array(0), label_smoothing=0.3)

    value, gradient = jax.value_and_grad(loss)(jnp.array([0.0, 0.0, -jnp.inf]))
    assert value == np.inf
    np.testing.assert_allclose(gradient, [0.5 - 0.8, 0.5 - 0.1, -0.1], rtol=1e-5)


@pytest.mark.parametrize("class_axis", [0, -1])
def test_derivatives_of_any_order_ignore_padding(class_axis):
    bad = np.array([np.nan, np.inf, -np.inf])
    output = jnp.moveaxis(LOGITS.at[1].set(bad), -1, class_axis)
    target = jnp.moveaxis(jnp.asarray(TARGET).at[1].set(bad), -1, class_axis)
    where = jnp.array([True, False, True])

    def loss(output, target):
        options = dict(class_axis=class_axis, label_smoothing=0.1, reducer=mean_loss)
        return cross_entropy(output, target, where=where, **options)

    gradients = jax.jit(jax.grad(loss, (0, 1)))(output, target)
    for gradient in gradients:
        np.testing.assert_array_equal(jnp.moveaxis(gradient, class_axis, -1)[1], 0)
    second = jax.jit(jax.hessian(loss, (0, 1)))(output, target)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(second))
    with jax.debug_nans(True):
        assert np.isfinite(loss(output, target))


@pytest.mark.parametrize("value", [-0.5, np.nan, np.inf])
def test_checkify_reports_impossible_probabilities_that_are_valid(value):
    target = jnp.asarray(TARGET).at[1, 0].set(value)

    def step(where):
        return cross_entropy(LOGITS, target, reducer=sum_loss, where=where)

    checked = checkify.checkify(jax.jit(step))
    error, _ = checked(jnp.array([True, True, False]))
    message = "cross_entropy: target must be finite and not negative"
    assert message in error.get()
    error, _ = checked(jnp.array([True, False, True]))
    assert error.get() is None


def test_probabilities_need_not_add_up_to_1():
    loss = cross_entropy(LOGITS[0], jnp.array([2.0, 0.0, 0.0]))
    np.testing.assert_allclose(loss, 2 * np.log(2), rtol=1e-6)
