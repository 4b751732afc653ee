"""Where a term's arguments come from, and how its results are named."""

import dataclasses
import functools
from types import SimpleNamespace
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_text import raises
from flax import nnx
from terms import BATCH, L1, OUTPUTS, PAIR, floats, identity
from versions import needs_flax

import vis4d_jax_loss as vjl
from vis4d_jax_loss import InputPath, LossModule, LossTerm, data_key, pred_key
from vis4d_jax_loss.composition.paths import members, scalars


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
        (nnx.Dict(box=jnp.float32(1)), "box"),
    ],
)
def test_paths_lead_into_mappings_sequences_and_objects(outputs, path):
    for arguments, place in (((outputs, {}), pred_key(path)), (({}, outputs), data_key(path))):
        assert LossModule({"t": LossTerm(identity, 1.0, {"x": place})})(*arguments)[0] == 1


class Losses(NamedTuple):
    box: Any
    mask: Any = None


@flax.struct.dataclass
class StructLosses:
    box: Any
    mask: Any = None


@needs_flax("0.12", "nnx.List")
def test_paths_lead_into_lists_of_nnx():
    outputs = nnx.Dict(box=nnx.List([jnp.float32(1)]))
    term = LossTerm(identity, 1.0, {"x": pred_key("box.0")})
    assert LossModule({"t": term})(outputs, {})[0] == 1


@pytest.mark.parametrize("kind", [Losses, StructLosses])
def test_a_loss_may_return_named_tuples_and_dataclasses(kind):
    term = LossTerm(lambda x: {"roi": kind(x), "rpn": kind(x, 2 * x)}, 1.0, {"x": pred_key()})
    total, metrics = LossModule({"det": term})(jnp.float32(1), {})
    assert floats(metrics) == {
        "det.roi.box": 1.0,
        "det.rpn.box": 1.0,
        "det.rpn.mask": 2.0,
        "loss": 4.0,
    }
    assert total == 4


def test_a_loss_of_none_is_left_out_and_keeps_its_name():
    term = LossTerm(lambda x: {"a": x, "b": None}, {"b": 2.0}, {"x": pred_key()})
    total, metrics = LossModule({"t": term}, ["t.b"])(jnp.float32(1), {})
    assert floats(metrics) == {"t.a": 1.0, "loss": 1.0}
    assert total == 1


def test_a_mask_may_be_an_input():
    inputs = PAIR | {"where": data_key("valid")}
    batch = BATCH | {"valid": jnp.array([False, True])}
    outputs = {"x": jnp.array([jnp.nan, 3.0])}
    step = jax.value_and_grad(LossModule({"l1": LossTerm(L1, 1.0, inputs)}), has_aux=True)
    (total, _), grads = step(outputs, batch)
    assert total == 3
    np.testing.assert_array_equal(grads["x"], [0, 1])


def test_the_mask_of_the_call_narrows_each_mask():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4)).astype(np.float32)
    rows, valid = np.array([True, False, True]), rng.random((3, 4)) > 0.4
    own = {"pred": pred_key(), "target": data_key("x"), "where": data_key("valid")}
    objective = LossModule(
        {
            "none": LossTerm(L1, inputs={"pred": pred_key(), "target": data_key("x")}),
            "finer": LossTerm(L1, inputs=own),
            "same": LossTerm(L1, inputs=own | {"where": data_key("rows")}),
            "unmasked": LossTerm(lambda x: jnp.mean(x), inputs={"x": data_key("valid")}),
        }
    )
    batch = {"x": np.zeros_like(x), "valid": valid, "rows": np.array([True, True, False])}
    poisoned = np.where(rows[:, None], x, np.nan)
    _, metrics = objective(poisoned, batch, where=rows)
    assert metrics["none"] == pytest.approx(np.abs(x[rows]).mean())
    assert metrics["finer"] == pytest.approx(np.abs(x[rows[:, None] & valid]).mean())
    assert metrics["same"] == pytest.approx(np.abs(x[0]).mean())
    assert metrics["unmasked"] == pytest.approx(valid.mean())
    _, metrics = objective(x, batch, where=valid)
    assert metrics["same"] == pytest.approx(np.abs(x[:2][valid[:2]]).mean())
    finer = LossModule({"t": objective.terms["finer"]})
    message = (
        "LossModule: where must cover the leading axes of the loss, "
        "got where (2,) and loss (3, 4). A mask is never matched to trailing axes."
    )
    with raises(ValueError, message):
        finer(x, batch, where=np.ones(2, bool))
    message = (
        "LossModule: where must be boolean, got where float32. "
        "True means valid, False means padding; weights belong in SumWeightedLoss."
    )
    for where in (np.ones(3), np.ones((3, 4))):
        with raises(TypeError, message):
            finer(x, batch | {"valid": valid[:, 0]}, where=where)


def test_a_mask_bound_by_a_partial_is_narrowed():
    bound = functools.partial(vjl.l1_loss, reducer=vjl.mean_loss, where=jnp.array([False, True]))
    for loss in (bound, jax.jit(bound)):
        objective = LossModule({"t": LossTerm(loss, inputs=PAIR)})
        assert objective(OUTPUTS, BATCH, where=jnp.array([True, True]))[0] == 3
        assert objective(OUTPUTS, BATCH, where=jnp.array([True, False]))[0] == 0


def test_losses_of_optax_and_jax_get_no_mask_of_the_call():
    ranking = LossTerm(
        optax.losses.ranking_softmax_loss, 1.0, {"logits": pred_key(), "labels": data_key()}
    )
    square, where = jnp.ones((3, 3)), jnp.array([True, True, False])
    message = (
        "LossModule: cannot pass where= to losses of optax or JAX, whose masks broadcast from the "
        "right, got {}. Wrap it in a lambda; if it needs a mask, take one from the batch."
    )
    for loss in (
        ranking.loss,
        functools.partial(ranking.loss, reduce_fn=jnp.sum),
        jax.jit(ranking.loss),
    ):
        objective = LossModule({"r": LossTerm(loss, 1.0, ranking.inputs)})
        with raises(TypeError, message.format("ranking_softmax_loss")):
            objective(square, square, where=where)
    mean = LossTerm(jnp.mean, 1.0, {"a": pred_key()})
    with raises(TypeError, message.format("mean")):
        LossModule({"m": mean})(square, square, where=where)
    assert LossModule({"m": mean})(square, square)[0] == 1


def draw(x, key):
    return x * jax.random.uniform(key)


def test_each_term_gets_a_different_key():
    def losses_of(*names):
        terms = {name: LossTerm(draw, 1.0, {"x": pred_key()}) for name in names}
        _, metrics = LossModule(terms)(jnp.float32(1), {}, key=jax.random.key(0))
        return {name: float(metrics[name]) for name in names}

    two = losses_of("a", "b")
    assert two["a"] != two["b"]
    assert losses_of("c", "b", "a") == two | losses_of("c")  # other terms change nothing
    given = LossTerm(draw, 1.0, {"x": pred_key(), "key": data_key("key")})
    key = jax.random.key(7)
    value = LossModule({"a": given})(1.0, {"key": key}, key=jax.random.key(0))[0]
    assert value == jax.random.uniform(key)


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_a_key_bound_by_a_partial_is_kept(make):
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


def test_a_path_has_a_source():
    assert pred_key("boxes.0") == InputPath("outputs", "boxes.0")
    assert data_key() == InputPath("batch", "")


def test_members_of_an_array_and_of_a_namespace():
    assert members(jnp.ones(2)) == {}
    assert members(SimpleNamespace(a=1, _private=2)) == {"a": 1}
    assert members([5, 6]) == {"0": 5, "1": 6}


def test_results_become_scalars_with_dotted_names():
    result = {"a": 1.0, "b": {"c": jnp.float32(2)}, "d": Losses(3.0)}
    expected = {"a": 1, "b.c": 2, "d.box": 3, "d.mask": None}
    assert dict(scalars("", result)) == expected
    assert dict(scalars("", jnp.float32(4))) == {"": 4}
