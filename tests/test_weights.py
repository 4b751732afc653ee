"""Weights of terms: numbers, schedules of the step, arrays that may be traced, and dicts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from terms import BATCH, L1, L2, LOG2, OUTPUTS, PAIR, SEG, floats, identity, value_term

import vis4d_jax_loss as vjl
from vis4d_jax_loss import LossModule, LossTerm, data_key, pred_key
from vis4d_jax_loss._numerics import enable_x64
from vis4d_jax_loss.composition.weights import (
    join_arrays,
    split_arrays,
    weighted,
    weights_by_path,
    which_are_arrays,
)


def test_a_schedule_is_called_with_the_step():
    objective = LossModule({"l1": LossTerm(L1, optax.linear_schedule(0.0, 1.0, 4), PAIR)})
    totals = [objective(OUTPUTS, BATCH, step=step)[0] for step in (0, 1, jnp.int32(4), 9)]
    np.testing.assert_allclose(totals, [0.0, 0.5, 2.0, 2.0])


@pytest.mark.parametrize("dtype", [jnp.uint32, jnp.uint8, jnp.int32, float])
def test_a_delayed_schedule_with_an_unsigned_step(dtype):
    schedule = optax.linear_schedule(0.0, 1.0, 100, transition_begin=100)
    objective = jax.jit(LossModule({"l1": LossTerm(L1, schedule, PAIR)}))
    totals = [objective(OUTPUTS, BATCH, step=jnp.asarray(step, dtype))[0] for step in (0, 50, 150)]
    np.testing.assert_allclose(totals, [0.0, 0.0, 1.0])
    assert objective(OUTPUTS, BATCH, step=np.uint32(0))[0] == 0


@pytest.mark.parametrize("how", ["closure", "argument", "static", "new"])
def test_fifty_steps_of_a_schedule_are_traced_once(how):
    schedule = optax.cosine_decay_schedule(1.0, 50)
    traces = []

    def create_objective():
        return LossModule({"l1": LossTerm(vjl.L1Loss(vjl.mean_loss), schedule, PAIR)})

    def train(objective, outputs, step):
        traces.append(how)
        return jax.value_and_grad(objective, has_aux=True)(outputs, BATCH, step=step)

    objective = create_objective()
    if how == "closure":
        run = jax.jit(functools.partial(train, objective))
    else:
        compiled = jax.jit(train, static_argnums=0 if how == "static" else ())
        run = functools.partial(compiled, objective)
    totals = []
    for step in range(50):
        if how in ("static", "new"):
            run = functools.partial(compiled, create_objective())
        (total, _), _ = run(OUTPUTS, step)
        totals.append(total)
    assert len(traces) == 1
    np.testing.assert_allclose(totals, 2 * (1 + np.cos(np.pi * np.arange(50) / 50)) / 2, rtol=1e-5)


def test_an_objective_with_a_traced_weight_may_be_created_in_the_step():
    @jax.jit
    def step(weight):
        objective = LossModule({"l1": LossTerm(L1, weight, PAIR)})
        return objective(OUTPUTS, BATCH)[0]

    assert step(3.0) == 6.0
    assert jax.grad(step)(3.0) == 2.0


def test_weights_that_are_arrays_are_leaves():
    def create_objective(a, b):
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

    assert total(create_objective(1, 0)) == 2 + 10
    assert total(create_objective(5, 0)) == 10 + 10
    assert len(traces) == 1
    slopes = jax.grad(total)(create_objective(1, 1))
    assert slopes.terms["l1"].weight == 2
    assert slopes.terms["seg"].weight["loss_seg"] == pytest.approx(LOG2)
    assert slopes.terms["l2"].weight == 2.0  # not a leaf


def test_a_schedule_may_be_a_pytree():
    schedule = jax.tree_util.Partial(lambda slope, step: slope * step, jnp.float32(2))
    objective = LossModule({"l1": LossTerm(L1, schedule, PAIR)})
    assert jax.jit(lambda o: o(OUTPUTS, BATCH, step=3)[0])(objective) == 12


def test_a_dict_of_weights_for_a_loss_that_returns_a_dict():
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


def test_half_precision_losses_are_weighted_in_float32():
    total, metrics = LossModule({"t": value_term(0.1)})({"value": jnp.bfloat16(1)}, {})
    assert total == metrics["t"] == np.float32(0.1)
    with enable_x64(True):
        outputs = {"value": jnp.float64(1)}
        assert LossModule({"t": value_term(0.1)})(outputs, {})[0] == np.float64(0.1)


@pytest.mark.parametrize("weight", [jnp.float32(2), {"a": jnp.float32(2), "b": 3.0}])
def test_transformations_may_replace_array_weights_by_anything(weight):
    if isinstance(weight, dict):
        term = LossTerm(lambda x: {"a": x, "b": x}, weight, {"x": pred_key()})
    else:
        term = LossTerm(identity, weight, {"x": pred_key()})
    objective = LossModule({"t": term})
    structure = jax.tree.structure(objective)
    for other in (True, None, 1.5, "label", np.float32(1)):
        replaced = jax.tree.map(lambda _, other=other: other, objective)
        assert jax.tree.structure(replaced, is_leaf=lambda x: x is None) == structure
    abstract = jax.eval_shape(lambda objective: objective, objective)
    assert jax.tree.leaves(abstract) == [jax.ShapeDtypeStruct((), jnp.float32)]
    compiled = jax.jit(lambda objective: objective(jnp.float32(1), {})[0]).lower(abstract).compile()
    assert compiled(objective) == (5 if isinstance(weight, dict) else 2)
    stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), objective)
    axes = jax.tree.map(lambda _: 0, stacked)
    totals = jax.vmap(lambda o: o(jnp.float32(1), {})[0], in_axes=(axes,))(stacked)
    assert totals.tolist() == ([5, 7] if isinstance(weight, dict) else [2, 4])


def test_a_weight_of_numpy_is_static():
    objective = LossModule({"l1": LossTerm(L1, np.array(2.0), PAIR)})
    assert jax.tree.leaves(objective) == []
    assert objective == LossModule({"l1": LossTerm(L1, 2.0, PAIR)})
    assert jax.jit(objective)(OUTPUTS, BATCH)[0] == 4


def test_a_weight_multiplies_a_loss_in_float32():
    assert weighted(jnp.float32(3), 2, None) == 6
    assert weighted(jnp.float32(3), lambda step: step + 1, 4) == 15
    assert weighted(jnp.bfloat16(1), 0.1, None) == np.float32(0.1)


def test_a_dict_of_weights_gives_1_to_the_other_losses():
    assert weights_by_path(2.0, ["a", "b"]) == {"a": 2.0, "b": 2.0}
    assert weights_by_path({"b": 2.0}, ["a", "b"]) == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(2.0, []), (jnp.float32(2), [2.0]), ({"a": jnp.float32(2), "b": 3.0}, [2.0])],
)
def test_a_weight_is_split_into_arrays_and_a_hashable_rest(weight, expected):
    is_array = which_are_arrays(weight)
    arrays, rest = split_arrays(weight, is_array)
    assert arrays == expected
    assert isinstance(hash(rest), int)
    assert join_arrays(rest, is_array, arrays) == weight
