"""One objective of many losses: totals by hand, names, weights, schedules, masks, keys, errors."""

import dataclasses
import functools
import pickle
from types import SimpleNamespace
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vis4d_jax_loss as vjl
from vis4d_jax_loss import LossModule, LossTerm, data_key, pred_key

PAIR = {"pred": pred_key("x"), "target": data_key("x")}
OUTPUTS = {"x": jnp.array([1.0, 3.0]), "logits": jnp.zeros((1, 2, 2, 2))}
BATCH = {"x": jnp.zeros(2), "mask": jnp.ones((1, 2, 2), int)}
SEG = {"output": pred_key("logits"), "target": data_key("mask")}
L1, L2 = vjl.L1Loss(vjl.mean_loss), vjl.L2Loss(vjl.mean_loss)  # 2 and 5 of OUTPUTS["x"]
LOG2 = np.log(2.0)


def identity(x):
    return x


def value_term(weight=1.0):
    """A term whose loss is a number of the outputs."""
    return LossTerm(identity, weight, {"x": pred_key("value")})


def floats(metrics):
    return {name: pytest.approx(float(value)) for name, value in metrics.items()}


def test_total_and_metrics_are_weighted():
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


def test_a_schedule_gets_the_step():
    objective = LossModule({"l1": LossTerm(L1, optax.linear_schedule(0.0, 1.0, 4), PAIR)})
    totals = [objective(OUTPUTS, BATCH, step=step)[0] for step in (0, 1, jnp.int32(4), 9)]
    np.testing.assert_allclose(totals, [0.0, 0.5, 2.0, 2.0])


@pytest.mark.parametrize("dtype", [jnp.uint32, jnp.uint8, jnp.int32, float])
def test_a_schedule_that_begins_later_has_not_begun_at_an_unsigned_step(dtype):
    schedule = optax.linear_schedule(0.0, 1.0, 100, transition_begin=100)
    objective = jax.jit(LossModule({"l1": LossTerm(L1, schedule, PAIR)}))
    totals = [objective(OUTPUTS, BATCH, step=jnp.asarray(step, dtype))[0] for step in (0, 50, 150)]
    np.testing.assert_allclose(totals, [0.0, 0.0, 1.0])
    assert objective(OUTPUTS, BATCH, step=np.uint32(0))[0] == 0


@pytest.mark.parametrize("how", ["closure", "argument", "static", "fresh"])
def test_fifty_steps_of_a_schedule_are_one_trace(how):
    schedule = optax.cosine_decay_schedule(1.0, 50)
    traces = []

    def make():
        return LossModule({"l1": LossTerm(vjl.L1Loss(vjl.mean_loss), schedule, PAIR)})

    def train(objective, outputs, step):
        traces.append(how)
        return jax.value_and_grad(objective, has_aux=True)(outputs, BATCH, step=step)

    objective = make()
    if how == "closure":
        run = jax.jit(functools.partial(train, objective))
    else:
        compiled = jax.jit(train, static_argnums=0 if how == "static" else ())
        run = functools.partial(compiled, objective)
    totals = []
    for step in range(50):
        if how in ("static", "fresh"):
            run = functools.partial(compiled, make())
        (total, _), _ = run(OUTPUTS, step)
        totals.append(total)
    assert len(traces) == 1
    np.testing.assert_allclose(totals, 2 * (1 + np.cos(np.pi * np.arange(50) / 50)) / 2, rtol=1e-5)


def test_a_traced_weight_made_inside_the_step():
    @jax.jit
    def step(weight):
        objective = LossModule({"l1": LossTerm(L1, weight, PAIR)})
        return objective(OUTPUTS, BATCH)[0]

    assert step(3.0) == 6.0
    assert jax.grad(step)(3.0) == 2.0


def test_weights_that_are_arrays_are_leaves():
    def make(a, b):
        weight = {"loss_seg": jnp.float32(b)}
        return LossModule(
            {
                "l1": LossTerm(L1, jnp.float32(a), PAIR),
                "seg": LossTerm(vjl.SegCrossEntropyLoss(), weight, SEG),
                "l2": LossTerm(L2, 2.0, PAIR),
            }
        )

    traces = []

    @jax.jit
    def total(objective):
        traces.append(1)
        return objective(OUTPUTS, BATCH)[0]

    assert total(make(1, 0)) == 2 + 10
    assert total(make(5, 0)) == 10 + 10
    assert len(traces) == 1
    slopes = jax.grad(total)(make(1, 1))
    assert slopes.terms["l1"].weight == 2
    assert slopes.terms["seg"].weight["loss_seg"] == pytest.approx(LOG2)
    assert slopes.terms["l2"].weight == 2.0  # not a leaf


def test_a_schedule_may_be_a_pytree():
    schedule = jax.tree_util.Partial(lambda slope, step: slope * step, jnp.float32(2))
    objective = LossModule({"l1": LossTerm(L1, schedule, PAIR)})
    assert jax.jit(lambda o: o(OUTPUTS, BATCH, step=3)[0])(objective) == 12


def test_weights_by_key_of_a_dict_valued_loss():
    loss = vjl.MultiLevelSegLoss(feature_idx=(0, 1))
    schedule = optax.constant_schedule(0.5)
    inputs = {"outputs": pred_key("levels"), "target": data_key("mask")}
    term = LossTerm(loss, {"loss_seg_level1": schedule}, inputs)
    outputs = {"levels": [jnp.zeros((1, 2, 2, 2)), jnp.zeros((1, 2, 2, 4))]}
    total, metrics = LossModule({"seg": term})(outputs, BATCH, step=0)
    assert floats(metrics) == {
        "seg.loss_seg_level0": LOG2,
        "seg.loss_seg_level1": 0.5 * np.log(4),
        "loss": 2 * LOG2,
    }
    assert total == pytest.approx(2 * LOG2)


@pytest.mark.parametrize("exclude", [("l2",), ["l2"], "l2"])
def test_exclude_keeps_a_term_out_of_the_total_and_the_gradient(exclude):
    terms = {"l1": LossTerm(L1, 1.0, PAIR), "l2": LossTerm(L2, 10.0, PAIR)}
    objective = LossModule(terms, exclude)
    (total, metrics), grads = jax.value_and_grad(objective, has_aux=True)(OUTPUTS, BATCH)
    assert floats(metrics) == {"l1": 2.0, "l2": 50.0, "loss": 2.0}
    assert total == 2.0
    np.testing.assert_array_equal(grads["x"], [0.5, 0.5])


def test_what_is_excluded_may_be_nan():
    terms = {"good": value_term(), "bad": LossTerm(lambda x: x / 0, 1.0, {"x": pred_key("zero")})}
    outputs = {"value": jnp.float32(2), "zero": jnp.float32(0)}
    step = jax.jit(jax.value_and_grad(LossModule(terms, ["bad"]), has_aux=True))
    (total, metrics), grads = step(outputs, {})
    assert np.isnan(metrics["bad"])
    assert total == 2.0
    assert grads == {"value": 1.0, "zero": 0.0}


def test_exclude_one_loss_of_a_dict_or_all_of_it():
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


def test_a_name_does_not_exclude_those_that_begin_like_it():
    objective = LossModule({"l1": L1_TERM, "l10": L1_TERM}, ["l1"])
    assert objective(OUTPUTS, BATCH)[0] == 2


def test_excluding_everything_gives_0_with_gradient_0():
    objective = LossModule({"l1": LossTerm(L1, 1.0, PAIR)}, ["l1"])
    (total, _), grads = jax.value_and_grad(objective, has_aux=True)(OUTPUTS, BATCH)
    assert total == 0
    assert total.dtype == jnp.float32
    np.testing.assert_array_equal(grads["x"], [0, 0])


def test_a_module_is_a_term_of_another():
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


def test_step_key_and_where_reach_the_terms_of_a_nested_module():
    seen = {}

    def spy(x, key=None, where=None):
        seen.update(key=key, where=where)
        return jnp.sum(x)

    inner = LossModule({"spy": LossTerm(spy, optax.linear_schedule(0, 1, 2), {"x": pred_key()})})
    key, where = jax.random.key(0), jnp.array([True])
    total, _ = LossModule({"inner": inner})(jnp.ones(1), {}, step=1, key=key, where=where)
    assert total == 0.5
    assert seen["key"] is not None
    assert seen["where"].tolist() == [True]


def test_any_callable_is_a_term():
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


class Losses(NamedTuple):
    box: Any
    mask: Any = None


@flax.struct.dataclass
class StructLosses:
    box: Any
    mask: Any = None


@pytest.mark.parametrize("kind", [Losses, StructLosses])
def test_a_loss_may_return_a_structure_with_none_for_what_is_left_out(kind):
    term = LossTerm(lambda x: {"roi": kind(x), "rpn": kind(x, 2 * x)}, 1.0, {"x": pred_key()})
    total, metrics = LossModule({"det": term})(jnp.float32(1), {})
    assert floats(metrics) == {
        "det.roi.box": 1.0,
        "det.rpn.box": 1.0,
        "det.rpn.mask": 2.0,
        "loss": 4.0,
    }
    assert total == 4


@flax.struct.dataclass
class Outputs:
    heads: Any


class Boxes(NamedTuple):
    xyxy: Any
    count: int


@dataclasses.dataclass
class Derived:
    once: Any

    @property
    def twice(self):
        return 2 * self.once

    @functools.cached_property
    def double(self):
        return 2 * self.once


class OldSlots:
    __slots__ = ("boxes",)

    def __init__(self, boxes):
        self.boxes = boxes


@dataclasses.dataclass(slots=True)
class Slots:
    boxes: Any


@pytest.mark.parametrize(
    ("outputs", "path"),
    [
        (1.0, ""),
        ({"a": {"b": 1.0}}, "a.b"),
        ({"a.b": 1.0, "a": {"b": 2.0}}, "a.b"),
        ({"a": {"b.c": 1.0}}, "a.b.c"),
        (Boxes(1.0, 2), "xyxy"),
        (Outputs({"box": Boxes(1.0, 2)}), "heads.box.xyxy"),
        (SimpleNamespace(levels=[0.0, Outputs(1.0)]), "levels.1.heads"),
        ({0: {"x": 1.0}}, "0.x"),
        ({"layer.1": {"x": 1.0}, "layer": {"x": 2.0}}, "layer.1.x"),
        (Derived(0.5), "twice"),
        (Derived(0.5), "double"),
        (OldSlots(1.0), "boxes"),
        (Slots((1.0, 2.0)), "boxes.0"),
        (nnx.Dict(box=nnx.List([jnp.float32(1)])), "box.0"),
    ],
)
def test_keys_are_paths_into_whatever_holds_arrays(outputs, path):
    for arguments, key in (((outputs, {}), pred_key(path)), (({}, outputs), data_key(path))):
        assert LossModule({"t": LossTerm(identity, 1.0, {"x": key})})(*arguments)[0] == 1


def test_metrics_stay_on_the_device():
    objective = LossModule({"l1": LossTerm(L1, 0.5, PAIR), "one": LossTerm(lambda: 1)})
    with jax.transfer_guard_device_to_host("disallow"):
        total, metrics = objective(OUTPUTS, BATCH)
    assert all(isinstance(x, jax.Array) and x.shape == () for x in (total, *metrics.values()))
    assert all(x.dtype == jnp.float32 for x in metrics.values())


def test_half_precision_terms_are_weighted_in_float32():
    total, metrics = LossModule({"t": value_term(0.1)})({"value": jnp.bfloat16(1)}, {})
    assert total == metrics["t"] == np.float32(0.1)
    with jax.enable_x64(True):
        outputs = {"value": jnp.float64(1)}
        assert LossModule({"t": value_term(0.1)})(outputs, {})[0] == np.float64(0.1)


def test_where_of_the_inputs_reaches_the_loss():
    inputs = PAIR | {"where": data_key("valid")}
    batch = BATCH | {"valid": jnp.array([False, True])}
    outputs = {"x": jnp.array([jnp.nan, 3.0])}
    step = jax.value_and_grad(LossModule({"l1": LossTerm(L1, 1.0, inputs)}), has_aux=True)
    (total, _), grads = step(outputs, batch)
    assert total == 3
    np.testing.assert_array_equal(grads["x"], [0, 1])


def test_where_of_the_call_narrows_each_mask():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4)).astype(np.float32)
    real, valid = np.array([True, False, True]), rng.random((3, 4)) > 0.4
    own = {"pred": pred_key(), "target": data_key("x"), "where": data_key("valid")}
    objective = LossModule(
        {
            "none": LossTerm(L1, inputs={"pred": pred_key(), "target": data_key("x")}),
            "finer": LossTerm(L1, inputs=own),
            "same": LossTerm(L1, inputs=own | {"where": data_key("real")}),
            "unmasked": LossTerm(lambda x: jnp.mean(x), inputs={"x": data_key("valid")}),
        }
    )
    batch = {"x": np.zeros_like(x), "valid": valid, "real": np.array([True, True, False])}
    poisoned = np.where(real[:, None], x, np.nan)
    _, metrics = objective(poisoned, batch, where=real)
    assert metrics["none"] == pytest.approx(np.abs(x[real]).mean())
    assert metrics["finer"] == pytest.approx(np.abs(x[real[:, None] & valid]).mean())
    assert metrics["same"] == pytest.approx(np.abs(x[0]).mean())
    assert metrics["unmasked"] == pytest.approx(valid.mean())
    _, metrics = objective(x, batch, where=valid)
    assert metrics["same"] == pytest.approx(np.abs(x[:2][valid[:2]]).mean())
    finer = LossModule({"t": objective.terms["finer"]})
    with pytest.raises(ValueError, match=r"LossModule: where must cover the leading axes"):
        finer(x, batch, where=np.ones(2, bool))
    for where in (np.ones(3), np.ones((3, 4))):
        with pytest.raises(TypeError, match=r"LossModule: where must be boolean"):
            finer(x, batch | {"valid": valid[:, 0]}, where=where)


def test_a_mask_that_a_partial_has_bound_is_narrowed_like_any_other():
    bound = functools.partial(vjl.l1_loss, reducer=vjl.mean_loss, where=jnp.array([False, True]))
    for loss in (bound, jax.jit(bound)):
        objective = LossModule({"t": LossTerm(loss, inputs=PAIR)})
        assert objective(OUTPUTS, BATCH, where=jnp.array([True, True]))[0] == 3
        assert objective(OUTPUTS, BATCH, where=jnp.array([True, False]))[0] == 0


def draw(x, key):
    return x * jax.random.uniform(key)


def test_each_term_gets_a_key_of_its_own():
    def of(*names):
        terms = {name: LossTerm(draw, 1.0, {"x": pred_key()}) for name in names}
        _, metrics = LossModule(terms)(jnp.float32(1), {}, key=jax.random.key(0))
        return {name: float(metrics[name]) for name in names}

    two = of("a", "b")
    assert two["a"] != two["b"]
    assert of("c", "b", "a") == two | of("c")  # others change nothing
    given = LossTerm(draw, 1.0, {"x": pred_key(), "key": data_key("key")})
    key = jax.random.key(7)
    value = LossModule({"a": given})(1.0, {"key": key}, key=jax.random.key(0))[0]
    assert value == jax.random.uniform(key)


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_a_bound_key_stays(make):
    bound = functools.partial(draw, key=make(7))
    objective = LossModule(
        {
            "bound": LossTerm(bound, 1.0, {"x": pred_key()}),
            "free": LossTerm(draw, 1.0, {"x": pred_key()}),
        }
    )
    _, metrics = jax.jit(objective)(1.0, {}, key=make(0))
    assert metrics["bound"] == jax.random.uniform(make(7)) != metrics["free"]


def test_random_mining_in_a_term():
    loss = vjl.EmbeddingDistanceLoss(neg_pos_ub=1.0, hard_mining=False)
    inputs = {"pred": pred_key(), "target": data_key()}
    objective = LossModule({"dist": LossTerm(loss, 1.0, inputs)})
    pred, target = jnp.array([[1.0, 0.4, 0.5]]), jnp.array([[1, 0, 0]])
    keys = jax.random.split(jax.random.key(0), 50)
    totals = jax.vmap(lambda key: objective(pred, target, key=key)[0])(keys)
    assert sorted({round(float(x), 4) for x in totals}) == [0.005, 0.02]  # (0.1**2, 0.2**2) / 2
    with pytest.raises(ValueError, match="hard_mining=False needs key") as error:
        objective(pred, target)
    assert error.value.__notes__ == ['This came up in the term "dist" of a LossModule.']


def test_a_module_is_a_value():
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


def test_an_attribute_of_models_adds_nothing_to_their_state():
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
    assert grads.linear.bias.shape == (1,)

    class LinenModel(nn.Module):
        objective: LossModule

        @nn.compact
        def __call__(self, x):
            return self.objective({"x": nn.Dense(1)(x)[:, 0]}, BATCH)

    linen = LinenModel(LossModule({"l1": LossTerm(L1, inputs=PAIR)}))
    (total, _), variables = linen.init_with_output(jax.random.key(0), jnp.ones((2, 2)))
    assert set(variables) == {"params"}
    assert total.shape == ()


def test_nnx_value_and_grad_takes_it_directly():
    # It resolves keywords to positions: an argument by keyword only would be refused.
    objective = LossModule({"l1": LossTerm(L1, optax.linear_schedule(0, 1, 2), PAIR)})
    (total, metrics), grads = nnx.value_and_grad(objective, has_aux=True)(OUTPUTS, BATCH, step=1)
    assert total == metrics["l1"] == 1.0
    np.testing.assert_array_equal(grads["x"], [0.25, 0.25])


@pytest.mark.parametrize("weight", [jnp.float32(2), {"a": jnp.float32(2), "b": 3.0}])
def test_transformations_may_put_anything_in_the_place_of_array_weights(weight):
    if isinstance(weight, dict):
        term = LossTerm(lambda x: {"a": x, "b": x}, weight, {"x": pred_key()})
    else:
        term = LossTerm(identity, weight, {"x": pred_key()})
    objective = LossModule({"t": term})
    structure = jax.tree.structure(objective)
    for put in (True, None, 1.5, "label", np.float32(1)):
        marked = jax.tree.map(lambda _, put=put: put, objective)
        assert jax.tree.structure(marked, is_leaf=lambda x: x is None) == structure
    abstract = jax.eval_shape(lambda objective: objective, objective)
    assert jax.tree.leaves(abstract) == [jax.ShapeDtypeStruct((), jnp.float32)]
    compiled = jax.jit(lambda objective: objective(jnp.float32(1), {})[0]).lower(abstract).compile()
    assert compiled(objective) == (5 if isinstance(weight, dict) else 2)
    stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), objective)
    axes = jax.tree.map(lambda _: 0, stacked)
    totals = jax.vmap(lambda o: o(jnp.float32(1), {})[0], in_axes=(axes,))(stacked)
    assert totals.tolist() == ([5, 7] if isinstance(weight, dict) else [2, 4])


def test_weights_of_numpy_are_numbers():
    objective = LossModule({"l1": LossTerm(L1, np.array(2.0), PAIR)})
    assert jax.tree.leaves(objective) == []
    assert objective == LossModule({"l1": LossTerm(L1, 2.0, PAIR)})
    assert jax.jit(objective)(OUTPUTS, BATCH)[0] == 4


def test_order_does_not_matter():
    terms = {"a": L1_TERM, "b": SEG_TERM}
    objectives = [
        LossModule(terms, ["a", "b"]),
        LossModule(dict(reversed(terms.items())), {"b", "a"}),
        LossModule(terms, ["b", "a", "a"]),
    ]
    assert len(set(objectives)) == 1
    assert len({jax.tree.structure(objective) for objective in objectives}) == 1


def test_a_term_is_not_excluded_with_another_whose_name_it_begins_with():
    objective = LossModule({"head": L1_TERM, "head.aux": L1_TERM}, ["head"])
    assert objective(OUTPUTS, BATCH)[0] == 2


def test_none_stands_for_a_loss_left_out_and_keeps_its_name():
    term = LossTerm(lambda x: {"a": x, "b": None}, {"b": 2.0}, {"x": pred_key()})
    total, metrics = LossModule({"t": term}, ["t.b"])(jnp.float32(1), {})
    assert floats(metrics) == {"t.a": 1.0, "loss": 1.0}
    assert total == 1


def test_a_mask_for_rows_is_not_given_to_losses_that_take_it_for_columns():
    ranking = LossTerm(
        optax.losses.ranking_softmax_loss, 1.0, {"logits": pred_key(), "labels": data_key()}
    )
    square, where = jnp.ones((3, 3)), jnp.array([True, True, False])
    for loss in (
        ranking.loss,
        functools.partial(ranking.loss, reduce_fn=jnp.sum),
        jax.jit(ranking.loss),
    ):
        objective = LossModule({"r": LossTerm(loss, 1.0, ranking.inputs)})
        with pytest.raises(
            TypeError, match="where of the call covers leading axes, which the where"
        ):
            objective(square, square, where=where)
    mean = LossTerm(jnp.mean, 1.0, {"a": pred_key()})
    with pytest.raises(TypeError, match=r"got mean\. Wrap it in a lambda"):
        LossModule({"m": mean})(square, square, where=where)
    assert LossModule({"m": mean})(square, square)[0] == 1


def call(terms, *arguments, exclude=(), **keywords):
    return LossModule(terms, exclude)(*(arguments or (OUTPUTS, BATCH)), **keywords)


L1_TERM = LossTerm(L1, 1.0, PAIR)
SEG_TERM = LossTerm(vjl.SegCrossEntropyLoss(), 1.0, SEG)


def of(loss, weight=1.0):
    return {"t": LossTerm(loss, weight, {"x": pred_key("x")})}


@pytest.mark.parametrize(
    ("mistake", "kind", "message"),
    [
        (
            lambda: LossModule([L1_TERM, SEG_TERM]),
            TypeError,
            'LossModule: terms must have names, got LossTerm. Write LossModule({"box": LossTerm(...), ...}).',
        ),
        (
            lambda: LossModule(L1_TERM),
            TypeError,
            'LossModule: terms must have names, got LossTerm. Write LossModule({"box": LossTerm(...), ...}).',
        ),
        (
            lambda: LossModule({}),
            ValueError,
            "LossModule: there must be at least one term, got none.",
        ),
        (
            lambda: LossModule({"a": {"b": L1_TERM}}),
            TypeError,
            'LossModule: the term "a" must be a LossTerm or a LossModule, got dict. Wrap it: LossModule({...}).',
        ),
        (
            lambda: LossTerm(vjl.L1Loss, 1.0, PAIR),
            TypeError,
            "LossTerm: loss must be an instance, got the class L1Loss. Write L1Loss(...).",
        ),
        (
            lambda: LossTerm(L1, PAIR),
            TypeError,
            "LossTerm: weight must not be a dict of keys, got a key. Keys belong in inputs: LossTerm(loss, inputs={...}).",
        ),
        (
            lambda: LossTerm(L1, {"b": {"c": 2.0}}, PAIR),
            TypeError,
            'LossTerm: weights by key must not be nested, got a dict under "b". Write the whole path: {"b.c": 2.0}.',
        ),
        (
            lambda: LossTerm(L1, nnx.Param(jnp.float32(2)), PAIR),
            TypeError,
            "LossTerm: a weight must be a real number, a scalar array, a schedule, or a dict of them, got Param. Pass its value, weight[...], to one made inside the step.",
        ),
        (
            lambda: LossTerm(L1, 1j, PAIR),
            TypeError,
            "LossTerm: a weight must be a real number, a scalar array, a schedule, or a dict of them, got complex.",
        ),
        (
            lambda: call({"l1": LossTerm(L1, lambda step: step > 3, PAIR)}, step=jnp.int32(0)),
            TypeError,
            "LossTerm: a weight must be a real number, a scalar array, a schedule, or a dict of them, got ArrayImpl.",
        ),
        (
            lambda: call({"l1": LossTerm(L1, lambda step: None, PAIR)}, step=0),
            TypeError,
            "LossTerm: a weight must be a real number, a scalar array, a schedule, or a dict of them, got NoneType.",
        ),
        (
            lambda: call(of(lambda x: x.sum() * 1j)),
            TypeError,
            "LossModule: a loss must be a real scalar, or a dict or named tuple of scalars, got complex64.",
        ),
        (
            lambda: call(of(lambda x: {"a.b": x.sum(), "a": {"b": x.sum()}})),
            ValueError,
            'LossModule: each metric must have a name of its own, got "a.b" twice. Rename one of the terms.',
        ),
        (
            lambda: call(of(lambda x: {1: x.sum(), "1": x.sum()})),
            ValueError,
            'LossModule: each metric must have a name of its own, got "1" twice. Rename one of the terms.',
        ),
        (
            lambda: call(of(lambda x: {"": x.sum()})),
            ValueError,
            'LossModule: each loss that a term returns must have a name, got "".',
        ),
        (
            lambda: call({"d": LossTerm(draw, 1.0, {"x": pred_key("x")})}),
            ValueError,
            "LossModule: the loss needs key, got none. Call objective(outputs, batch, key=key), or add it to inputs.",
        ),
        (
            lambda: pred_key(0),
            TypeError,
            'pred_key: a path must be a string, got int. Write it as in "boxes.0".',
        ),
        (
            lambda: data_key("boxes."),
            ValueError,
            'data_key: a path must not have empty parts, got "boxes.".',
        ),
        (
            lambda: call({"t": LossTerm(identity, 1.0, {"x": pred_key("a.b")})}, {"a": None}, {}),
            ValueError,
            'LossModule: inputs must name what is there, and "b" is not, got outputs.a.b. What should hold it is None.',
        ),
        (
            lambda: hash(LossModule({"l1": LossTerm(L1, jnp.float32(1), PAIR)})),
            TypeError,
            "LossTerm: an objective whose weights are arrays has no hash, got an array. It is an argument of the step, not a static one: jit a function that takes it.",
        ),
        (
            lambda: call({"seg": LossTerm(vjl.SegCrossEntropyLoss(), {0: 2.0}, SEG)}),
            ValueError,
            'LossTerm: weights by key must name losses that the term returns, got "0". There is "loss_seg".',
        ),
        (
            lambda: LossModule([("a", L1_TERM), ("b", L1_TERM), ("a", SEG_TERM)]),
            ValueError,
            'LossModule: each term must have a name of its own, got "a" 2 times. The names are "a", "b", "a".',
        ),
        (
            lambda: LossModule({"loss": L1_TERM}),
            ValueError,
            "LossModule: a term needs a name, other than \"loss\", which is the total, got 'loss'.",
        ),
        (
            lambda: LossModule({"": L1_TERM}),
            ValueError,
            "LossModule: a term needs a name, other than \"loss\", which is the total, got ''.",
        ),
        (
            lambda: LossModule({"l1": L1}),
            TypeError,
            'LossModule: the term "l1" must be a LossTerm or a LossModule, got L1Loss. Wrap it: LossTerm(loss, inputs={...}) says what to call it with.',
        ),
        (
            lambda: call({"seg": SEG_TERM, "seg.loss_seg": L1_TERM}),
            ValueError,
            'LossModule: each metric must have a name of its own, got "seg.loss_seg" twice. Rename one of the terms.',
        ),
        (
            lambda: call({"t": LossTerm(identity, 1.0, {"x": pred_key("logit")})}),
            ValueError,
            'LossModule: inputs must name what is there, and "logit" is not, got outputs.logit. Did you mean "logits"? There is "x", "logits".',
        ),
        (
            lambda: call({"t": LossTerm(identity, 1.0, {"x": data_key("a.c")})}, {}, {"a": {}}),
            ValueError,
            'LossModule: inputs must name what is there, and "c" is not, got batch.a.c. There is nothing.',
        ),
        (
            lambda: call({"t": LossTerm(identity, 1.0, {"x": pred_key("x.T")})}),
            ValueError,
            'LossModule: inputs must name what is there, and "T" is not, got outputs.x.T. An array of shape (2,) has no parts.',
        ),
        (
            lambda: call({"t": value_term()}, SimpleNamespace(logits=1, _private=2), {}),
            ValueError,
            'LossModule: inputs must name what is there, and "value" is not, got outputs.value. There is "logits".',
        ),
        (
            lambda: LossTerm(L1, inputs={"pred": pred_key("x"), "targets": data_key("x")}),
            ValueError,
            'LossTerm: inputs must name arguments of L1Loss, got "targets". Did you mean "target"? There is "pred", "target", "reducer", "where".',
        ),
        (
            lambda: LossTerm(L1, inputs={"pred": pred_key("x")}),
            ValueError,
            'LossTerm: inputs must say where L1Loss gets its argument "target" from, got "pred". Add "target": pred_key(...) or data_key(...).',
        ),
        (
            lambda: LossTerm(lambda x, /: x, inputs={}),
            ValueError,
            'LossTerm: inputs must say where <lambda> gets its argument "x" from, got nothing. It takes no name: wrap the loss in a lambda.',
        ),
        (
            lambda: LossTerm(L1, inputs={"pred": "x", "target": data_key("x")}),
            TypeError,
            'LossTerm: the input "pred" must be a pred_key or a data_key, got str \'x\'. Write inputs={"pred": pred_key("boxes"), "target": data_key("boxes")}.',
        ),
        (
            lambda: LossTerm(L1, inputs=["pred"]),
            TypeError,
            'LossTerm: inputs must be a dict, got list. Write inputs={"pred": pred_key("boxes"), "target": data_key("boxes")}.',
        ),
        (lambda: LossTerm("l1"), TypeError, "LossTerm: loss must be callable, got str 'l1'."),
        (
            lambda: call({"l1": L1_TERM, "seg": SEG_TERM}, exclude=["l2"]),
            ValueError,
            'LossModule: exclude must name terms, or losses that they return, got "l2". Did you mean "l1"? There is "l1", "seg", "seg.loss_seg".',
        ),
        (
            lambda: call({"seg": SEG_TERM}, exclude=["seg.loss"]),
            ValueError,
            'LossModule: exclude must name terms, or losses that they return, got "seg.loss". Did you mean "seg.loss_seg"? There is "seg", "seg.loss_seg".',
        ),
        (
            lambda: call({"m": LossModule({"l1": L1_TERM})}, exclude=["m.loss"]),
            ValueError,
            'LossModule: exclude must name terms, or losses that they return, got "m.loss". Did you mean "m.l1"? There is "m", "m.l1".',
        ),
        (
            lambda: call({"seg": LossTerm(vjl.SegCrossEntropyLoss(), {"seg.loss_seg": 2.0}, SEG)}),
            ValueError,
            'LossTerm: weights by key must name losses that the term returns, got "seg.loss_seg". Did you mean "loss_seg"? There is "loss_seg".',
        ),
        (
            lambda: call({"l1": LossTerm(L1, {"l1": 2.0}, PAIR)}),
            ValueError,
            'LossTerm: weights by key must name losses that the term returns, got "l1". It returns one loss without a key: give it one weight.',
        ),
        (
            lambda: LossTerm(LossModule({"l1": L1_TERM}), {"l1": 2.0}),
            TypeError,
            "LossTerm: the weight of a LossModule must be one for all its terms, got dict. Its own terms have weights of their own.",
        ),
        (
            lambda: LossTerm(L1, "heavy", PAIR),
            TypeError,
            "LossTerm: a weight must be a real number, a scalar array, a schedule, or a dict of them, got str 'heavy'.",
        ),
        (
            lambda: LossTerm(L1, True, PAIR),
            TypeError,
            "LossTerm: a weight must be a real number, a scalar array, a schedule, or a dict of them, got bool.",
        ),
        (
            lambda: LossTerm(L1, jnp.ones(2), PAIR),
            ValueError,
            "LossTerm: the weight of a term must be a scalar, got weight (2,). Weights of single elements belong in SumWeightedLoss.",
        ),
        (
            lambda: call({"l1": LossTerm(L1, lambda step: jnp.ones(2), PAIR)}, step=0),
            ValueError,
            "LossTerm: the weight of a term must be a scalar, got weight (2,). Weights of single elements belong in SumWeightedLoss.",
        ),
        (
            lambda: call({"l1": LossTerm(L1, optax.constant_schedule(1.0), PAIR)}),
            ValueError,
            "LossModule: a weight that is a schedule needs step, got None. Call objective(outputs, batch, step=step).",
        ),
        (
            lambda: call({"l1": LossTerm(vjl.L1Loss(), 1.0, PAIR)}),
            ValueError,
            "LossModule: a loss must be a real scalar, or a dict or named tuple of scalars, got loss (2,). Give the loss a reducer, such as mean_loss.",
        ),
        (
            lambda: call(of(lambda x: {"a": x})),
            ValueError,
            "LossModule: a loss must be a real scalar, or a dict or named tuple of scalars, got a (2,). Give the loss a reducer, such as mean_loss.",
        ),
        (
            lambda: call(of(lambda x: (x.sum(), {}))),
            TypeError,
            "LossModule: a loss must be a real scalar, or a dict or named tuple of scalars, got tuple. Which of them is the loss? Wrap it in a lambda that says so.",
        ),
        (
            lambda: call(of(lambda x: None)),
            TypeError,
            "LossModule: a loss must be a real scalar, or a dict or named tuple of scalars, got NoneType.",
        ),
        (
            lambda: call(of(lambda x: {"a": {"b": "x"}})),
            TypeError,
            "LossModule: a loss must be a real scalar, or a dict or named tuple of scalars, got str 'x' under \"a.b\".",
        ),
        (
            lambda: call(of(lambda x: x.sum() > 0)),
            TypeError,
            "LossModule: a loss must be a real scalar, or a dict or named tuple of scalars, got bool.",
        ),
    ],
)
def test_each_mistake_is_one_clear_error(mistake, kind, message):
    with pytest.raises(kind) as error:
        mistake()
    assert str(error.value) == message


def test_errors_come_when_the_step_is_traced():
    objective = LossModule({"outer": LossModule({"l1": LossTerm(vjl.L1Loss(), 1.0, PAIR)})})
    with pytest.raises(ValueError, match="a loss must be a real scalar") as error:
        jax.jit(objective)(OUTPUTS, BATCH)
    assert error.value.__notes__[:2] == [
        'This came up in the term "l1" of a LossModule.',
        'This came up in the term "outer" of a LossModule.',
    ]
