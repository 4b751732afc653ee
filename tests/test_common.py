"""L1, L2 and smooth L1: values by hand, kinks, extreme numbers, and shapes."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import l1_loss, l2_loss, mean_loss, smooth_l1_loss


def gradient(loss, pred, **options):
    pred = jnp.asarray(pred)
    return jax.jit(jax.grad(lambda x: jnp.sum(loss(x, jnp.zeros_like(x), **options))))(pred)


def test_values_by_hand():
    pred, zero = jnp.array([0.0, 0.25, 1.0, 1.5, -1.0, -3.0]), jnp.zeros(6)
    np.testing.assert_allclose(smooth_l1_loss(pred, zero), [0, 0.25**2 / 2, 0.5, 1, 0.5, 2.5])
    np.testing.assert_allclose(
        smooth_l1_loss(pred, zero, beta=0.5), [0, 0.25**2, 0.75, 1.25, 0.75, 2.75]
    )
    np.testing.assert_array_equal(l1_loss(pred, zero), [0, 0.25, 1, 1.5, 1, 3])
    np.testing.assert_array_equal(l2_loss(pred, zero), [0, 0.0625, 1, 2.25, 1, 9])


def test_gradients_at_the_kinks():
    np.testing.assert_array_equal(gradient(l1_loss, [-1.0, -0.0, 0.0, 2.0]), [-1, 0, 0, 1])
    assert not np.signbit(gradient(l1_loss, [0.0]))  # it would be printed as -0
    np.testing.assert_array_equal(gradient(smooth_l1_loss, [-1.0, 0.0, 1.0, 0.5]), [-1, 0, 1, 0.5])
    np.testing.assert_array_equal(gradient(smooth_l1_loss, [-0.5, 0.25], beta=0.5), [-1, 0.5])


def test_smooth_l1_is_continuous_at_beta():
    for beta in (1 / 9, 0.5, 1.0, 7.0):
        below, above = (smooth_l1_loss(jnp.float32(beta * f), 0.0, beta=beta) for f in (0.9999, 1))
        np.testing.assert_allclose(below, above, rtol=1e-3)
        np.testing.assert_allclose(above, beta / 2, rtol=1e-6)


@pytest.mark.parametrize("beta", [1e-46, 1e-9, 1 / 9, 0.5, 1.0, 7.0, 1e30])
def test_smooth_l1_of_a_long_axis_equals_that_of_a_short_one(beta):
    pred = jnp.array([0.0, 1e-30, 1e-3, 1 / 9, 0.4, -0.5, 1.0, -6.9, 7.0, 1e5, -1e30, jnp.inf])
    pred = jnp.tile(pred, 2)
    short, long = pred[:, None], pred
    losses, expected = (smooth_l1_loss(x, jnp.zeros_like(x), beta=beta) for x in (long, short))
    np.testing.assert_allclose(losses, expected[:, 0], rtol=3e-7)
    assert not np.signbit(losses).any()  # 0 would be printed as -0
    slopes = gradient(smooth_l1_loss, short, beta=beta)
    np.testing.assert_array_equal(gradient(smooth_l1_loss, long, beta=beta), slopes[:, 0])


@pytest.mark.parametrize("shape", ["n", "n, 4", "n, m"])
def test_export_with_symbolic_shapes(shape):
    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), jnp.float32)
    where = jax.ShapeDtypeStruct(x.shape[:1], bool)

    def loss(pred, target, where):
        return smooth_l1_loss(pred, target, mean_loss, where=where)

    exported = jax.export.export(jax.jit(jax.value_and_grad(loss)))(x, x, where)
    size = (2, 4)[: len(x.shape)]
    value, _ = exported.call(jnp.ones(size), jnp.zeros(size), jnp.array([True, False]))
    assert value == 0.5


@pytest.mark.parametrize("size", [3, 30])
def test_smooth_l1_with_an_infinite_beta_is_0(size):
    assert not smooth_l1_loss(jnp.ones(size), jnp.zeros(size), beta=jnp.inf).any()


@pytest.mark.parametrize("beta", [1e-9, 1e-30, 1e-46])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_smooth_l1_with_a_tiny_beta_is_l1(beta, dtype):
    pred = jnp.array([-2.0, 0.0, 3.0], dtype)
    np.testing.assert_allclose(smooth_l1_loss(pred, jnp.zeros(3, dtype), beta=beta), [2, 0, 3])
    np.testing.assert_array_equal(gradient(smooth_l1_loss, pred, beta=beta), [-1, 0, 1])


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
        f"got pred (8, 4) and target {shape}. "
        "Losses never broadcast: (N,) against (N, 1) would silently average N * N pairs."
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


def test_beta_must_be_positive():
    with raises(
        ValueError,
        "smooth_l1_loss: beta must be positive, got beta 0. For beta=0 use l1_loss.",
    ):
        smooth_l1_loss(1.0, 0.0, beta=0)


def test_a_mask_of_a_square_array_covers_rows():
    where = jnp.array([True, False, False, False])
    losses = l1_loss(jnp.ones((4, 4)), jnp.zeros((4, 4)), where=where)
    np.testing.assert_array_equal(losses, np.eye(4)[0][:, None] * np.ones(4))
