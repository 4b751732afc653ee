"""The softmax cross-entropy of one label per element, on each of its two paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss.losses._negative_log_prob import is_label, negative_log_prob

LOGITS = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32)) + 7
LABELS = jnp.array([0, 2])
EVERY_PATH = pytest.mark.parametrize("axis", [0, 1])  # one class at a time, or all at once


def along(axis):
    """The logits with the classes on an axis."""
    return jnp.asarray(LOGITS if axis == 1 else LOGITS.T)


@EVERY_PATH
def test_value_and_gradient(axis):
    loss, pullback = jax.vjp(lambda x: negative_log_prob(x, LABELS, axis), along(axis))
    np.testing.assert_allclose(loss, -np.log([0.5, 0.8]), rtol=1e-6)
    (gradient,) = pullback(jnp.ones(2))
    rows = gradient if axis == 1 else gradient.T
    np.testing.assert_allclose(rows, [[-0.5, 0.25, 0.25], [0.1, 0.1, -0.2]], rtol=1e-5)


@EVERY_PATH
def test_a_negative_label_has_no_gradient(axis):
    gradient = jax.grad(lambda x: negative_log_prob(x, LABELS - 1, axis).sum())(along(axis))
    rows = gradient if axis == 1 else gradient.T
    np.testing.assert_array_equal(rows[0], 0)
    np.testing.assert_allclose(rows[1], [0.1, -0.9, 0.8], rtol=1e-5)


@EVERY_PATH
def test_large_logits_neither_overflow_nor_lose_the_difference(axis):
    logits = along(axis) - 7 + jnp.where(is_label(LABELS, along(axis).shape, axis), 1e30, 0)
    np.testing.assert_array_equal(negative_log_prob(logits, LABELS, axis), 0)
    np.testing.assert_allclose(negative_log_prob(-logits, LABELS, axis), 1e30, rtol=1e-6)


@EVERY_PATH
def test_an_excluded_class_costs_nothing(axis):
    logits = along(axis)
    excluded = jnp.where(is_label(jnp.array([1, 1]), logits.shape, axis), -jnp.inf, logits)
    expected = -np.log([0.5 / 0.75, 0.8 / 0.9])
    np.testing.assert_allclose(negative_log_prob(excluded, LABELS, axis), expected, rtol=1e-6)


def test_labels_as_one_hot():
    np.testing.assert_array_equal(is_label(LABELS, (2, 3), 1), [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(is_label(LABELS, (3, 2), 0), [[1, 0], [0, 0], [0, 1]])
