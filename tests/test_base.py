"""One class for NNX, Linen and plain functions, and losses that a user writes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises
from flax import nnx
from users import HingeLoss, LinenModel, NNXModel, X

from vis4d_jax_loss import (
    CrossEntropyLoss,
    IoULoss,
    L1Loss,
    MultiLevelSegLoss,
    SumWeightedLoss,
    mean_loss,
    sum_loss,
)

PRED, TARGET = jnp.array([0.25, 2.0, jnp.nan]), jnp.ones(3)  # losses 0.75, 0 and NaN
VALID = jnp.array([True, True, False])


def test_a_users_loss_is_immutable_and_compared_by_value():
    loss = HingeLoss(jnp.sum, margin=0.5)
    assert loss == HingeLoss(jnp.sum, margin=0.5) != HingeLoss(jnp.sum)
    assert hash(loss) == hash(HingeLoss(jnp.sum, margin=0.5))
    assert jax.jit(lambda loss, x: loss(x, jnp.ones(2)))(loss, jnp.zeros(2)) == 1.0
    with pytest.raises(AttributeError, match="cannot assign to field 'margin'"):
        loss.margin = 0.1


@pytest.mark.parametrize("reducer", [mean_loss, jnp.mean], ids=["mean_loss", "jnp.mean"])
def test_a_users_loss_is_reduced_under_a_mask(reducer):
    assert HingeLoss(reducer)(PRED, TARGET, where=VALID) == 0.75 / 2
    assert HingeLoss(reducer)(PRED, TARGET, where=jnp.zeros(3, bool)) == 0
    assert HingeLoss(reducer)(PRED[:2], TARGET[:2]) == 0.75 / 2


def test_a_users_loss_keeps_its_elements_by_default():
    losses = HingeLoss()(PRED, TARGET, where=VALID)
    np.testing.assert_array_equal(losses, [0.75, 0, 0])


def test_a_call_may_use_another_reducer():
    loss = HingeLoss(mean_loss)
    assert loss(PRED, TARGET, where=VALID, reducer=sum_loss) == 0.75
    weighted = SumWeightedLoss(jnp.array([4.0, 1.0, jnp.nan]), 2.0)
    assert loss(PRED, TARGET, where=VALID, reducer=weighted) == 4 * 0.75 / 2


def test_a_mask_of_rows_covers_leading_axes_of_a_users_loss():
    pred = jnp.array([[0.0, 0.0], [jnp.nan, jnp.nan]])
    assert HingeLoss(sum_loss)(pred, jnp.ones((2, 2)), where=[True, False]) == 2


def worst(loss):
    return jnp.max(loss)


def test_mistakes_in_a_users_loss_are_errors():
    message = (
        "reducer: a reducer must accept where= when elements are masked, got reducer worst. "
        "Use mean_loss, sum_loss or jnp.mean, or add a keyword where=None to yours."
    )
    with raises(TypeError, message):
        HingeLoss(worst)(PRED, TARGET, where=VALID)
    assert HingeLoss(worst)(PRED[:2], TARGET[:2]) == 0.75
    message = (
        "HingeLoss: where must cover the leading axes of the loss, got where (2,) and loss (3,). "
        "A mask is never matched to trailing axes."
    )
    with raises(ValueError, message):
        HingeLoss(mean_loss)(PRED, TARGET, where=VALID[:2])
    message = (
        "HingeLoss: where must be boolean, got where float32. "
        "True means valid, False means padding; weights belong in SumWeightedLoss."
    )
    with raises(TypeError, message):
        HingeLoss(mean_loss)(PRED, TARGET, where=jnp.ones(3))


def test_a_loss_adds_no_state_to_an_nnx_model():
    model = NNXModel(nnx.Rngs(0))
    assert set(nnx.state(model)) == {"layer"}
    graph, state = nnx.split(model)
    assert nnx.merge(graph, state).loss == model.loss
    gradients = nnx.jit(nnx.grad(lambda model: model(X)))(model)
    assert np.any(np.asarray(gradients["layer"]["kernel"][...]) != 0)


def test_an_nnx_model_with_a_loss_is_traced_once():
    traces = []

    @nnx.jit
    def step(model):
        traces.append(model)
        return model(X)

    for seed in range(3):
        step(NNXModel(nnx.Rngs(seed)))
    assert len(traces) == 1


def test_a_loss_adds_no_variables_to_a_linen_model():
    model = LinenModel()
    variables = model.init(jax.random.key(0), X)
    assert set(variables["params"]) == {"Dense_0"}
    assert jax.jit(model.apply)(variables, X).shape == ()
    assert hash(model) == hash(LinenModel())


def test_a_loss_becomes_a_linen_module_through_the_bridge():
    module = nnx.bridge.ToLinen(IoULoss, args=(mean_loss,), skip_rng=True)
    box = jnp.array([[0.0, 0.0, 1.0, 1.0]])
    assert module.apply({}, box, box) == 0


def test_a_loss_is_a_jit_argument_without_leaves():
    loss = IoULoss(mean_loss, mode="linear")
    assert jax.tree.leaves(loss) == []
    assert jax.tree.unflatten(jax.tree.structure(loss), []) == loss
    box = jnp.array([[0.0, 0.0, 1.0, 1.0]])
    for call in (jax.jit(lambda f, x: f(x, x)), nnx.jit(lambda f, x: f(x, x))):
        assert call(loss, box) == 0


@pytest.mark.parametrize("weights", [[1.0, 2.0], np.array([1.0, 2.0]), jnp.array([1.0, 2.0])])
def test_sequences_and_arrays_become_tuples(weights):
    loss = CrossEntropyLoss(class_weights=weights)
    assert loss.class_weights == (1.0, 2.0)
    assert loss == CrossEntropyLoss(class_weights=(1.0, 2.0))
    assert MultiLevelSegLoss(feature_idx=[0, 1], weights=weights).feature_idx == (0, 1)


def test_options_must_be_hashable():
    reducer = SumWeightedLoss(jnp.ones(2), 2.0)
    with pytest.raises(TypeError, match="IoULoss: the option reducer must be hashable"):
        IoULoss(reducer)
    with pytest.raises(TypeError, match=r"Pass it to the function: cross_entropy\("):
        jax.jit(lambda w: CrossEntropyLoss(class_weights=w)(X, jnp.array([0])))(jnp.ones(2))
    assert L1Loss()(X, jnp.zeros((1, 2)), reducer=reducer) == 1.5


def test_options_are_checked_when_the_module_is_made():
    with pytest.raises(ValueError, match="IoULoss: mode must be one of 'linear', 'square', 'log'"):
        IoULoss(mode="giou")
    with pytest.raises(ValueError, match="one weight for each entry of feature_idx, got weights"):
        MultiLevelSegLoss(feature_idx=(0, 1), weights=(1.0,))
