"""Orthogonal-transform regularisation: the identity, where training starts, and other shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import orthogonal_transform_regularization_loss as orthogonal_loss

differentiate = jax.jit(jax.value_and_grad(orthogonal_loss))


def test_values_by_hand():
    # |4 I - I| of 3 x 3 is 3 sqrt(3), of 4 x 4 it is 6.
    loss = orthogonal_loss([2 * jnp.eye(3)[None], 2 * jnp.eye(4)[None]])
    np.testing.assert_allclose(loss, 3 * np.sqrt(3) + 6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_the_identity_has_zero_loss_and_gradient(dtype):
    identity = jnp.broadcast_to(jnp.eye(3, dtype=dtype), (2, 3, 3))
    value, (gradient,) = differentiate([identity])
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_the_other_transforms_of_a_batch_keep_their_gradient():
    value, (gradient,) = differentiate([jnp.stack([jnp.eye(3), 2 * jnp.eye(3)])])
    np.testing.assert_allclose(value, 3 * np.sqrt(3) / 2, rtol=1e-6)
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.all(np.diag(gradient[1]) > 0)


def test_a_transform_of_zeros():
    value, (gradient,) = differentiate([jnp.zeros((1, 4, 4))])
    assert value == 2
    np.testing.assert_array_equal(gradient, 0)


def test_the_rows_of_a_transform_should_be_orthonormal():
    wide = jnp.array([[[1.0, 0, 0], [0, 1, 0]]])
    assert orthogonal_loss([wide]) == 0
    assert orthogonal_loss([wide.mT]) == 1


def test_products_of_half_precision_do_not_overflow():
    value, (gradient,) = differentiate([200 * jnp.eye(2, dtype=jnp.float16)[None]])
    np.testing.assert_allclose(value, 39_999 * np.sqrt(2), rtol=1e-6)  # infinity in float16
    assert np.all(np.isfinite(np.asarray(gradient, np.float32)))


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6, 1e10, 1e12, 1e15, 1e18])
def test_large_transforms_have_finite_losses_and_gradients(size):
    """Of s times the identity of 2 x 2: the loss is (s^2 - 1) sqrt(2), its gradient sqrt(2) s."""
    value, (gradient,) = differentiate([2 * size * jnp.eye(2)[None]])
    np.testing.assert_allclose(value, (4 * size**2 - 1) * np.sqrt(2), rtol=1e-5)
    np.testing.assert_allclose(gradient, [2 * np.sqrt(2) * size * np.eye(2)], rtol=1e-5)


def test_a_transform_whose_loss_no_float32_holds_still_has_its_gradient():
    value, (gradient,) = differentiate([1e20 * jnp.eye(2)[None]])  # the loss would be 1e40
    assert 1e36 < value < np.inf
    np.testing.assert_allclose(gradient, [np.sqrt(2) * 1e20 * np.eye(2)], rtol=1e-5)


def test_a_large_transform_does_not_change_the_others_of_its_batch():
    value, (gradient,) = differentiate([jnp.stack([2 * jnp.eye(2), 1e10 * jnp.eye(2)])])
    alone, (gradient_alone,) = differentiate([2 * jnp.eye(2)[None]])
    np.testing.assert_allclose(gradient[0], gradient_alone[0] / 2, rtol=1e-6)
    np.testing.assert_allclose(value, (1e20 * np.sqrt(2) + alone) / 2, rtol=1e-6)


def test_padding_is_masked_in_every_array():
    valid = [2 * jnp.eye(3)[None], 2 * jnp.eye(4)[None]]
    padded = [jnp.concatenate([x, jnp.full_like(x, jnp.nan)]) for x in valid]
    where = jnp.array([True, False])
    value, gradients = jax.value_and_grad(lambda x: orthogonal_loss(x, where=where))(padded)
    np.testing.assert_allclose(value, orthogonal_loss(valid), rtol=1e-6)
    assert all(np.all(g[1] == 0) for g in gradients)


def test_an_empty_list_and_an_empty_batch():
    assert orthogonal_loss([]) == 0
    assert orthogonal_loss([jnp.zeros((0, 3, 3))]) == 0


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: orthogonal_loss(jnp.zeros((2, 3, 3))),
            TypeError,
            "transforms must be a list of arrays [N, r, c], got transforms ArrayImpl. Put a single array into a list.",
        ),
        (
            lambda: orthogonal_loss([jnp.eye(3)]),
            ValueError,
            "transform must be [N, r, c], got transform (3, 3). Use jax.vmap for more axes.",
        ),
        (
            lambda: orthogonal_loss([jnp.zeros((2, 3, 3))], where=jnp.ones(3, bool)),
            ValueError,
            "where must cover the leading axes of the loss, got where (3,) and loss (2,). A mask is never matched to trailing axes.",
        ),
    ],
)
def test_mistakes_are_errors(call, kind, message):
    with raises(kind, f"orthogonal_transform_regularization_loss: {message}"):
        call()
