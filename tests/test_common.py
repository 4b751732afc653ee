"""L1 and L2, with smooth L1 where it must behave alike: values, kinks, large numbers, shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import l1_loss, l2_loss, mean_loss, smooth_l1_loss, sum_loss
from vis4d_jax_loss._numerics import enable_x64


def gradient(loss, pred, **options):
    pred = jnp.asarray(pred)
    return jax.jit(jax.grad(lambda x: jnp.sum(loss(x, jnp.zeros_like(x), **options))))(pred)


def test_values_by_hand():
    pred, zero = jnp.array([0.0, 0.25, 1.0, 1.5, -1.0, -3.0]), jnp.zeros(6)
    np.testing.assert_array_equal(l1_loss(pred, zero), [0, 0.25, 1, 1.5, 1, 3])
    np.testing.assert_array_equal(l2_loss(pred, zero), [0, 0.0625, 1, 2.25, 1, 9])


def test_gradients_at_the_kinks():
    np.testing.assert_array_equal(gradient(l1_loss, [-1.0, -0.0, 0.0, 2.0]), [-1, 0, 0, 1])
    assert not np.signbit(gradient(l1_loss, [0.0]))  # it would be printed as -0


def test_large_errors_do_not_overflow():
    assert smooth_l1_loss(1e30, 0.0) == np.float32(1e30)
    errors = [1e30, -3e38, jnp.inf, -jnp.inf]
    np.testing.assert_array_equal(gradient(smooth_l1_loss, errors), [1, -1, 1, -1])
    np.testing.assert_array_equal(gradient(smooth_l1_loss, errors, beta=1e-9), [1, -1, 1, -1])
    assert l2_loss(jnp.float16(300), jnp.float16(0)) == 90_000  # infinity in float16


@pytest.mark.parametrize("loss", [l1_loss, l2_loss, smooth_l1_loss])
def test_unsigned_integers_do_not_wrap(loss):
    assert loss(jnp.uint8(0), jnp.uint8(1), mean_loss) in (0.5, 1)  # 255 in uint8


@pytest.mark.parametrize("loss", [l1_loss, l2_loss, smooth_l1_loss])
@pytest.mark.parametrize("shape", [(8, 1), (1, 4), (4,), (8,), ()])
def test_regression_losses_never_broadcast(loss, shape):
    message = (
        f"{loss.__name__}: pred and target must have the same shape, "
        f"got pred (8, 4) and target {shape}."
    )
    if shape != (8,):  # which NumPy does not broadcast
        message += (
            " Losses never broadcast: (N,) against (N, 1) would silently average N * N pairs."
        )
    with raises(ValueError, message):
        loss(jnp.zeros((8, 4)), jnp.zeros(shape))


@pytest.mark.parametrize("loss", [l1_loss, l2_loss, smooth_l1_loss])
def test_predictions_must_be_numeric(loss):
    message = (
        f"{loss.__name__}: pred must hold floating-point or integer numbers, got pred bool. "
        "Cast it first."
    )
    with raises(TypeError, message):
        loss(jnp.zeros(3, bool), jnp.zeros(3))


def test_a_mask_of_a_square_array_covers_rows():
    where = jnp.array([True, False, False, False])
    losses = l1_loss(jnp.ones((4, 4)), jnp.zeros((4, 4)), where=where)
    np.testing.assert_array_equal(losses, np.eye(4)[0][:, None] * np.ones(4))


LARGE_INTEGERS = [
    ([100_000_001, -100_000_001], [100_000_000, -100_000_000], jnp.int32),
    ([2**31 - 1, -(2**31)], [2**31 - 2, -(2**31) + 1], jnp.int32),
    ([2**32 - 1, 0], [2**32 - 2, 1], jnp.uint32),
]


@pytest.mark.parametrize("loss", [l1_loss, l2_loss, smooth_l1_loss])
@pytest.mark.parametrize(("pred", "target", "dtype"), LARGE_INTEGERS)
def test_large_integers_are_subtracted_before_rounding(loss, pred, target, dtype):
    pred, target = np.array(pred, dtype), np.array(target, dtype)
    half = 0.5 if loss is smooth_l1_loss else 1
    np.testing.assert_array_equal(loss(pred, target), half)  # float32 holds no such difference
    np.testing.assert_array_equal(jax.jit(loss)(pred, target), half)


def test_the_difference_of_the_extreme_integers_does_not_wrap():
    low, high = jnp.array([-(2**31)]), jnp.array([2**31 - 1])
    assert l1_loss(low, high) == 2.0**32  # -1 in int32, 2**32 - 1 rounded to float32
    assert l1_loss(jnp.uint32(2**32 - 1), jnp.int32(-(2**31))) == 2.0**32 + 2.0**31


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_wide_integers_of_numpy_do_not_wrap(kind):
    pred, target = np.array([2**40, 7], kind), np.array([0, 6], kind)
    np.testing.assert_array_equal(l1_loss(pred, target), [2**40, 1])
    assert l1_loss(kind(2**40), kind(0)) == 2.0**40
    with enable_x64(True):  # which subtracts in float64
        assert l1_loss(np.array(2**40 + 1, kind), np.array(2**40, kind)) == 1


@pytest.mark.parametrize("loss", [l1_loss, l2_loss, smooth_l1_loss])
def test_an_exact_match_has_zero_gradient_for_both_arguments(loss):
    x = jnp.array([0.0, -0.0, 1e30, -1e-30])
    for argument in (0, 1):
        step = jax.jit(jax.grad(lambda p, t: loss(p, t, sum_loss), argument))
        np.testing.assert_array_equal(step(x, x), 0)
