"""Multi-positive cross-entropy: equal to its double sum, and accurate where that fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import (
    MultiPosCrossEntropyLoss,
    mean_loss,
    multi_pos_cross_entropy,
    sum_loss,
)


def double_sum(pred, target):
    """The loss of each row, written out."""
    rows = []
    for s, t in zip(np.asarray(pred, float), np.asarray(target), strict=True):
        rows.append(np.log1p(sum(np.exp(n - p) for n in s[t == 0] for p in s[t == 1])))
    return np.array(rows)


def differentiate(pred, target, reducer=sum_loss, where=None):
    step = jax.jit(
        jax.value_and_grad(lambda p: multi_pos_cross_entropy(p, target, reducer, where=where))
    )
    return step(jnp.asarray(pred))


def test_the_loss_equals_the_double_sum():
    rng = np.random.default_rng(0)
    pred, target = rng.normal(size=(20, 9)) * 3, rng.integers(-1, 2, (20, 9))
    np.testing.assert_allclose(
        multi_pos_cross_entropy(pred, target), double_sum(pred, target), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("row", [[0, 0, 0], [1, 1, 1], [-1, 0, -1], [-1, -1, 1], [-1, -1, -1]])
def test_a_row_without_positives_or_negatives_has_zero_loss_and_gradient(row):
    value, gradient = differentiate([[1.0, -2.0, 3.0]], jnp.array([row]))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_a_row_of_ignored_pairs_is_not_counted():
    pred = jnp.array([[1.0, 0.0], [5.0, jnp.nan], [0.0, 0.0]])
    target = jnp.array([[1, 0], [-1, -1], [0, 0]])
    expected = (np.log1p(np.exp(-1)) + 0) / 2
    np.testing.assert_allclose(
        multi_pos_cross_entropy(pred, target, mean_loss), expected, rtol=1e-6
    )
    np.testing.assert_allclose(multi_pos_cross_entropy(pred, target, jnp.mean), expected, rtol=1e-6)
    where = jnp.array([True, True, False])
    masked = multi_pos_cross_entropy(pred, target, mean_loss, where=where)
    np.testing.assert_allclose(masked, np.log1p(np.exp(-1)), rtol=1e-6)


def test_masking_pairs_equals_removing_them():
    rng = np.random.default_rng(1)
    pred, target = rng.normal(size=(4, 6)), rng.integers(0, 2, (4, 6))
    rows, columns = np.array([True, True, False, True]), np.array([True, False, True] * 2)
    where = rows[:, None] & columns[None, :]
    padded = np.where(where, pred, np.resize([np.nan, np.inf, -np.inf, 1e30], pred.shape))
    value, gradient = differentiate(padded, np.where(where, target, 9), mean_loss, where)
    kept = np.ix_(rows, columns)
    expected, expected_gradient = differentiate(pred[kept], target[kept], mean_loss)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[kept], expected_gradient, rtol=1e-5)
    np.testing.assert_array_equal(gradient[~where], 0)


@pytest.mark.parametrize("size", [1000.0, 1e30])
def test_large_similarities_do_not_overflow(size):
    value, gradient = differentiate([[size, -size]], jnp.array([[0, 1]]))
    np.testing.assert_allclose(value, 2 * size, rtol=1e-6)
    np.testing.assert_array_equal(gradient, [[1, -1]])
    value, gradient = differentiate([[size, -size]], jnp.array([[1, 0]]))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_large_similarities_cancel_exactly():
    # One positive and two negatives, all alike: the loss is log(1 + 2).
    value, gradient = differentiate([[1e10, 1e10, 1e10]], jnp.array([[1, 0, 0]]))
    np.testing.assert_allclose(value, np.log(3), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-2 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


def test_small_losses_keep_their_precision():
    value, _ = differentiate([[20.0, 0.0]], jnp.array([[1, 0]]))
    np.testing.assert_allclose(value, np.exp(-20), rtol=1e-5)  # log(1 + x) in float32 gives 0


# One row with both kinds, and rows that have only one kind, none, or an infinite similarity.
ONE_SIDED = jnp.array(
    [[1, 0, 0], [0, 0, 0], [1, 1, 1], [-1, -1, -1], [-1, 1, -1], [1, 0, 0], [1, 1, 0]]
)
SIMILAR = jnp.array(
    [[0.1, 0.2, 0.3]] * 5 + [[0.5, -jnp.inf, -jnp.inf], [jnp.inf, jnp.inf, 0.5]], jnp.float32
)


def test_rows_of_one_kind_have_zero_derivatives_of_every_order():
    def loss(pred):
        return multi_pos_cross_entropy(pred, ONE_SIDED, sum_loss)

    def penalty(pred):
        return jnp.sum(jax.grad(loss)(pred) ** 2)

    value, gradient = jax.jit(jax.value_and_grad(loss))(SIMILAR)
    a, b = np.exp(0.1), np.exp(0.2) + np.exp(0.3)
    np.testing.assert_allclose(value, np.log1p(b / a), rtol=1e-6)
    probability = b / (a + b)  # of a negative, among all pairs of the row
    np.testing.assert_allclose(gradient[0, 0], -probability, rtol=1e-6)
    np.testing.assert_array_equal(gradient[1:], 0)

    def product(pred):
        """Of the Hessian with a vector of ones: the same shift of all similarities."""
        return jax.jvp(jax.grad(loss), (pred,), (jnp.ones_like(pred),))[1]

    np.testing.assert_allclose(jax.jit(product)(SIMILAR), 0, atol=1e-7)
    for derivative in (jax.grad(penalty), jax.grad(lambda x: jnp.sum(product(x) ** 2))):
        result = jax.jit(derivative)(SIMILAR)
        assert np.all(np.isfinite(result))
        np.testing.assert_array_equal(result[1:], 0)


def test_second_derivatives_by_hand():
    # With one positive and one negative, the loss is softplus(n - p).
    def loss(pred):
        return multi_pos_cross_entropy(pred[None], jnp.array([[1, 0]]), sum_loss)

    hessian = jax.jit(jax.hessian(loss))(jnp.array([0.0, 0.0]))
    np.testing.assert_allclose(hessian, [[0.25, -0.25], [-0.25, 0.25]], rtol=1e-6)


def test_similarities_of_minus_infinity_switch_pairs_off():
    pred, target = jnp.array([[0.3, -0.2, -jnp.inf, 0.4]]), jnp.array([[1, 0, 0, 1]])
    value, gradient = differentiate(pred, target)
    kept, kept_gradient = differentiate(pred[:, [0, 1, 3]], target[:, [0, 1, 3]])
    np.testing.assert_allclose(value, kept, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, [0, 1, 3]], kept_gradient, rtol=1e-6)
    assert gradient[0, 2] == 0


@pytest.mark.parametrize("row", [[-np.inf, 0.0], [0.0, np.inf]])
def test_an_infinitely_wrong_pair_has_a_huge_loss_and_a_finite_gradient(row):
    """The positive is at -inf, or the negative at +inf."""
    value, gradient = differentiate(jnp.array([row]), jnp.array([[1, 0]]))
    assert value > 1e38
    np.testing.assert_array_equal(gradient, [[-1, 1]])


def test_debug_nans_and_debug_infs_do_not_stop_in_rows_of_one_kind():
    step = jax.value_and_grad(lambda p: multi_pos_cross_entropy(p, ONE_SIDED, mean_loss))
    with jax.debug_nans(True):
        value, _ = step(SIMILAR)
        assert np.isfinite(value)
    with jax.debug_infs(True):
        value, _ = step(jnp.ones_like(SIMILAR))
        assert np.isfinite(value)


@pytest.mark.parametrize("bad", [2.0, 0.5, -2.0, np.nan])
def test_an_invalid_target_gives_nan(bad):
    target = jnp.array([[1.0, 0.0, bad], [1.0, 0.0, -1.0]])
    losses = multi_pos_cross_entropy(jnp.ones((2, 3)), target)
    np.testing.assert_array_equal(np.isnan(losses), [True, False])


@pytest.mark.parametrize("dtype", [bool, jnp.uint8, jnp.int32, jnp.bfloat16])
def test_targets_of_any_dtype(dtype):
    pred, target = jnp.array([[1.0, 0.0, 0.5]]), jnp.array([[1, 0, 0]])
    np.testing.assert_array_equal(
        multi_pos_cross_entropy(pred, target.astype(dtype)), multi_pos_cross_entropy(pred, target)
    )


def test_unsigned_targets_cannot_hold_minus_1():
    target = jnp.array([[1, 0, 255]], jnp.uint8)  # 255 is -1, wrapped
    assert np.isnan(multi_pos_cross_entropy(jnp.ones((1, 3)), target)[0])


def test_arrays_without_columns_or_rows_have_zero_loss():
    np.testing.assert_array_equal(
        multi_pos_cross_entropy(jnp.ones((2, 0)), jnp.ones((2, 0))), [0, 0]
    )
    assert multi_pos_cross_entropy(jnp.ones((0, 3)), jnp.ones((0, 3)), mean_loss) == 0


def test_memory_grows_with_the_number_of_pairs():
    def temporary(rows, columns):
        pred = jax.ShapeDtypeStruct((rows, columns), jnp.float32)
        target = jax.ShapeDtypeStruct((rows, columns), jnp.int32)
        step = jax.value_and_grad(lambda p, t: multi_pos_cross_entropy(p, t, jnp.sum))
        stats = jax.jit(step).lower(pred, target).compile().memory_analysis()
        return stats.temp_size_in_bytes / (rows * columns)

    assert temporary(128, 512) <= 1.2 * temporary(128, 128)
    assert temporary(128, 512) < 64  # bytes per pair: a few arrays of float32, never N x M x M


def test_the_module_is_a_weighted_sum_of_rows_divided_by_a_factor():
    pred, target = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1, 0], [1, 0]])
    losses = multi_pos_cross_entropy(pred, target)
    weight = jnp.array([2.0, -1.0])
    loss = MultiPosCrossEntropyLoss()(pred, target, weight, 4.0)
    np.testing.assert_allclose(loss, (2 * losses[0] - losses[1]) / 4, rtol=1e-6)
    assert MultiPosCrossEntropyLoss()(pred, target, weight * 0, 0.0) == 0


PAIRS = jnp.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: multi_pos_cross_entropy(jnp.ones(3), jnp.ones(3)),
            "multi_pos_cross_entropy: pred must be [N, M], got pred (3,). Use jax.vmap for more axes.",
        ),
        (
            lambda: multi_pos_cross_entropy(PAIRS, jnp.ones((1, 3))),
            "multi_pos_cross_entropy: pred and target must have the same shape, got pred (2, 3) and target (1, 3). Losses never broadcast: (N,) against (N, 1) would silently average N * N pairs.",
        ),
        (
            lambda: MultiPosCrossEntropyLoss()(PAIRS, PAIRS, jnp.ones((2, 1)), 1.0),
            "SumWeightedLoss: weight must broadcast to the shape of the loss, got weight (2, 1) and loss (2,).",
        ),
    ],
)
def test_mistakes_are_errors(call, message):
    with raises(ValueError, message):
        call()
