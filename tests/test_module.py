"""What Flax writes into a module that is frozen: tabulate, capture and sow."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from users import (
    NNXModel,
    QuantileLoss,
    SowingLoss,
    SowingModel,
    X,
    snapshot,
)
from versions import needs_flax

from vis4d_jax_loss import (
    L1Loss,
    Loss,
    MultiLevelSegLoss,
    mean_loss,
)

needs_capture = needs_flax("0.12.6", "nnx.capture")


@pytest.mark.parametrize(
    "loss", [L1Loss(mean_loss), MultiLevelSegLoss(feature_idx=[0, 1])], ids=repr
)
def test_tabulate_shows_a_model_with_a_loss(loss):
    model = NNXModel(nnx.Rngs(0))
    model.loss, before = loss, snapshot(loss)
    model.__class__ = NNXModelWithIdleLoss
    assert "layer" in nnx.tabulate(model, X)
    assert snapshot(model.loss) == before


class NNXModelWithIdleLoss(NNXModel):
    def __call__(self, x):
        return self.layer(x)


def test_tabulate_shows_the_call_of_a_loss():
    model = NNXModel(nnx.Rngs(0))
    table = nnx.tabulate(model, X)
    assert "L1Loss" in table
    assert L1Loss() == L1Loss()
    assert np.isfinite(model(X))


def test_a_tabulated_loss_is_the_same_value():
    loss, other = L1Loss(mean_loss), L1Loss(mean_loss)
    before = snapshot(other)
    loss._nnx_tabulate_id = 7
    assert snapshot(loss) == before
    assert copy.deepcopy(loss) == other
    del loss._nnx_tabulate_id
    assert not hasattr(loss, "_nnx_tabulate_id")


@needs_capture
def test_capture_collects_what_a_loss_sows():
    loss = SowingLoss(mean_loss)
    before = snapshot(loss)
    model = SowingModel(loss, nnx.Rngs(0))
    run = nnx.jit(lambda model, x: nnx.capture(model, nnx.Intermediate)(x))
    value, sown = run(model, X)
    (worst,) = sown["loss"]["worst"].get_value()
    assert worst >= value
    assert snapshot(model.loss) == before


class Nested(Loss):
    inner: Loss = SowingLoss(mean_loss)
    more: tuple[Loss, ...] = (SowingLoss(mean_loss, margin=1.0),)

    def __call__(self, pred, target):
        return self.inner(pred, target) + self.more[0](pred, target)


@needs_capture
@pytest.mark.parametrize("graph", [True, False])
def test_capture_collects_what_nested_losses_sow(graph):
    model = Holder(Nested())
    run = nnx.capture(nnx.jit(lambda model, x: model(x), graph=graph), nnx.Intermediate)
    for x in (X, 2 * X):
        sown = run(model, x)[1]["loss"]
        (inner,), (outer,) = jax.tree.leaves(sown["inner"]), jax.tree.leaves(sown["more"])
        assert inner == outer + 1 == jnp.max(x) - 1
    assert jax.tree.leaves(model.loss) == []


@needs_capture
def test_capture_shows_the_output_of_a_loss():
    model = Holder(CapturedLoss())
    before = snapshot(model.loss)
    outputs = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)(X)[1]
    np.testing.assert_allclose(outputs["loss"]["__call__"].get_value()[0], X - 1)
    assert snapshot(model.loss) == before


class Holder(nnx.Module):
    def __init__(self, loss):
        self.loss = loss

    def __call__(self, x):
        return self.loss(x, jnp.ones_like(x))


class CapturedLoss(Loss):
    def __call__(self, pred, target):
        return self.reduce(pred - target)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_a_loss_can_sow_outside_of_capture():
    model, clean = SowingModel(SowingLoss(mean_loss), nnx.Rngs(0)), SowingLoss(mean_loss)
    assert nnx.jit(lambda model, x: model(x))(model, X) == model(X)
    assert model.loss == clean
    assert hash(model.loss) == hash(clean)
    assert repr(model.loss) == repr(clean)
    assert pickle.dumps(model.loss) == pickle.dumps(clean)
    assert len(jax.tree.leaves(nnx.pop(model, nnx.Intermediate)["loss"]["worst"])) == 2
    assert jax.tree.structure(model.loss) == jax.tree.structure(clean)


@pytest.mark.parametrize("name", ["reducer", "quantile", "other", "_private"])
def test_nothing_but_flax_writes_into_a_loss(name):
    loss = QuantileLoss()
    with pytest.raises(AttributeError, match=f"cannot assign to field '{name}'"):
        setattr(loss, name, 0.1)
    with pytest.raises(AttributeError, match=f"cannot delete field '{name}'"):
        delattr(loss, name)
    assert loss == QuantileLoss()
