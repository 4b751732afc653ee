"""Arguments of a term's loss: pytrees of paths, constants, the mask of the call, optional keys."""

import dataclasses
import functools
import pickle
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_text import raises
from terms import BATCH, L1, L1_TERM, OUTPUTS, PAIR, floats, identity

import vis4d_jax_loss as vjl
from vis4d_jax_loss import LossModule, LossTerm, SumWeightedLoss, data_key, pred_key
from vis4d_jax_loss.composition.arguments import Call, InputTree, arguments_of

WEIGHTED = SumWeightedLoss(data_key("weight"), data_key("num_samples"))


class Both(NamedTuple):
    first: object
    second: object


def add(x):
    """Sum all numbers in a pytree."""
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(x))


@pytest.mark.parametrize(
    "tree",
    [
        [pred_key("x"), pred_key("y")],
        (pred_key("x"), data_key("y")),
        {"a": pred_key("x"), "b": {"c": [pred_key("y")]}},
        Both(pred_key("x"), (data_key("y"), None, 0)),
        [pred_key("x"), 10.0],
    ],
)
def test_an_input_may_be_a_pytree_of_paths(tree):
    seen = []

    def loss(x):
        seen.append(x)
        return add(x)

    objective = LossModule({"t": LossTerm(loss, inputs={"x": tree})})
    outputs = {"x": jnp.float32(1), "y": jnp.float32(10)}
    total, _ = jax.jit(objective)(outputs, {"y": jnp.float32(10)})
    assert total == 11
    kept = jax.tree.map(lambda _: 0, tree, is_leaf=lambda x: isinstance(x, vjl.InputPath))
    assert jax.tree.structure(seen[0]) == jax.tree.structure(kept)


def test_a_list_of_transforms_is_an_input():
    loss = vjl.OrthogonalTransformRegularizationLoss()
    term = LossTerm(loss, inputs={"transforms": [pred_key("t2"), pred_key("t3")]})
    outputs = {"t2": jnp.full((1, 2, 2), 2.0), "t3": jnp.full((2, 3, 3), 0.5)}
    expected = loss([outputs["t2"], outputs["t3"]])
    assert LossModule({"t": term})(outputs, {})[0] == expected


def test_weight_and_divisor_of_a_batch_reach_a_loss_in_its_reducer():
    inputs = PAIR | {"reducer": WEIGHTED, "where": data_key("valid")}
    step = jax.jit(jax.value_and_grad(LossModule({"t": LossTerm(L1, 3.0, inputs)}), has_aux=True))
    batch = BATCH | {"weight": jnp.array([2.0, jnp.nan]), "valid": jnp.array([True, False])}
    for divisor in (4.0, 0.0):
        (total, _), gradient = step(OUTPUTS, batch | {"num_samples": divisor})
        assert total == (3 * 2 * 1 / 4 if divisor else 0)
        np.testing.assert_array_equal(gradient["x"], [1.5 if divisor else 0, 0])
    assert step._cache_size() == 1


def test_weight_and_divisor_of_the_multi_positive_loss_are_inputs():
    loss = vjl.MultiPosCrossEntropyLoss()
    names = ("target", "weight", "avg_factor")
    term = LossTerm(loss, inputs={"pred": pred_key()} | {name: data_key(name) for name in names})
    pred = jnp.array([[3.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    target = jnp.array([[1, 0, 0], [0, 1, 0]])
    batch = {"target": target, "weight": jnp.array([1.0, 0.5]), "avg_factor": 1.5}
    assert LossModule({"t": term})(pred, batch)[0] == pytest.approx(float(loss(pred, **batch)))


def test_a_constant_may_be_an_input():
    inputs = PAIR | {"beta": 0.5, "reducer": vjl.mean_loss, "where": None}
    total, _ = LossModule({"t": LossTerm(vjl.smooth_l1_loss, inputs=inputs)})(OUTPUTS, BATCH)
    assert total == vjl.smooth_l1_loss(OUTPUTS["x"], BATCH["x"], vjl.mean_loss, 0.5)
    divided = PAIR | {"reducer": SumWeightedLoss(1.0, data_key("n"))}
    assert LossModule({"t": LossTerm(L1, inputs=divided)})(OUTPUTS, BATCH | {"n": 8})[0] == 0.5


def test_a_scalar_of_numpy_becomes_a_number():
    term = LossTerm(vjl.smooth_l1_loss, inputs=PAIR | {"beta": np.float64(0.5), "where": None})
    assert type(term.inputs["beta"]) is float


def weighted_term(**options):
    inputs = PAIR | {"reducer": SumWeightedLoss(data_key("w"), data_key("n"), **options)}
    return LossTerm(L1, 2.0, inputs)


def test_a_term_with_a_pytree_of_paths_is_a_value():
    term = weighted_term()
    assert term == weighted_term()
    assert hash(term) == hash(weighted_term())
    assert term != weighted_term(axis_name="data")
    assert LossModule({"t": term}) != LossModule({"t": L1_TERM})
    assert pickle.loads(pickle.dumps(LossModule({"t": term}))) == LossModule({"t": term})
    assert jax.tree.leaves(term) == []
    assert dataclasses.replace(term, weight=3.0).inputs == term.inputs
    assert "data" in repr(weighted_term(axis_name="data"))


def test_fresh_equal_objectives_with_pytrees_are_traced_once():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def step(objective, batch):
        traces.append(1)
        return objective(OUTPUTS, batch)[0]

    batch = BATCH | {"w": jnp.ones(2), "n": jnp.float32(2)}
    totals = [step(LossModule({"t": weighted_term()}), batch) for _ in range(3)]
    assert totals == [4, 4, 4]
    assert len(traces) == 1


def test_a_nested_objective_may_get_outputs_from_several_places():
    inner = LossModule({"l1": L1_TERM})
    inputs = {"outputs": {"x": pred_key("head.x")}, "batch": {"x": pred_key("teacher")}}
    outputs = {"head": {"x": jnp.ones(2)}, "teacher": jnp.full(2, 4.0)}
    assert LossModule({"t": LossTerm(inner, inputs=inputs)})(outputs, {})[0] == 3


A_PATH = "must be a pred_key or a data_key"
REMEDY = 'Write inputs={"pred": pred_key("boxes"), "target": data_key("boxes")}.'
ARRAY = "Put the array into the batch and name it by data_key, or bind it with functools.partial."


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("pred", [pred_key("x"), "y"], f"the input \"pred\"[1] {A_PATH}, got str 'y'. {REMEDY}"),
        ("pred", {"a": "y"}, f"the input \"pred\"['a'] {A_PATH}, got str 'y'. {REMEDY}"),
        ("pred", abs, f'the input "pred" {A_PATH}, got builtin_function_or_method. {REMEDY}'),
        ("pred", pred_key, f'the input "pred" {A_PATH}, got function. {REMEDY}'),
        (
            "reducer",
            SumWeightedLoss(jnp.ones(2), data_key("n")),
            f'the input "reducer".weight {A_PATH}, got ArrayImpl. {ARRAY}',
        ),
        (
            "reducer",
            SumWeightedLoss(data_key("w"), np.ones(2)),
            f'the input "reducer".avg_factor {A_PATH}, got ndarray. {ARRAY}',
        ),
    ],
)
def test_the_error_for_a_wrong_input_names_its_place(argument, value, message):
    inputs = {"pred": pred_key("x"), "target": data_key("x"), argument: value}
    with raises(TypeError, f"LossTerm: {message}"):
        LossTerm(L1, inputs=inputs)


def test_the_error_for_a_missing_key_names_its_place():
    objective = LossModule({"t": LossTerm(L1, inputs=PAIR | {"reducer": WEIGHTED})})
    message = (
        'LossModule: inputs must name what exists, and "num_samples" does not, '
        'got batch.num_samples. Available: "x", "mask", "weight".'
    )
    with raises(ValueError, message) as caught:
        objective(OUTPUTS, BATCH | {"weight": 1.0})
    assert caught.value.__notes__ == [
        'Raised for the input "reducer".avg_factor.',
        'Raised in the term "t" of a LossModule.',
    ]


# The mask of the call.


def no_mask(x):
    return jnp.mean(x)


WHERE = jnp.array([True, False])


@pytest.mark.parametrize(
    "loss", [no_mask, lambda x, **unused: jnp.mean(x), functools.partial(no_mask)]
)
def test_a_mask_of_the_call_for_a_loss_without_where_is_an_error(loss):
    name = getattr(loss, "__name__", "no_mask")
    inner = LossModule({"plain": LossTerm(loss, inputs={"x": pred_key("x")})})
    message = (
        f"LossModule: with where=, the loss of each term must have an argument where, got {name} in the "
        'term "plain". Give the loss an argument where. If its inputs contain no padding, add '
        '"where": None to the inputs of the term.'
    )
    for objective in (inner, LossModule({"outer": inner})):
        assert objective(OUTPUTS, BATCH)[0] == 2
        with raises(ValueError, message):
            jax.jit(objective)(OUTPUTS, BATCH, where=WHERE)


def test_a_term_opts_out_of_the_mask_of_the_call():
    x = {"x": pred_key("x")}
    terms = {
        "masked": L1_TERM,
        "without": LossTerm(no_mask, inputs=x | {"where": None}),
        "with": LossTerm(L1, inputs=PAIR | {"where": None}),
        "required": LossTerm(lambda x, where: jnp.mean(x, where=where), inputs=x | {"where": None}),
        "jax": LossTerm(jnp.mean, inputs={"a": pred_key("x"), "where": None}),
        "nested": LossTerm(LossModule({"l1": L1_TERM}), inputs={"where": None}),
    }
    _, metrics = LossModule(terms)(OUTPUTS, BATCH, where=WHERE)
    unmasked = dict.fromkeys(
        ["without", "with", "required", "jax", "nested.l1", "nested.loss"], 2.0
    )
    assert floats(metrics) == {"masked": 1.0, "loss": 11.0} | unmasked
    assert LossModule(terms)(OUTPUTS, BATCH)[1]["without"] == 2


def test_keywords_that_are_given_a_mask_take_the_mask_of_the_call():
    def forward(**inputs):
        return L1(**inputs)

    term = LossTerm(forward, inputs=PAIR | {"where": data_key("valid")})
    batch = BATCH | {"valid": jnp.array([True, True])}
    assert LossModule({"t": term})(OUTPUTS, batch, where=WHERE)[0] == 1


def test_an_optax_loss_with_the_mask_of_the_call_may_opt_out():
    inputs = {"logits": pred_key(), "labels": data_key(), "where": None}
    loss = optax.losses.ranking_softmax_loss
    square = jnp.ones((3, 3))
    objective = LossModule({"r": LossTerm(loss, 1.0, inputs)})
    assert objective(square, square, where=jnp.ones(3, bool))[0] == loss(square, square)


# Keys that some batches lack.


def test_a_key_that_some_batches_lack_may_be_none():
    objective = LossModule({"l1": LossTerm(L1, inputs=PAIR | {"where": data_key("valid")})})
    for valid, shared, expected in [
        (None, None, 2),
        (WHERE, None, 1),
        (None, WHERE, 1),
        (~WHERE, WHERE, 0),
    ]:
        assert jax.jit(objective)(OUTPUTS, BATCH | {"valid": valid}, where=shared)[0] == expected
    weighted = LossTerm(
        vjl.EmbeddingDistanceLoss(),
        inputs={"pred": pred_key(), "target": data_key("target"), "weight": data_key("weight")},
    )
    pred, target = jnp.array([[0.5, 0.5]]), jnp.array([[1, 0]])
    total, _ = LossModule({"d": weighted})(pred, {"target": target, "weight": None})
    assert total == weighted.loss(pred, target)


def test_arguments_are_found_in_outputs_and_batch():
    call = Call({"x": 1.0}, {"y": 2.0}, where=WHERE)
    inputs = LossTerm(lambda x, where: 0.0, inputs={"x": [pred_key("x"), data_key("y"), 3]}).inputs
    assert isinstance(inputs["x"], InputTree)
    arguments = arguments_of(lambda x, where: 0.0, inputs, "t", call)
    assert arguments["x"] == [1.0, 2.0, 3]
    assert arguments["where"] is WHERE
    assert arguments_of(identity, {"x": pred_key("x")}, "t", Call({"x": 1.0}, {})) == {"x": 1.0}
