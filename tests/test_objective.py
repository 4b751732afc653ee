"""An objective of many losses: totals by hand, metrics, excluded terms, nesting, and as a value."""

import dataclasses
import functools
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from terms import (
    BATCH,
    L1,
    L1_TERM,
    L2,
    LOG2,
    OUTPUTS,
    PAIR,
    SEG,
    SEG_TERM,
    call,
    floats,
    value_term,
)

import vis4d_jax_loss as vjl
from vis4d_jax_loss import LossModule, LossTerm, data_key, pred_key


def test_the_total_and_the_metrics_are_weighted():
    objective = LossModule(
        {
            "l1": LossTerm(L1, weight=0.5, inputs=PAIR),
            "l2": LossTerm(L2, weight=10, inputs=PAIR),
            "seg": LossTerm(vjl.SegCrossEntropyLoss(), weight=np.float32(3), inputs=SEG),
        }
    )
    (total, metrics), grads = jax.value_and_grad(objective, has_aux=True)(OUTPUTS, BATCH)
    assert total == pytest.approx(0.5 * 2 + 10 * 5 + 3 * LOG2)
    assert floats(metrics) == {"l1": 1.0, "l2": 50.0, "seg.loss_seg": 3 * LOG2, "loss": total}
    # d/dx of 0.5 mean|x| + 10 mean x**2 over two elements.
    np.testing.assert_allclose(grads["x"], [0.25 + 10 * 1, 0.25 + 10 * 3], rtol=1e-6)


def test_metrics_stay_on_the_device():
    objective = LossModule({"l1": LossTerm(L1, 0.5, PAIR), "one": LossTerm(lambda: 1)})
    with jax.transfer_guard_device_to_host("disallow"):
        total, metrics = objective(OUTPUTS, BATCH)
    assert all(isinstance(x, jax.Array) and x.shape == () for x in (total, *metrics.values()))
    assert all(x.dtype == jnp.float32 for x in metrics.values())


@pytest.mark.parametrize("exclude", [("l2",), ["l2"], "l2"])
def test_an_excluded_term_changes_neither_total_nor_gradient(exclude):
    terms = {"l1": LossTerm(L1, 1.0, PAIR), "l2": LossTerm(L2, 10.0, PAIR)}
    objective = LossModule(terms, exclude)
    (total, metrics), grads = jax.value_and_grad(objective, has_aux=True)(OUTPUTS, BATCH)
    assert floats(metrics) == {"l1": 2.0, "l2": 50.0, "loss": 2.0}
    assert total == 2.0
    np.testing.assert_array_equal(grads["x"], [0.5, 0.5])


def test_an_excluded_term_may_be_nan():
    terms = {"good": value_term(), "bad": LossTerm(lambda x: x / 0, 1.0, {"x": pred_key("zero")})}
    outputs = {"value": jnp.float32(2), "zero": jnp.float32(0)}
    step = jax.jit(jax.value_and_grad(LossModule(terms, ["bad"]), has_aux=True))
    (total, metrics), grads = step(outputs, {})
    assert np.isnan(metrics["bad"])
    assert total == 2.0
    assert grads == {"value": 1.0, "zero": 0.0}


def test_one_loss_of_a_dict_or_all_of_them_may_be_excluded():
    term = LossTerm(lambda x: {"a": x, "b": {"c": 2 * x, "d": 3 * x}}, 1.0, {"x": pred_key()})
    x = jnp.float32(1)
    for exclude, total in {
        (): 6,
        ("t.a",): 5,
        ("t.b",): 1,
        ("t.b.d",): 3,
        ("t",): 0,
        ("t.a", "t.b"): 0,
    }.items():
        value, metrics = LossModule({"t": term}, exclude)(x, {})
        assert value == total
        assert floats(metrics) == {"t.a": 1.0, "t.b.c": 2.0, "t.b.d": 3.0, "loss": total}


def test_excluding_l1_does_not_exclude_l10():
    assert call({"l1": L1_TERM, "l10": L1_TERM}, exclude=["l1"])[0] == 2


def test_if_every_term_is_excluded_total_and_gradient_are_0():
    objective = LossModule({"l1": LossTerm(L1, 1.0, PAIR)}, ["l1"])
    (total, _), grads = jax.value_and_grad(objective, has_aux=True)(OUTPUTS, BATCH)
    assert total == 0
    assert total.dtype == jnp.float32
    np.testing.assert_array_equal(grads["x"], [0, 0])


def test_an_objective_may_be_a_term_of_another():
    inner_inputs = {"pred": pred_key("x"), "target": data_key("now.x")}
    inner = LossModule(
        {"l1": LossTerm(L1, 2.0, inner_inputs), "l2": LossTerm(L2, 1.0, inner_inputs)}, ["l2"]
    )
    part = {"outputs": pred_key("head")}
    objective = LossModule(
        {
            "head": LossTerm(inner, optax.constant_schedule(10.0), part),
            "same": LossModule({"inner": LossTerm(inner, 1.0, part)}),
        }
    )
    total, metrics = objective({"head": OUTPUTS}, {"now": BATCH}, step=0)
    assert floats(metrics) == {
        "head.l1": 40.0,
        "head.l2": 50.0,
        "head.loss": 40.0,
        "same.inner.l1": 4.0,
        "same.inner.l2": 5.0,
        "same.inner.loss": 4.0,
        "same.loss": 4.0,
        "loss": 44.0,
    }
    without = LossModule(objective.terms, ["head.l1"])
    assert without({"head": OUTPUTS}, {"now": BATCH}, step=0)[0] == 4.0
    assert total == 44.0


def test_a_nested_objective_gets_step_key_and_where():
    seen = {}

    def recording_loss(x, key=None, where=None):
        seen.update(key=key, where=where)
        return jnp.sum(x)

    inner = LossModule(
        {"x": LossTerm(recording_loss, optax.linear_schedule(0, 1, 2), {"x": pred_key()})}
    )
    key, where = jax.random.key(0), jnp.array([True])
    total, _ = LossModule({"inner": inner})(jnp.ones(1), {}, step=1, key=key, where=where)
    assert total == 0.5
    assert seen["key"] is not None
    assert seen["where"].tolist() == [True]


def test_any_callable_may_be_a_term():
    def mean_of(loss, **inputs):
        return jnp.mean(loss(**inputs))

    objective = LossModule(
        {
            "optax": LossTerm(
                lambda predictions, targets: jnp.mean(optax.l2_loss(predictions, targets)),
                inputs={"predictions": pred_key("x"), "targets": data_key("x")},
            ),
            "partial": LossTerm(functools.partial(vjl.l1_loss, reducer=jnp.max), inputs=PAIR),
            "keywords": LossTerm(functools.partial(mean_of, vjl.l2_loss), inputs=PAIR),
            "function": LossTerm(vjl.seg_cross_entropy_loss, inputs=SEG),
            "constant": LossTerm(lambda: 0.25),
            "builtin": LossTerm(dict, inputs={"a": data_key("scale")}),
            "numpy": LossTerm(lambda x: np.float64(2), inputs={"x": pred_key("x")}),
            "ufunc": LossTerm(lambda x: jnp.max(x), inputs={"x": pred_key("x")}),
        }
    )
    _, metrics = jax.jit(objective)(OUTPUTS, BATCH | {"scale": 0.5})
    assert floats(metrics) == {
        "builtin.a": 0.5,
        "optax": 2.5,
        "partial": 3.0,
        "keywords": 5.0,
        "function": LOG2,
        "constant": 0.25,
        "numpy": 2.0,
        "ufunc": 3.0,
        "loss": 2.5 + 3 + 5 + LOG2 + 0.25 + 0.5 + 2 + 3,
    }


def test_an_objective_is_immutable_and_compared_by_value():
    def make(**options):
        term = LossTerm(vjl.IoULoss(vjl.mean_loss, mode="log"), **options, inputs=PAIR)
        return LossModule({"box": term}, ["box"])

    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != make(weight=2.0)
    assert pickle.loads(pickle.dumps(make())) == make()
    assert jax.tree.leaves(make()) == []
    assert make() == LossModule([("box", make().terms["box"])], ("box",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().exclude = ()
    terms = {"box": make().terms["box"]}
    objective = LossModule(terms)
    terms.clear()
    assert list(objective.terms) == ["box"]


def test_an_objective_adds_no_state_to_a_model():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(2, 1, rngs=rngs)
            self.objective = LossModule({"l1": LossTerm(L1, inputs=PAIR)})

        def loss(self, x):
            return self.objective({"x": self.linear(x)[:, 0]}, BATCH)

    model = Model(nnx.Rngs(0))
    assert set(nnx.to_pure_dict(nnx.state(model))) == {"linear"}
    step = nnx.jit(nnx.value_and_grad(Model.loss, has_aux=True))
    (total, metrics), grads = step(model, jnp.ones((2, 2)))
    assert total == metrics["l1"]
    assert sorted(x.shape for x in jax.tree.leaves(grads)) == [(1,), (2, 1)]

    class LinenModel(nn.Module):
        objective: LossModule

        @nn.compact
        def __call__(self, x):
            return self.objective({"x": nn.Dense(1)(x)[:, 0]}, BATCH)

    linen = LinenModel(LossModule({"l1": LossTerm(L1, inputs=PAIR)}))
    (total, _), variables = linen.init_with_output(jax.random.key(0), jnp.ones((2, 2)))
    assert set(variables) == {"params"}
    assert total.shape == ()


def test_nnx_value_and_grad_accepts_an_objective():
    # NNX turns keywords into positions, so no argument may be keyword-only.
    objective = LossModule({"l1": LossTerm(L1, optax.linear_schedule(0, 1, 2), PAIR)})
    (total, metrics), grads = nnx.value_and_grad(objective, has_aux=True)(OUTPUTS, BATCH, step=1)
    assert total == metrics["l1"] == 1.0
    np.testing.assert_array_equal(grads["x"], [0.25, 0.25])


def test_the_order_of_terms_does_not_matter():
    terms = {"a": L1_TERM, "b": SEG_TERM}
    objectives = [
        LossModule(terms, ["a", "b"]),
        LossModule(dict(reversed(terms.items())), {"b", "a"}),
        LossModule(terms, ["b", "a", "a"]),
    ]
    assert len(set(objectives)) == 1
    assert len({jax.tree.structure(objective) for objective in objectives}) == 1


def test_excluding_head_does_not_exclude_the_term_head_aux():
    assert call({"head": L1_TERM, "head.aux": L1_TERM}, exclude=["head"])[0] == 2
