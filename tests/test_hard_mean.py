"""The mean of the hardest losses: how many are kept, which ones, and where the gradient goes."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises
from searches import search  # noqa: F401

from vis4d_jax_loss import HardMeanLoss, L1Loss, OverAxis, l1_loss, seg_cross_entropy_loss
from vis4d_jax_loss._numerics import enable_x64

LOSS = jnp.array([4.0, 1.0, 3.0, 2.0, 5.0])
WHERE = jnp.array([True, True, True, True, False])
HARDEST = HardMeanLoss(fraction=0.0)  # min_kept is 1


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"fraction": 0.4}, [5, 4]),
        ({"fraction": 0.79}, [5, 4, 3]),
        ({"fraction": 0.1}, [5]),
        ({"fraction": 0.0}, [5]),
        ({"fraction": 0.0, "min_kept": 2}, [5, 4]),
        ({"fraction": 1.0}, [5, 4, 3, 2, 1]),
        ({"fraction": 0.1, "min_kept": 9}, [5, 4, 3, 2, 1]),
        ({"threshold": 3.0}, [5, 4]),
        ({"threshold": 2.5, "min_kept": 0}, [5, 4, 3]),
        ({"threshold": 9.0}, [5]),
        ({"threshold": 9.0, "min_kept": 3}, [5, 4, 3]),
        ({"threshold": -1e300}, [5, 4, 3, 2, 1]),
        ({"threshold": 1e300}, [5]),
    ],
)
def test_the_mean_of_the_kept_losses_by_hand(options, kept):
    assert HardMeanLoss(**options)(LOSS) == np.float32(np.mean(kept))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"fraction": 0.5}, [4, 3]),  # of four valid losses
        ({"fraction": 0.1, "min_kept": 9}, [4, 3, 2, 1]),
        ({"threshold": 3.0}, [4]),
    ],
)
def test_masked_losses_are_neither_counted_nor_kept(options, kept):
    for padding in (5.0, jnp.nan, jnp.inf):
        assert HardMeanLoss(**options)(LOSS.at[4].set(padding), where=WHERE) == np.mean(kept)


def test_the_count_is_that_of_python():
    losses = jnp.arange(100.0)
    assert HardMeanLoss(fraction=0.29)(losses) == np.mean(range(72, 100))  # 28 in doubles


def test_the_gradient_goes_to_the_kept_losses():
    step = jax.jit(jax.value_and_grad(lambda x: HardMeanLoss(0.5)(x, where=WHERE)))
    value, gradient = step(LOSS.at[4].set(jnp.nan))
    assert value == 3.5
    np.testing.assert_array_equal(gradient, [0.5, 0, 0.5, 0, 0])


def test_ties_go_to_the_lowest_index():
    gradient = jax.grad(HardMeanLoss(fraction=0.5))(jnp.array([[1.0, 2.0], [2.0, 2.0]]))
    np.testing.assert_array_equal(gradient, [[0, 0.5], [0.5, 0]])


def test_nothing_kept_has_zero_value_and_gradient():
    for reducer in (HardMeanLoss(threshold=9.0, min_kept=0), HardMeanLoss(0.1, min_kept=0)):
        value, gradient = jax.value_and_grad(reducer)(LOSS)
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("reducer", [HARDEST, HardMeanLoss(threshold=0.0, min_kept=3)])
def test_everything_masked_and_nothing_at_all_give_0(reducer):
    step = jax.value_and_grad(lambda x: reducer(x, where=WHERE & False))
    value, gradient = step(LOSS * jnp.nan)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    assert reducer(jnp.zeros((0, 3))) == 0


@pytest.mark.parametrize("options", [{"fraction": 0.1}, {"threshold": 9.0, "min_kept": 0}])
def test_a_loss_of_nan_is_never_dropped(options):
    assert np.isnan(HardMeanLoss(**options)(LOSS.at[1].set(jnp.nan)))


def test_a_scalar_loss_is_its_own_mean():
    assert HARDEST(3.0) == 3
    assert HardMeanLoss(threshold=5.0)(3.0) == 3


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.int32])
def test_other_dtypes_are_averaged_in_float32(dtype):
    ones = jnp.ones(70_000, dtype)
    for reducer in (HardMeanLoss(fraction=1.0), HardMeanLoss(threshold=0.5)):
        value = reducer(ones)
        assert value == 1
        assert value.dtype == jnp.float32


def test_float64_stays_float64():
    with enable_x64(True):
        value = HardMeanLoss(threshold=1.0)(jnp.array([1.0, 1.0 + 2.0**-40]))
        assert value.dtype == jnp.float64
        assert value == 1.0 + 2.0**-40


def test_vmap_keeps_a_share_of_each_row():
    rows = jnp.array([[1.0, 2.0, 3.0, 4.0], [8.0, 7.0, 6.0, 5.0]])
    where = jnp.array([[True] * 4, [False, True, True, False]])
    means = jax.vmap(lambda x, w: HardMeanLoss(fraction=0.5)(x, where=w))(rows, where)
    np.testing.assert_array_equal(means, [3.5, 7])


@pytest.mark.parametrize("options", [{"fraction": 0.3}, {"threshold": 2.5}])
def test_shards_are_one_array(options):
    losses = jax.random.permutation(jax.random.key(0), jnp.arange(20.0)).reshape(4, 5) / 4
    where = losses < 4.5
    reducer = HardMeanLoss(**options)
    step = jax.value_and_grad(lambda x, w, reducer: reducer(x, where=w))
    value, gradient = step(losses, where, reducer)
    over_shards = functools.partial(step, reducer=HardMeanLoss(**options, axis_name="shards"))
    values, gradients = jax.vmap(over_shards, axis_name="shards")(losses, where)
    np.testing.assert_allclose(values, value, rtol=1e-6)
    # The gradient of the sum over shards, each of which returns the mean.
    np.testing.assert_allclose(gradients, 4 * gradient, rtol=1e-6)


def test_a_module_traces_once_for_equal_reducers():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def step(loss, pred):
        traces.append(loss)
        return loss(pred, jnp.zeros(5))

    for fraction in (0.4, np.float32(0.5), 0.5, jnp.float32(0.5)):
        step(L1Loss(HardMeanLoss(fraction)), LOSS)
    assert len(traces) == 2


def test_it_is_compared_hashed_and_pickled_by_value():
    reducer = HardMeanLoss(1, min_kept=np.int64(2))
    assert reducer == HardMeanLoss(fraction=1.0, min_kept=2) != HardMeanLoss(threshold=1.0)
    assert hash(reducer) == hash(pickle.loads(pickle.dumps(reducer)))
    assert HardMeanLoss(0.5, axis_name=["a", "b"]) == HardMeanLoss(0.5, axis_name=("a", "b"))
    assert hash(HardMeanLoss(0.5, axis_name=["a", "b"]))


def test_it_is_the_hardest_pixels_of_a_segmentation():
    logits = jnp.stack([jnp.arange(8.0), jnp.zeros(8)], -1).reshape(2, 4, 2)
    labels = jnp.array([[1, 1, 1, 1], [1, 1, 255, 255]])
    value = seg_cross_entropy_loss(logits, labels, HardMeanLoss(0.34), where=labels != 255)
    np.testing.assert_allclose(value, np.log1p(np.exp([4, 5])).mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {},
            ValueError,
            "exactly one of fraction and threshold must be given, got fraction None and threshold None.",
        ),
        (
            {"fraction": 0.5, "threshold": 1.0},
            ValueError,
            "exactly one of fraction and threshold must be given, got fraction 0.5 and threshold 1.0.",
        ),
        (
            {"fraction": 25},
            ValueError,
            "fraction must be from 0 to 1, got fraction 25.0. For a number of losses use min_kept.",
        ),
        (
            {"fraction": float("nan")},
            ValueError,
            "fraction must be from 0 to 1, got fraction nan. For a number of losses use min_kept.",
        ),
        (
            {"threshold": float("nan")},
            ValueError,
            "threshold must not be NaN, got threshold nan.",
        ),
        (
            {"fraction": 0.5, "min_kept": -1},
            ValueError,
            "min_kept must be 0 or more, got min_kept -1.",
        ),
        (
            {"fraction": 0.5, "min_kept": 0.5},
            TypeError,
            "min_kept must be an integer, got min_kept 0.5.",
        ),
        (
            {"fraction": "0.5"},
            TypeError,
            "fraction must be a number, got fraction '0.5'. Pass the losses in the call: HardMeanLoss(fraction=0.25)(loss).",
        ),
        (
            {"fraction": LOSS},
            TypeError,
            "fraction must be a number, got fraction (5,). Pass the losses in the call: HardMeanLoss(fraction=0.25)(loss).",
        ),
    ],
)
def test_mistakes_are_errors(options, kind, message):
    with raises(kind, f"HardMeanLoss: {message}"):
        HardMeanLoss(**options)


def test_a_traced_option_is_an_error():
    message = (
        "HardMeanLoss: fraction must not be traced, got fraction float32[]. "
        "For a traced number of losses use top_k_mask and mean_loss."
    )
    with raises(TypeError, message):
        jax.jit(lambda f: HardMeanLoss(f)(LOSS))(jnp.float32(0.5))


def test_a_mask_of_another_shape_is_an_error():
    message = r"HardMeanLoss: where must cover the leading axes .* where \(2,\)"
    with pytest.raises(ValueError, match=message):
        HARDEST(LOSS, where=WHERE[:2])


def test_it_takes_the_mesh_axis_itself():
    message = (
        "OverAxis: reducer must have no axis_name of its own, got reducer HardMeanLoss. "
        "Pass it to the reducer: HardMeanLoss(..., axis_name='data')."
    )
    with raises(TypeError, message):
        OverAxis(HARDEST, "data")
    with raises(TypeError, message):
        l1_loss(LOSS, LOSS, OverAxis(HARDEST, "data"))
