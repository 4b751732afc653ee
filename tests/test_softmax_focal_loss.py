"""The softmax focal loss: exponents, certain predictions, labels without a loss, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import (
    SoftmaxFocalLoss,
    cross_entropy,
    mean_loss,
    softmax_focal_loss,
    sum_loss,
)

PROBS = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
LOGITS = np.log(PROBS).astype(np.float32)
LABELS = np.array([0, 2])
OF_LABEL = np.array([0.5, 0.8])


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2.0, 3.5])
@pytest.mark.parametrize("axis", [-1, 0])
def test_values_and_gradients_by_hand(gamma, axis):
    logits = jnp.asarray(LOGITS if axis == -1 else LOGITS.T)

    def loss(z):
        losses = softmax_focal_loss(z, LABELS, gamma=gamma, class_axis=axis)
        return losses.sum(), losses

    gradient, losses = jax.jit(jax.grad(loss, has_aux=True))(logits)
    mistake = 1 - OF_LABEL
    np.testing.assert_allclose(losses, -(mistake**gamma) * np.log(OF_LABEL), rtol=1e-5)
    of_cost = mistake**gamma
    of_cost -= gamma * mistake ** (gamma - 1) * OF_LABEL * np.log(OF_LABEL)
    expected = of_cost[:, None] * (PROBS - np.eye(3)[LABELS])
    np.testing.assert_allclose(gradient if axis == -1 else gradient.T, expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("margin", [20.0, 1e4, jnp.inf])
def test_certain_predictions_have_finite_derivatives(gamma, margin):
    logits = jnp.float32([[0, -margin, -margin], [-margin, 0, -margin]])

    def loss(z):
        return softmax_focal_loss(z, jnp.zeros(2, int), sum_loss, gamma)

    value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
    np.testing.assert_allclose(value, margin, rtol=1e-6)
    np.testing.assert_allclose(gradient[0], 0, atol=1e-8)
    np.testing.assert_allclose(gradient[1], [-1, 1, 0], atol=1e-6)
    assert np.isfinite(jax.jit(jax.hessian(loss))(logits)).all()


def test_a_gamma_of_0_is_cross_entropy():
    weights, labels = [1.0, 2.0, 3.0], jnp.array([255, 2])
    loss = softmax_focal_loss(LOGITS, labels, gamma=0.0, class_weights=weights)
    np.testing.assert_array_equal(loss, cross_entropy(LOGITS, labels, jnp.array(weights)))


def test_class_weights_multiply_the_losses():
    losses = softmax_focal_loss(LOGITS, LABELS)
    weighted = softmax_focal_loss(LOGITS, LABELS, class_weights=[2.0, 5.0, 3.0])
    np.testing.assert_allclose(weighted, losses * jnp.array([2, 3]))


def test_ignored_labels_have_no_loss_and_invalid_labels_give_nan():
    logits = jnp.zeros((4, 3)).at[0].set(jnp.nan)
    labels = jnp.array([255, 3, -1, 1])
    losses = softmax_focal_loss(logits, labels, gamma=1.0, class_weights=[1, 1, 1])
    np.testing.assert_allclose(losses, [0, np.nan, np.nan, 2 / 3 * np.log(3)], rtol=1e-6)
    losses = softmax_focal_loss(logits, labels, gamma=1.0, ignore_index=(255, -1, 3))
    np.testing.assert_allclose(losses, [0, 0, 0, 2 / 3 * np.log(3)], rtol=1e-6)


def test_if_every_label_is_ignored_loss_and_gradient_are_0():
    labels = jnp.full(2, 255)
    step = jax.value_and_grad(lambda z: softmax_focal_loss(z, labels, mean_loss, 0.5))
    value, gradient = step(jnp.full((2, 3), jnp.nan))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_gamma_may_be_traced():
    def loss(gamma):
        return softmax_focal_loss(LOGITS, LABELS, sum_loss, gamma)

    for gamma in (0.0, 0.5, 2.0):
        value, slope = jax.jit(jax.value_and_grad(loss))(gamma)
        losses = -((1 - OF_LABEL) ** gamma) * np.log(OF_LABEL)
        np.testing.assert_allclose(value, losses.sum(), rtol=1e-5)
        np.testing.assert_allclose(slope, (losses * np.log(1 - OF_LABEL)).sum(), rtol=1e-5)


def test_the_module_equals_the_function():
    loss = SoftmaxFocalLoss(mean_loss, 1.5, [1.0, 2.0, 3.0], (255, 0), class_axis=-1)
    expected = softmax_focal_loss(LOGITS, LABELS, mean_loss, 1.5, (1.0, 2.0, 3.0), (255, 0))
    assert loss(LOGITS, LABELS) == expected


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: softmax_focal_loss(np.zeros((2, 3)), np.zeros((3,), int)),
            ValueError,
            "softmax_focal_loss: output without its class axis must have the shape of target, got output (2, 3) and target (3,). Logits have one axis more than labels: the classes, here class_axis=-1; use class_axis=1 for the layout [N, C, H, W].",
        ),
        (
            lambda: softmax_focal_loss(np.zeros((2, 3)), LABELS, class_weights=[1.0, 2.0]),
            ValueError,
            "softmax_focal_loss: class_weights must hold 3 weights, one per class, got class_weights (2,). The classes are counted along class_axis of output.",
        ),
        (
            lambda: softmax_focal_loss(np.zeros((2, 3)), LABELS, gamma=-1.0),
            ValueError,
            "softmax_focal_loss: gamma must not be negative, got gamma -1.0.",
        ),
        (
            lambda: SoftmaxFocalLoss(gamma=-1.0),
            ValueError,
            "SoftmaxFocalLoss: gamma must not be negative, got gamma -1.0.",
        ),
        (
            lambda: SoftmaxFocalLoss(ignore_index=0.5),
            TypeError,
            "SoftmaxFocalLoss: ignore_index must be a label, a tuple of labels, or None for no label, got ignore_index 0.5.",
        ),
    ],
)
def test_mistakes_are_errors(call, kind, message):
    with raises(kind, message):
        call()
