"""Every mistake in an objective is one clear error, compared as a whole."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax
import pytest
from error_text import raises
from flax import nnx
from terms import BATCH, L1, L1_TERM, OUTPUTS, PAIR, SEG, SEG_TERM, call, identity, value_term

import vis4d_jax_loss as vjl
from vis4d_jax_loss import LossModule, LossTerm, data_key, pred_key
from vis4d_jax_loss.composition import errors

SEG_LOSS = vjl.SegCrossEntropyLoss()
A_WEIGHT = "LossTerm: a weight must be a number, a scalar array, a schedule, or a dict of them"
A_LOSS = "LossModule: a loss must be a numeric scalar, or a dict or named tuple of scalars"
EXCLUDE = "LossModule: exclude must name terms, or losses that they return"
WEIGHT_NAMES = "LossTerm: a dict of weights must name losses that the term returns"
UNIQUE = "LossModule: each metric must have a unique name"
EXISTS = "LossModule: inputs must name what exists, and"


def scaled_noise(x, key):
    return x * jax.random.uniform(key)


def term_of(loss, weight=1.0):
    """One term, whose loss is a function of the output x."""
    return {"t": LossTerm(loss, weight, {"x": pred_key("x")})}


# fmt: off
# Terms, their names, and the names of their metrics.
TERMS = [
    (lambda: LossModule([L1_TERM, SEG_TERM]), TypeError,
     'LossModule: terms must have names, got LossTerm. Write LossModule({"box": LossTerm(...), ...}).'),
    (lambda: LossModule(L1_TERM), TypeError,
     'LossModule: terms must have names, got LossTerm. Write LossModule({"box": LossTerm(...), ...}).'),
    (lambda: LossModule({}), ValueError,
     "LossModule: there must be at least one term, got none."),
    (lambda: LossModule({"a": {"b": L1_TERM}}), TypeError,
     'LossModule: the term "a" must be a LossTerm or a LossModule, got dict. Wrap it: LossModule({...}).'),
    (lambda: call(term_of(lambda x: {"a.b": x.sum(), "a": {"b": x.sum()}})), ValueError,
     f'{UNIQUE}, got "a.b" twice. Rename one of the terms.'),
    (lambda: call(term_of(lambda x: {1: x.sum(), "1": x.sum()})), ValueError,
     f'{UNIQUE}, got "1" twice. Rename one of the terms.'),
    (lambda: LossModule([("a", L1_TERM), ("b", L1_TERM), ("a", SEG_TERM)]), ValueError,
     'LossModule: each term must have a unique name, got "a" 2 times. The names are "a", "b", "a".'),
    (lambda: LossModule({"loss": L1_TERM}), ValueError,
     "LossModule: a term needs a name other than \"loss\", which is the total, got 'loss'."),
    (lambda: LossModule({"": L1_TERM}), ValueError,
     "LossModule: a term needs a name other than \"loss\", which is the total, got ''."),
    (lambda: LossModule({"l1": L1}), TypeError,
     'LossModule: the term "l1" must be a LossTerm or a LossModule, got L1Loss. Wrap it: LossTerm(loss, inputs={...}) says what to call it with.'),
    (lambda: call({"seg": SEG_TERM, "seg.loss_seg": L1_TERM}), ValueError,
     f'{UNIQUE}, got "seg.loss_seg" twice. Rename one of the terms.'),
    (lambda: call({"l1": L1_TERM, "seg": SEG_TERM}, exclude=["l2"]), ValueError,
     f'{EXCLUDE}, got "l2". Did you mean "l1"? Available: "l1", "seg", "seg.loss_seg".'),
    (lambda: call({"seg": SEG_TERM}, exclude=["seg.loss"]), ValueError,
     f'{EXCLUDE}, got "seg.loss". Did you mean "seg.loss_seg"? Available: "seg", "seg.loss_seg".'),
    (lambda: call({"m": LossModule({"l1": L1_TERM})}, exclude=["m.loss"]), ValueError,
     f'{EXCLUDE}, got "m.loss". Did you mean "m.l1"? Available: "m", "m.l1".'),
]
# Paths, inputs, and the key.
INPUTS = [
    (lambda: call({"d": LossTerm(scaled_noise, 1.0, {"x": pred_key("x")})}), ValueError,
     "LossModule: the loss needs key, got None. Call objective(outputs, batch, key=key), or add it to inputs."),
    (lambda: pred_key(0), TypeError,
     'pred_key: a path must be a string, got int. Write it as in "boxes.0".'),
    (lambda: data_key("boxes."), ValueError,
     'data_key: a path must not have empty parts, got "boxes.".'),
    (lambda: call({"t": LossTerm(identity, 1.0, {"x": pred_key("a.b")})}, {"a": None}, {}), ValueError,
     f'{EXISTS} "b" does not, got outputs.a.b. The path leads to None before that.'),
    (lambda: call({"t": LossTerm(identity, 1.0, {"x": pred_key("logit")})}), ValueError,
     f'{EXISTS} "logit" does not, got outputs.logit. Did you mean "logits"? Available: "x", "logits".'),
    (lambda: call({"t": LossTerm(identity, 1.0, {"x": data_key("a.c")})}, {}, {"a": {}}), ValueError,
     f'{EXISTS} "c" does not, got batch.a.c. Available: nothing.'),
    (lambda: call({"t": LossTerm(identity, 1.0, {"x": pred_key("x.T")})}), ValueError,
     f'{EXISTS} "T" does not, got outputs.x.T. An array of shape (2,) has no parts.'),
    (lambda: call({"t": value_term()}, SimpleNamespace(logits=1, _private=2), {}), ValueError,
     f'{EXISTS} "value" does not, got outputs.value. Available: "logits".'),
    (lambda: LossTerm(L1, inputs={"pred": pred_key("x"), "targets": data_key("x")}), ValueError,
     'LossTerm: inputs must name arguments of L1Loss, got "targets". Did you mean "target"? Available: "pred", "target", "reducer", "where".'),
    (lambda: LossTerm(L1, inputs={"pred": pred_key("x")}), ValueError,
     'LossTerm: inputs must name the source of the argument "target" of L1Loss, got "pred". Add "target": pred_key(...) or data_key(...).'),
    (lambda: LossTerm(lambda x, /: x, inputs={}), ValueError,
     'LossTerm: inputs must name the source of the argument "x" of <lambda>, got nothing. The argument is positional only: wrap the loss in a lambda.'),
    (lambda: LossTerm(L1, inputs={"pred": "x", "target": data_key("x")}), TypeError,
     "LossTerm: the input \"pred\" must be a pred_key or a data_key, got str 'x'. Write inputs={\"pred\": pred_key(\"boxes\"), \"target\": data_key(\"boxes\")}."),
    (lambda: LossTerm(L1, inputs=["pred"]), TypeError,
     'LossTerm: inputs must be a dict, got list. Write inputs={"pred": pred_key("boxes"), "target": data_key("boxes")}.'),
]
# Weights.
WEIGHTS = [
    (lambda: LossTerm(L1, PAIR), TypeError,
     "LossTerm: weight must not be a dict of paths, got a path. Paths belong in inputs: LossTerm(loss, inputs={...})."),
    (lambda: LossTerm(L1, {"b": {"c": 2.0}}, PAIR), TypeError,
     'LossTerm: a dict of weights must not be nested, got a dict under "b". Write the whole path: {"b.c": 2.0}.'),
    (lambda: LossTerm(L1, nnx.Param(jnp.float32(2)), PAIR), TypeError,
     f"{A_WEIGHT}, got Param. Pass its value, weight[...], and create the objective inside the step."),
    (lambda: LossTerm(L1, 1j, PAIR), TypeError,
     f"{A_WEIGHT}, got complex."),
    (lambda: call({"l1": LossTerm(L1, lambda step: step > 3, PAIR)}, step=jnp.int32(0)), TypeError,
     f"{A_WEIGHT}, got ArrayImpl."),
    (lambda: call({"l1": LossTerm(L1, lambda step: None, PAIR)}, step=0), TypeError,
     f"{A_WEIGHT}, got NoneType."),
    (lambda: hash(LossModule({"l1": LossTerm(L1, jnp.float32(1), PAIR)})), TypeError,
     "LossTerm: an objective whose weights are arrays has no hash, got an array. Pass it to the step as an argument that is not static."),
    (lambda: call({"seg": LossTerm(SEG_LOSS, {0: 2.0}, SEG)}), ValueError,
     f'{WEIGHT_NAMES}, got "0". Available: "loss_seg".'),
    (lambda: call({"seg": LossTerm(SEG_LOSS, {"seg.loss_seg": 2.0}, SEG)}), ValueError,
     f'{WEIGHT_NAMES}, got "seg.loss_seg". Did you mean "loss_seg"? Available: "loss_seg".'),
    (lambda: call({"l1": LossTerm(L1, {"l1": 2.0}, PAIR)}), ValueError,
     f'{WEIGHT_NAMES}, got "l1". The term returns a single loss: give it a single weight.'),
    (lambda: LossTerm(LossModule({"l1": L1_TERM}), {"l1": 2.0}), TypeError,
     "LossTerm: the weight of a LossModule must be one for all its terms, got dict. Its own terms have weights of their own."),
    (lambda: LossTerm(L1, "heavy", PAIR), TypeError,
     f"{A_WEIGHT}, got str 'heavy'."),
    (lambda: LossTerm(L1, True, PAIR), TypeError,
     f"{A_WEIGHT}, got bool."),
    (lambda: LossTerm(L1, jnp.ones(2), PAIR), ValueError,
     "LossTerm: the weight of a term must be a scalar, got weight (2,). Weights of single elements belong in SumWeightedLoss."),
    (lambda: call({"l1": LossTerm(L1, lambda step: jnp.ones(2), PAIR)}, step=0), ValueError,
     "LossTerm: the weight of a term must be a scalar, got weight (2,). Weights of single elements belong in SumWeightedLoss."),
    (lambda: call({"l1": LossTerm(L1, optax.constant_schedule(1.0), PAIR)}), ValueError,
     "LossModule: a schedule needs step, got None. Call objective(outputs, batch, step=step)."),
]
# Losses, and what they return.
RESULTS = [
    (lambda: LossTerm(vjl.L1Loss, 1.0, PAIR), TypeError,
     "LossTerm: loss must be an instance, got the class L1Loss. Write L1Loss(...)."),
    (lambda: call(term_of(lambda x: x.sum() * 1j)), TypeError,
     f"{A_LOSS}, got complex64."),
    (lambda: call(term_of(lambda x: {"": x.sum()})), ValueError,
     'LossModule: each loss that a term returns must have a name, got "".'),
    (lambda: LossTerm("l1"), TypeError,
     "LossTerm: loss must be callable, got str 'l1'."),
    (lambda: call({"l1": LossTerm(vjl.L1Loss(), 1.0, PAIR)}), ValueError,
     f"{A_LOSS}, got loss (2,). Give the loss a reducer, such as mean_loss."),
    (lambda: call(term_of(lambda x: {"a": x})), ValueError,
     f"{A_LOSS}, got a (2,). Give the loss a reducer, such as mean_loss."),
    (lambda: call(term_of(lambda x: (x.sum(), {}))), TypeError,
     f"{A_LOSS}, got tuple. Wrap it in a lambda that returns the loss alone."),
    (lambda: call(term_of(lambda x: None)), TypeError,
     f"{A_LOSS}, got NoneType."),
    (lambda: call(term_of(lambda x: {"a": {"b": "x"}})), TypeError,
     f"{A_LOSS}, got str 'x' under \"a.b\"."),
    (lambda: call(term_of(lambda x: x.sum() > 0)), TypeError,
     f"{A_LOSS}, got bool."),
]
# fmt: on


@pytest.mark.parametrize(("mistake", "kind", "message"), TERMS + INPUTS + WEIGHTS + RESULTS)
def test_each_mistake_is_one_clear_error(mistake, kind, message):
    with raises(kind, message):
        mistake()


def test_errors_are_raised_while_the_step_is_traced():
    objective = LossModule({"outer": LossModule({"l1": LossTerm(vjl.L1Loss(), 1.0, PAIR)})})
    message = f"{A_LOSS}, got loss (2,). Give the loss a reducer, such as mean_loss."
    with raises(ValueError, message) as caught:
        jax.jit(objective)(OUTPUTS, BATCH)
    assert caught.value.__notes__[:2] == [
        'Raised in the term "l1" of a LossModule.',
        'Raised in the term "outer" of a LossModule.',
    ]


def test_an_error_inside_a_loss_names_its_term():
    loss = vjl.EmbeddingDistanceLoss(hard_mining=False)
    term = LossTerm(loss, inputs={"pred": pred_key(), "target": data_key()})
    message = (
        "embedding_distance_loss: hard_mining=False needs key, got key None. "
        "Pass a jax.random key, a new one per step."
    )
    with raises(ValueError, message) as caught:
        LossModule({"distance": term})(jnp.ones((1, 2)), jnp.ones((1, 2)))
    assert caught.value.__notes__ == ['Raised in the term "distance" of a LossModule.']


def test_the_nearest_name_is_suggested():
    assert errors.available("maks", ["mask", "box"]) == (
        'Did you mean "mask"? Available: "mask", "box".'
    )
    assert errors.available("x", ["mask"]) == 'Available: "mask".'
    assert errors.available("x", []) == "Available: nothing."


def test_a_value_is_described_by_its_type():
    assert errors.kind_of(1.0) == "float"
    assert errors.kind_of("heavy") == "str 'heavy'"
