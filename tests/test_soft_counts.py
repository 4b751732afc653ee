"""Soft counts of segmentation, on each path through the classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vis4d_jax_loss.losses._soft_counts import soft_counts

# One image of three pixels. The first has label 0, the second none, and the last does not count.
PROBS = np.array([[[0.75, 0.25], [0.5, 0.5], [0.9, 0.1]]], np.float32)
SIGN = np.array([[[-1, 1], [1, 1], [0, 0]]], np.float32)
TRUE, FALSE = [[0.75, 0]], [[0.5, 0.75]]
EVERY_PATH = pytest.mark.parametrize("axis", [0, 1, 2])  # one class at a time, or all at once


def along(axis):
    """Logits and signs with the classes on an axis."""
    return jnp.moveaxis(jnp.log(PROBS), -1, axis), jnp.moveaxis(SIGN, -1, axis)


@EVERY_PATH
def test_counts_by_hand(axis):
    true, false = soft_counts(*along(axis), axis)
    np.testing.assert_allclose(true, TRUE, rtol=1e-6)
    np.testing.assert_allclose(false, FALSE, rtol=1e-6)


@EVERY_PATH
def test_gradients_by_hand(axis):
    logits, sign = along(axis)
    _, pullback = jax.vjp(lambda z: soft_counts(z, sign, axis), logits)

    def gradient(true, false):
        (result,) = pullback((jnp.array([true]), jnp.array([false])))
        return np.moveaxis(result, axis, -1)[0]

    # p (1 - p) = 0.1875 and 0.25, and the other class moves by as much in the other direction.
    np.testing.assert_allclose(
        gradient([1.0, 0.0], [0.0, 0.0]), [[0.1875, -0.1875], [0, 0], [0, 0]], rtol=1e-6
    )
    np.testing.assert_allclose(
        gradient([0.0, 0.0], [1.0, 0.0]), [[0, 0], [0.25, -0.25], [0, 0]], rtol=1e-6, atol=1e-8
    )
    np.testing.assert_allclose(
        gradient([0.0, 0.0], [0.0, 1.0]),
        [[-0.1875, 0.1875], [-0.25, 0.25], [0, 0]],
        rtol=1e-6,
    )


@EVERY_PATH
def test_forward_and_reverse_mode_agree(axis):
    rng = np.random.default_rng(0)
    logits, sign = along(axis)
    change = jnp.asarray(rng.normal(size=logits.shape), jnp.float32)
    weights = [jnp.asarray(rng.normal(size=(1, 2)), jnp.float32) for _ in range(2)]

    def counts(z):
        return soft_counts(z, sign, axis)

    _, moved = jax.jvp(counts, (logits,), (change,))
    (gradient,) = jax.vjp(counts, logits)[1](tuple(weights))
    forward = sum(jnp.sum(w * m) for w, m in zip(weights, moved, strict=True))
    np.testing.assert_allclose(forward, jnp.sum(gradient * change), rtol=1e-5)


def test_a_single_class_is_a_sigmoid():
    logits = jnp.log(jnp.array([[[3.0], [1.0], [9.0]]]))  # 0.75, 0.5, 0.9
    true, false = soft_counts(logits, SIGN[..., :1], 2)
    np.testing.assert_allclose([true, false], [[[0.75]], [[0.5]]], rtol=1e-6)
