"""Binary cross-entropy: targets of every kind, the weight of what is present, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_text import raises

from vis4d_jax_loss import BinaryCrossEntropyLoss, binary_cross_entropy, mean_loss, sum_loss
from vis4d_jax_loss._numerics import enable_x64

LOGITS = np.log(np.array([[1.0, 3.0], [1 / 3, 1.0]], np.float32))  # probabilities 1/2, 3/4, 1/4
TARGET = np.array([[1, 1], [0, 0]])
LOSSES = np.log(np.array([[2, 4 / 3], [4 / 3, 2]]))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float16, jnp.bfloat16, np.float32])
def test_targets_of_every_dtype_by_hand(dtype):
    loss = binary_cross_entropy(LOGITS, TARGET.astype(dtype))
    np.testing.assert_allclose(loss, LOSSES, rtol=1e-6)
    assert loss.dtype == jnp.float32


def test_soft_targets_give_the_same_losses_as_optax():
    logits, target = jnp.array([-2.0, 0.5, 3.0]), jnp.array([0.9, 0.5, 0.1])
    expected = optax.sigmoid_binary_cross_entropy(logits, target)
    np.testing.assert_allclose(binary_cross_entropy(logits, target), expected, rtol=1e-6)


def test_gradients_of_logits_and_targets_by_hand():
    both = jax.grad(lambda x, t: binary_cross_entropy(x, t, sum_loss), argnums=(0, 1))
    of_logits, of_target = both(jnp.asarray(LOGITS), jnp.asarray(TARGET, jnp.float32))
    np.testing.assert_allclose(of_logits, [[-0.5, -0.25], [0.25, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(of_target, -LOGITS)


def test_an_element_that_is_switched_off_has_loss_and_gradient_0():
    logits = jnp.array([-jnp.inf, 0.0])
    step = jax.value_and_grad(lambda x: binary_cross_entropy(x, jnp.zeros(2), sum_loss))
    value, gradient = step(logits)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_array_equal(gradient, [0, 0.5])


@pytest.mark.parametrize("weight", [3.0, np.float32(3), jnp.float32(3), [3.0, 3.0], (3, 3)])
def test_the_weight_multiplies_the_losses_of_what_is_present(weight):
    loss = binary_cross_entropy(LOGITS, TARGET, pos_weight=weight)
    np.testing.assert_allclose(loss, LOSSES * [[3, 3], [1, 1]], rtol=1e-6)


def test_a_soft_target_is_weighted_in_part():
    # -3 * 0.25 log(3/4) - 0.75 log(1/4)
    loss = binary_cross_entropy(np.log(np.float32(3)), 0.25, pos_weight=3)
    np.testing.assert_allclose(loss, 0.75 * np.log(4 / 3) + 0.75 * np.log(4), rtol=1e-6)


def test_one_weight_per_class_lies_on_the_last_axis():
    loss = binary_cross_entropy(LOGITS, np.ones((2, 2)), pos_weight=np.array([2.0, 5.0]))
    np.testing.assert_allclose(loss, np.log([[2, 4 / 3], [4, 2]]) * [2, 5], rtol=1e-6)


@pytest.mark.parametrize("large", [1e4, np.inf])
@pytest.mark.parametrize("weight", [0.0, 0.5, 4.0])
def test_large_logits_under_a_weight(large, weight):
    logits = jnp.array([large, -large, 1.0, -1.0])
    target = jnp.array([1.0, 0.0, 1.0, 1.0])

    def loss(logits, target, weight):
        return binary_cross_entropy(logits, target, sum_loss, pos_weight=weight)

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    value, (of_logits, of_target, of_weight) = step(logits, target, weight)
    softplus = np.log1p(np.exp([-1, 1]))
    np.testing.assert_allclose(value, weight * softplus.sum(), rtol=1e-6)
    np.testing.assert_allclose(of_weight, softplus.sum(), rtol=1e-6)
    slopes = weight * (1 / (1 + np.exp([-1, 1])) - 1)
    np.testing.assert_allclose(of_logits, [0, 0, *slopes], rtol=1e-6, atol=1e-7)
    assert np.isfinite(of_target).all()


def test_a_schedule_of_the_weight_causes_one_trace():
    traces = []

    @jax.jit
    def step(logits, weight):
        traces.append(weight)
        return binary_cross_entropy(logits, jnp.ones(1), mean_loss, pos_weight=weight)

    for weight in (1.0, 2.0, 3.0):
        np.testing.assert_allclose(step(jnp.zeros(1), weight), weight * np.log(2), rtol=1e-6)
    assert len(traces) == 1


def test_a_weight_of_numpy_and_targets_of_integers_keep_float32():
    with enable_x64(True):
        for target in (np.ones(2, np.int64), np.ones(2, bool)):
            for where in (None, np.array([True, False])):
                for weight in (np.float64(2), np.full(2, 2.0)):
                    loss = binary_cross_entropy(
                        jnp.zeros(2, jnp.float32), target, pos_weight=weight, where=where
                    )
                    assert loss.dtype == jnp.float32


def test_integer_and_boolean_targets_pass_strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        for target in (TARGET, TARGET == 1):
            loss = binary_cross_entropy(LOGITS, target, mean_loss, where=np.array([True, False]))
            np.testing.assert_allclose(loss, LOSSES[0].mean(), rtol=1e-6)


def test_the_module_equals_the_function():
    loss = BinaryCrossEntropyLoss(mean_loss, pos_weight=[2.0, 5.0])
    assert loss.pos_weight == (2.0, 5.0)
    expected = binary_cross_entropy(LOGITS, TARGET, mean_loss, pos_weight=(2.0, 5.0))
    assert loss(LOGITS, TARGET) == expected


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: binary_cross_entropy(np.zeros((8, 1)), np.zeros(8)),
            ValueError,
            "binary_cross_entropy: output and target must have the same shape, got output (8, 1) and target (8,). Losses never broadcast: (N,) against (N, 1) would silently average N * N pairs.",
        ),
        (
            lambda: binary_cross_entropy(np.zeros(2, bool), np.zeros(2)),
            TypeError,
            "binary_cross_entropy: output must hold floating-point or integer numbers, got output bool. Cast it first.",
        ),
        (
            lambda: binary_cross_entropy(np.zeros((8, 4)), np.zeros((8, 4)), pos_weight=[1, 2, 3]),
            ValueError,
            "binary_cross_entropy: pos_weight must be a number, or hold one weight per class, got pos_weight (3,) and output (8, 4). The classes are on the last axis of output.",
        ),
        (
            lambda: binary_cross_entropy(0.0, 0.0, pos_weight=[1.0]),
            ValueError,
            "binary_cross_entropy: pos_weight must be a number, or hold one weight per class, got pos_weight (1,) and output (). The classes are on the last axis of output.",
        ),
        (
            lambda: binary_cross_entropy(0.0, 0.0, pos_weight=-1),
            ValueError,
            "binary_cross_entropy: pos_weight must not be negative, got pos_weight -1.",
        ),
        (
            lambda: BinaryCrossEntropyLoss(pos_weight=float("nan")),
            ValueError,
            "BinaryCrossEntropyLoss: pos_weight must not be negative, got pos_weight nan.",
        ),
    ],
)
def test_mistakes_are_errors(call, kind, message):
    with raises(kind, message):
        call()
