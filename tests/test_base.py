"""One definition for NNX, Linen and plain functions."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vis4d_jax_loss import (
    CrossEntropyLoss,
    IoULoss,
    L1Loss,
    Loss,
    MultiLevelSegLoss,
    SumWeightedLoss,
    mean_loss,
)

X = jnp.array([[1.0, 2.0]])


class QuantileLoss(Loss):
    """As a user would write one."""

    quantile: float = 0.5

    def __call__(self, pred, target, *, reducer=None):
        error = target - pred
        return self.reduce(jnp.maximum(self.quantile * error, (self.quantile - 1) * error), None, reducer)


class NNXModel(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(2, 2, rngs=rngs)
        self.loss = L1Loss(mean_loss)

    def __call__(self, x):
        return self.loss(self.layer(x), x)


class LinenModel(nn.Module):
    loss: Any = L1Loss(mean_loss)

    @nn.compact
    def __call__(self, x):
        return self.loss(nn.Dense(2)(x), x)


def test_a_users_loss_is_a_frozen_value_with_options():
    loss = QuantileLoss(jnp.sum, quantile=0.9)
    assert loss == QuantileLoss(jnp.sum, quantile=0.9) != QuantileLoss(jnp.sum)
    assert jax.jit(lambda loss, x: loss(x, jnp.zeros(2)))(loss, jnp.array([1.0, -1.0])) == 1.0
    with pytest.raises(AttributeError, match="cannot assign to field 'quantile'"):
        loss.quantile = 0.1


def test_in_an_nnx_model_it_adds_no_state_and_trains():
    model = NNXModel(nnx.Rngs(0))
    assert set(nnx.state(model)) == {"layer"}
    graph, state = nnx.split(model)
    assert nnx.merge(graph, state).loss == model.loss
    gradients = nnx.jit(nnx.grad(lambda model: model(X)))(model)
    assert np.any(np.asarray(gradients["layer"]["kernel"][...]) != 0)


def test_in_a_linen_model_it_adds_no_variables():
    model = LinenModel()
    variables = model.init(jax.random.key(0), X)
    assert set(variables["params"]) == {"Dense_0"}
    assert jax.jit(model.apply)(variables, X).shape == ()
    assert hash(model) == hash(LinenModel())


def test_it_is_a_linen_module_through_the_bridge():
    module = nnx.bridge.ToLinen(IoULoss, args=(mean_loss,), skip_rng=True)
    box = jnp.array([[0.0, 0.0, 1.0, 1.0]])
    assert module.apply({}, box, box) == 0


@pytest.mark.parametrize("weights", [[1.0, 2.0], np.array([1.0, 2.0]), jnp.array([1.0, 2.0])])
def test_sequences_become_tuples(weights):
    loss = CrossEntropyLoss(class_weights=weights)
    assert loss.class_weights == (1.0, 2.0)
    assert loss == CrossEntropyLoss(class_weights=(1.0, 2.0))
    assert MultiLevelSegLoss(feature_idx=[0, 1], weights=weights).feature_idx == (0, 1)


def test_storing_arrays_is_an_error_that_says_where_they_belong():
    reducer = SumWeightedLoss(jnp.ones(2), 2.0)
    with pytest.raises(
        TypeError, match="IoULoss: the option reducer must be hashable, got reducer"
    ):
        IoULoss(reducer)
    with pytest.raises(TypeError, match=r"pass traced values in the call, such as reducer=SumW"):
        jax.jit(lambda w: CrossEntropyLoss(class_weights=w)(X, jnp.array([0])))(jnp.ones(2))
    assert L1Loss()(X, jnp.zeros((1, 2)), reducer=reducer) == 1.5


def test_options_are_checked_when_the_module_is_made():
    with pytest.raises(ValueError, match="IoULoss: mode must be one of 'linear', 'square', 'log'"):
        IoULoss(mode="giou")
    with pytest.raises(ValueError, match="one weight for each entry of feature_idx, got weights"):
        MultiLevelSegLoss(feature_idx=(0, 1), weights=(1.0,))
