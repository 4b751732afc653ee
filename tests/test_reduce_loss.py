"""How any reducer is applied under a mask: ours, those of NumPy's kind, and a user's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises

from vis4d_jax_loss import (
    HardMeanLoss,
    MultiPosCrossEntropyLoss,
    OverAxis,
    SumWeightedLoss,
    WeightedMeanLoss,
    embedding_distance_loss,
    identity_loss,
    l1_loss,
    mean_loss,
    multi_pos_cross_entropy,
    orthogonal_transform_regularization_loss,
    rotation_loss,
    seg_cross_entropy_loss,
    sum_loss,
)
from vis4d_jax_loss._reduce_loss import (
    check_no_axis,
    parameters_of,
    reduce_loss,
    reduce_scalar,
)

LOSS = jnp.array([1.0, 2.0, 6.0])
WHERE = jnp.array([True, True, False])
NOTHING = jnp.zeros(3, bool)


def worst(loss):
    return jnp.max(loss)


def test_a_users_reducer_without_where_works_until_something_is_masked():
    pred = jnp.array([[1.0, 2.0]])
    assert l1_loss(pred, jnp.zeros((1, 2)), worst) == 2
    message = (
        "reducer: a reducer must accept where= when elements are masked, got reducer worst. "
        "Use mean_loss, sum_loss or jnp.mean, or add a keyword where=None to yours."
    )
    with raises(TypeError, message):
        l1_loss(pred, jnp.zeros((1, 2)), worst, where=jnp.array([True]))


def test_a_mask_that_follows_from_the_data_is_optional():
    # Only the data says which rows have no pair. A reducer without where counts their 0.
    target = jnp.array([[-1, -1]])
    assert multi_pos_cross_entropy(jnp.array([[1.0, 2.0]]), target, worst) == 0
    assert reduce_loss(worst, LOSS, WHERE, optional=True) == 6
    assert reduce_loss(mean_loss, LOSS, WHERE, optional=True) == 1.5


def test_a_users_reducer_gets_the_whole_mask_and_no_padding():
    seen = {}

    def reducer(loss, *, where):
        seen.update(loss=loss, where=where)
        return jnp.sum(loss)

    assert reduce_loss(reducer, jnp.array([[1.0, 2.0], [jnp.nan, 3.0]]), WHERE[1:]) == 3
    np.testing.assert_array_equal(seen["where"], [[True, True], [False, False]])
    np.testing.assert_array_equal(seen["loss"], [[1, 2], [0, 0]])


def any_keyword(loss, **options):
    return jnp.mean(loss, **options)


NUMPY_REDUCERS = {
    "mean": jnp.mean,
    "sum": jnp.sum,
    "max": jnp.max,
    "min": jnp.min,
    "amax": jnp.amax,
    "std": jnp.std,
    "mean of an axis": functools.partial(jnp.mean, axis=0),
    "max of an axis": functools.partial(jnp.max, axis=0),
    "max with an initial value": functools.partial(jnp.max, initial=-1.0),
    "any keyword": any_keyword,
}


@pytest.mark.parametrize("name", NUMPY_REDUCERS)
def test_numpy_reducers_return_0_if_everything_is_masked(name):
    def loss(pred):
        return l1_loss(pred, LOSS, NUMPY_REDUCERS[name], where=NOTHING)

    for step in (jax.value_and_grad(loss), jax.jit(jax.value_and_grad(loss))):
        value, gradient = step(jnp.full(3, jnp.nan))
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", [name for name in NUMPY_REDUCERS if name != "std"])
def test_numpy_reducers_compute_no_nan_if_everything_is_masked(name):
    with jax.debug_nans(True):
        assert l1_loss(LOSS, LOSS + 1, NUMPY_REDUCERS[name], where=NOTHING) == 0


@pytest.mark.parametrize("name", NUMPY_REDUCERS)
def test_numpy_reducers_return_0_for_an_empty_array(name):
    assert l1_loss(jnp.zeros(0), jnp.zeros(0), NUMPY_REDUCERS[name]) == 0


@pytest.mark.parametrize(
    ("reducer", "expected"),
    [
        (jnp.mean, (1 + 2) / 2),
        (jnp.sum, 1 + 2),
        (jnp.max, 2),
        (jnp.min, 1),
        (jnp.amax, 2),
        (functools.partial(jnp.max, initial=5.0), 5),
        (any_keyword, (1 + 2) / 2),
    ],
)
def test_numpy_reducers_leave_padding_out(reducer, expected):
    assert reduce_loss(reducer, LOSS.at[2].set(jnp.nan), WHERE) == expected


def test_the_largest_of_negative_losses_is_not_the_0_of_padding():
    assert reduce_loss(jnp.max, -LOSS, WHERE) == -1


# Rows: two valid elements, one, none.
ROWS = jnp.array([[1.0, 3.0], [5.0, jnp.nan], [jnp.inf, jnp.nan]])
ROW_MASK = jnp.array([[True, True], [True, False], [False, False]])


@pytest.mark.parametrize(
    ("reducer", "expected"),
    [
        (functools.partial(jnp.mean, axis=1), [2, 5, 0]),
        (functools.partial(jnp.mean, axis=-1), [2, 5, 0]),
        (functools.partial(jnp.mean, axis=(1,), keepdims=True), [[2], [5], [0]]),
        (functools.partial(jnp.sum, axis=1), [4, 5, 0]),
        (functools.partial(jnp.max, axis=1), [3, 5, 0]),
        (functools.partial(jnp.min, axis=1), [1, 5, 0]),
        (functools.partial(jnp.max, axis=0), [5, 3]),
        (functools.partial(mean_loss, axis=1), [2, 5, 0]),
        (functools.partial(sum_loss, axis=1), [4, 5, 0]),
    ],
)
def test_a_row_without_a_valid_element_is_0(reducer, expected):
    def rows(pred):
        return l1_loss(pred, jnp.zeros((3, 2)), reducer, where=ROW_MASK)

    np.testing.assert_array_equal(jax.jit(rows)(ROWS), expected)
    gradient = jax.jit(jax.grad(lambda pred: jnp.sum(rows(pred))))(ROWS)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(gradient[~ROW_MASK], 0)


def test_a_mean_per_image_is_0_for_a_padded_image():
    per_image = functools.partial(jnp.mean, axis=(1, 2))
    logits, labels = jnp.zeros((2, 2, 2, 3)), jnp.zeros((2, 2, 2), int)
    losses = seg_cross_entropy_loss(logits, labels, per_image, where=jnp.array([True, False]))
    np.testing.assert_allclose(losses, [np.log(3), 0], rtol=1e-6)


def test_the_gradient_of_the_largest_loss_goes_to_that_loss():
    def largest(pred):
        return l1_loss(pred, jnp.zeros(3), jnp.max, where=WHERE)

    value, gradient = jax.value_and_grad(largest)(jnp.array([1.0, -3.0, 9.0]))
    assert value == 3
    np.testing.assert_array_equal(gradient, [0, -1, 0])


def test_a_reducer_of_numpys_kind_need_not_be_hashable():
    class Mean:
        __hash__ = None

        def __call__(self, loss, *, axis=None, where=None):
            return jnp.mean(loss, axis, where=where)

    assert reduce_loss(Mean(), LOSS, WHERE) == 1.5
    assert reduce_loss(Mean(), LOSS, NOTHING) == 0


def test_parameters_of_a_callable():
    assert list(parameters_of(worst)) == ["loss"]
    assert list(parameters_of(functools.partial(l1_loss, reducer=jnp.mean)))[:2] == [
        "pred",
        "target",
    ]
    assert parameters_of(dict) is None


def test_a_scalar_loss_is_given_to_the_reducer():
    assert reduce_scalar("f", mean_loss, jnp.asarray(3.0)) == 3
    assert reduce_scalar("f", lambda loss: 2 * loss, jnp.asarray(3.0)) == 6


WITH_AN_AXIS = {
    "OverAxis": OverAxis(mean_loss, "data"),
    "mean_loss": functools.partial(mean_loss, axis_name="data"),
    "SumWeightedLoss": SumWeightedLoss(1.0, 1.0, axis_name="data"),
    "WeightedMeanLoss": WeightedMeanLoss(1.0, axis_name="data"),
    "HardMeanLoss": HardMeanLoss(fraction=0.5, axis_name="data"),
}


def no_axis_message(function, reducer):
    return (
        f"{function}: the reducer must not have a mesh axis, because this loss reduces by itself, "
        f"got reducer {reducer}. "
        "Pass axis_name='data' to the loss; a mean over shards would be a mean of means."
    )


@pytest.mark.parametrize("name", [name for name in WITH_AN_AXIS if name != "mean_loss"])
def test_the_reducer_of_a_scalar_loss_has_no_mesh_axis(name):
    for check in (check_no_axis, functools.partial(reduce_scalar, loss=jnp.zeros(()))):
        with raises(TypeError, no_axis_message("f", name)):
            check("f", WITH_AN_AXIS[name])
    check_no_axis("f", SumWeightedLoss(1.0, 1.0))
    check_no_axis("f", HardMeanLoss(fraction=0.5))
    check_no_axis("f", functools.partial(mean_loss, axis=0))


PAIRS = jnp.ones((2, 3))
REDUCE_BY_THEMSELVES = {
    "rotation_loss": lambda reducer: rotation_loss(PAIRS, PAIRS[:, :1], PAIRS, 1, reducer),
    "embedding_distance_loss": lambda reducer: embedding_distance_loss(
        PAIRS, PAIRS, reducer=reducer
    ),
    "orthogonal_transform_regularization_loss": lambda reducer: (
        orthogonal_transform_regularization_loss([PAIRS[None]], reducer)
    ),
    "MultiPosCrossEntropyLoss": lambda reducer: MultiPosCrossEntropyLoss()(
        PAIRS, PAIRS, jnp.ones(2), 1.0, reducer=reducer
    ),
}


@pytest.mark.parametrize("reducer", WITH_AN_AXIS)
@pytest.mark.parametrize("loss", REDUCE_BY_THEMSELVES)
def test_losses_that_reduce_by_themselves_take_the_mesh_axis_themselves(loss, reducer):
    with pytest.raises(TypeError, match=f"{loss}: the reducer must not have a mesh axis"):
        REDUCE_BY_THEMSELVES[loss](WITH_AN_AXIS[reducer])


def test_identity_loss_keeps_zeros_at_padding():
    np.testing.assert_array_equal(reduce_loss(identity_loss, LOSS, WHERE), [1, 2, 0])
