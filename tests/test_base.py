"""One class for NNX, Linen and plain functions, and losses that a user writes."""

import copy
import dataclasses
import functools
import inspect
import pickle
import re
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_text import raises
from flax import nnx

from vis4d_jax_loss import (
    CrossEntropyLoss,
    IoULoss,
    L1Loss,
    Loss,
    MultiLevelSegLoss,
    SmoothL1Loss,
    SumWeightedLoss,
    mean_loss,
    sum_loss,
)
from vis4d_jax_loss._checks import check_positive, check_reducer

X = jnp.array([[1.0, 2.0]])


class HingeLoss(Loss):
    margin: float = 1.0

    def __call__(self, pred, target, *, reducer=None, where=None):
        return self.reduce(jax.nn.relu(self.margin - pred * target), where, reducer)


PRED, TARGET = jnp.array([0.25, 2.0, jnp.nan]), jnp.ones(3)  # losses 0.75, 0 and NaN
VALID = jnp.array([True, True, False])


class QuantileLoss(Loss):
    """As a user would write one."""

    quantile: float = 0.5

    def __call__(self, pred, target, *, reducer=None, where=None):
        error = target - pred
        losses = jnp.maximum(self.quantile * error, (self.quantile - 1) * error)
        return self.reduce(losses, where, reducer)


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


# What Flax writes into modules


class SowingLoss(Loss):
    """Keeps the largest error where Flax finds it."""

    margin: float = 0.0

    def __call__(self, pred, target, *, reducer=None, where=None):
        error = jnp.abs(pred - target) - self.margin
        self.sow(nnx.Intermediate, "worst", jnp.max(error))
        return self.reduce(error, where, reducer)


class SowingModel(nnx.Module):
    def __init__(self, loss, rngs):
        self.layer, self.loss = nnx.Linear(2, 2, rngs=rngs), loss

    def __call__(self, x):
        return self.loss(self.layer(x), x)


def snapshot(loss):
    leaves, treedef = jax.tree.flatten(loss)
    return loss, hash(loss), leaves, treedef, repr(loss), pickle.dumps(loss)


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


@pytest.mark.skipif(not hasattr(nnx, "capture"), reason="this Flax has no nnx.capture")
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


@pytest.mark.skipif(not hasattr(nnx, "capture"), reason="this Flax has no nnx.capture")
@pytest.mark.parametrize("graph", [True, False])
def test_capture_collects_what_nested_losses_sow(graph):
    model = Holder(Nested())
    run = nnx.capture(nnx.jit(lambda model, x: model(x), graph=graph), nnx.Intermediate)
    for x in (X, 2 * X):
        sown = run(model, x)[1]["loss"]
        (inner,), (outer,) = jax.tree.leaves(sown["inner"]), jax.tree.leaves(sown["more"])
        assert inner == outer + 1 == jnp.max(x) - 1
    assert jax.tree.leaves(model.loss) == []


@pytest.mark.skipif(not hasattr(nnx, "capture"), reason="this Flax has no nnx.capture")
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


# Habits of those who write dataclasses


class SumOfLosses(Loss):
    parts: tuple[Loss, ...] = (L1Loss(jnp.sum), QuantileLoss(jnp.sum))

    def __call__(self, pred, target):
        return sum(part(pred, target) for part in self.parts)


@pytest.mark.parametrize("kind", [tuple, list])
def test_losses_in_a_tuple_or_list_are_an_option(kind):
    loss = SumOfLosses(parts=kind([L1Loss(mean_loss), QuantileLoss()]))
    assert loss == SumOfLosses(parts=(L1Loss(mean_loss), QuantileLoss())) != SumOfLosses()
    assert jax.tree.leaves(loss) == []
    assert nnx.state(SowingModel(loss, nnx.Rngs(0))).keys() == {"layer"}
    graph, state = nnx.split(loss)
    assert (
        nnx.merge(graph, state) == pickle.loads(pickle.dumps(loss)) == copy.deepcopy(loss) == loss
    )
    assert jax.jit(SumOfLosses())(jnp.ones(2), jnp.zeros(2)) == 3
    assert "parts" in nnx.tabulate(SowingModel(SumOfLosses(), nnx.Rngs(0)), X)


class KeywordOnly(Loss, kw_only=True):
    scale: float

    def __call__(self, pred):
        return self.reduce(self.scale * pred)


@dataclasses.dataclass(frozen=True)
class DecoratedAgain(Loss):
    scale: float = 1.0
    names: tuple[str, ...] = dataclasses.field(default_factory=tuple)
    note: str = dataclasses.field(default="", compare=False, kw_only=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoratedKeywordOnly(Loss):
    scale: float
    offset: float = dataclasses.field(default=0.0)
    notes: Sequence[str] = dataclasses.field(default_factory=list, compare=False, repr=False)


class WithInit(Loss):
    def __init__(self, scale, reducer=mean_loss):
        super().__init__(reducer)
        self.scale = [scale, scale]


class WithInitAndField(Loss):
    scale: float

    def __init__(self, half):
        self.scale = 2 * half  # super().__init__() is not called: the reducer is the default


class WithoutSuper(Loss):
    weights: Sequence[float] = (1.0,)

    def __post_init__(self):
        self.doubled = tuple(2 * w for w in self.weights)


class WithInitVar(Loss):
    scale: float = dataclasses.field(init=False)
    half: dataclasses.InitVar[float] = 1.0

    def __post_init__(self, half):
        object.__setattr__(self, "scale", 2 * half)


class QuantileWithOffset(QuantileLoss):
    offset: float = 0.0


class BoxLossWithOffset(IoULoss):
    offset: float = dataclasses.field(default=0.0, kw_only=True)


HABITS = {
    "kw_only class": (lambda x: KeywordOnly(scale=x), "KeywordOnly(scale=2.0)"),
    "kw_only class and reducer": (
        lambda x: KeywordOnly(reducer=mean_loss, scale=x),
        "KeywordOnly(reducer=mean_loss, scale=2.0)",
    ),
    "second decorator": (lambda x: DecoratedAgain(scale=x), "DecoratedAgain(scale=2.0, names=())"),
    "second decorator, kw_only": (
        lambda x: DecoratedKeywordOnly(scale=x),
        "DecoratedKeywordOnly(scale=2.0)",
    ),
    "__init__": (WithInit, "WithInit(reducer=mean_loss, scale=(2.0, 2.0))"),
    "__init__ that sets a field": (
        lambda x: WithInitAndField(x / 2),
        "WithInitAndField(scale=2.0)",
    ),
    "__post_init__ without super": (
        lambda x: WithoutSuper(weights=[x]),
        "WithoutSuper(weights=(2.0,), doubled=(4.0,))",
    ),
    "InitVar": (lambda x: WithInitVar(half=x / 2), "WithInitVar(scale=2.0)"),
    "field on a subclass": (
        lambda x: QuantileWithOffset(offset=x),
        "QuantileWithOffset(offset=2.0)",
    ),
    "field on a subclass of ours": (
        lambda x: BoxLossWithOffset(mean_loss, "square", offset=x),
        "BoxLossWithOffset(reducer=mean_loss, mode='square', offset=2.0)",
    ),
}


@pytest.mark.parametrize(("create", "text"), HABITS.values(), ids=HABITS)
def test_dataclass_habits_work(create, text):
    loss, equal, other = create(2.0), create(2.0), create(3.0)
    assert repr(loss) == text
    assert loss == equal != other
    assert snapshot(loss)[1:] == snapshot(equal)[1:]
    assert jax.tree.structure(loss) != jax.tree.structure(other)
    graph, state = nnx.split(loss)
    leaves, treedef = jax.tree.flatten(loss)
    copies = (
        nnx.merge(graph, state),
        treedef.unflatten(leaves),
        copy.copy(loss),
        copy.deepcopy(loss),
    )
    assert all(repr(c) == text and c == loss for c in copies)
    assert repr(pickle.loads(pickle.dumps(loss))) == text
    for name in ("scale", "offset", "weights"):
        if hasattr(loss, name):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(loss, name, 1.0)


def test_a_second_decorator_reads_the_class_as_it_was_written():
    options = inspect.signature(DecoratedKeywordOnly).parameters
    assert list(options) == ["reducer", "scale", "offset", "notes"]
    assert DecoratedKeywordOnly(scale=1.0, notes=["a"]) == DecoratedKeywordOnly(scale=1.0)
    assert DecoratedAgain(mean_loss, 1.0, ["a"]).names == ("a",)
    assert DecoratedAgain(note="a") == DecoratedAgain(note="b")
    assert dataclasses.replace(DecoratedAgain(note="a"), scale=3.0).note == "a"
    with pytest.raises(TypeError, match="positional"):
        DecoratedAgain(mean_loss, 1.0, (), "note")
    with pytest.raises(TypeError, match="positional"):
        DecoratedKeywordOnly(mean_loss, 1.0)


def test_a_decorator_that_is_not_frozen_says_what_to_write():
    with pytest.raises(
        TypeError, match="C: a loss is frozen, and a dataclass already, got @dataclass with"
    ):

        @dataclasses.dataclass
        class C(Loss):
            scale: float = 1.0


def test_a_forgotten_option_is_named():
    class Forgetful(Loss):
        scale: float

        def __init__(self):
            pass

    with pytest.raises(TypeError, match="Forgetful: __init__ must set every option, got no scale"):
        Forgetful()


class Cached(Loss):
    margin: float = 1.0

    @functools.cached_property
    def twice(self):
        return 2 * self.margin

    def __post_init__(self):
        assert self.twice == 2 * self.margin


def test_a_cached_property_changes_nothing():
    loss, other = Cached(), Cached()
    del other.twice
    assert loss.twice == 2
    assert snapshot(loss) == snapshot(other)
    assert nnx.split(loss)[0] == nnx.split(other)[0]


# Options


class Weighted(Loss):
    weights: Any = (1.0,)
    scale: float = 1.0


def test_numpy_scalars_become_python_numbers():
    loss = Weighted(weights=(np.float32(2), [np.int64(3)]), scale=np.float64(0.5))
    assert loss.weights == (2.0, (3,))
    kinds = [type(x) for x in (loss.weights[0], loss.weights[1][0], loss.scale)]
    assert kinds == [float, int, float]
    assert type(Weighted(scale=jnp.float32(0.5)).scale) is float
    assert type(Weighted(scale=np.bool_(True)).scale) is bool


REDUCERS = {
    "'mean'": ("mean", "Use mean_loss, sum_loss or jnp.mean; pass other options by name."),
    "None": (None, "Use mean_loss, or identity_loss to keep one loss per element."),
    "the class SumWeightedLoss": (SumWeightedLoss, "Pass a function such as mean_loss."),
    "0.5": (0.5, "Use mean_loss, sum_loss or jnp.mean; pass other options by name."),
    "(2, 3)": (jnp.ones((2, 3)), "Create the module, then call it: "),
}


@pytest.mark.parametrize(("got", "reducer", "remedy"), [(k, *v) for k, v in REDUCERS.items()])
def test_a_wrong_reducer_is_named_when_the_module_is_made(got, reducer, remedy):
    text = f"L1Loss: reducer must be a function of the losses, got reducer {got}. {remedy}"
    with pytest.raises(TypeError, match=re.escape(text)):
        L1Loss(reducer)
    with pytest.raises(TypeError, match=re.escape(text.replace("L1Loss", "WithInit"))):
        WithInit(1.0, reducer)


def test_a_class_called_with_arrays_says_how_to_call_it():
    with pytest.raises(TypeError, match=r"call it: CrossEntropyLoss\(\)\(output, target\)\."):
        CrossEntropyLoss(X, jnp.array([0]))
    with pytest.raises(TypeError, match=r"call it: IoULoss\(\)\(pred, target\)\."):
        IoULoss(np.zeros((2, 4)), np.ones((2, 4)))
    with pytest.raises(
        TypeError, match=r"got reducer list.*MultiLevelSegLoss\(\)\(outputs, target\)\."
    ):
        MultiLevelSegLoss([X], X)
    with pytest.raises(TypeError, match=r"call it: L1Loss\(\)\(pred, target\)\."):
        jax.jit(L1Loss)(X, X)


def test_a_function_says_where_its_weights_belong():
    text = "l1_loss: reducer must be a function of the losses, got reducer (1, 2). "
    text += "Weights belong in reducer=SumWeightedLoss(weight, avg_factor)."
    with pytest.raises(TypeError, match=re.escape(text)):
        check_reducer("l1_loss", X)


UNHASHABLE = {
    "dict": (
        lambda x: {"a": 1.0},
        "got weights dict. Use a tuple of pairs, or flax.core.FrozenDict.",
    ),
    "nested dict": (
        lambda x: [{}],
        "got weights dict. Use a tuple of pairs, or flax.core.FrozenDict.",
    ),
    "set": (lambda x: {1.0}, "got weights set. Use a frozenset or a tuple."),
    "key": (lambda x: jax.random.key(0), "got weights key<fry>[]. Pass it in the call."),
    "parameter": (
        lambda x: nnx.Param(x),
        "got weights Param. Keep it in the model, and pass its value in the call.",
    ),
    "reducer": (
        lambda x: SumWeightedLoss(x, 1.0),
        "got weights SumWeightedLoss. Pass it in the call.",
    ),
    "traced": (lambda x: x, "got weights float32[1,2]. Pass it in the call."),
    "list of traced": (lambda x: [1.0, [x[0]]], "got weights float32[2]. Pass it in the call."),
}


@pytest.mark.parametrize(("create", "text"), UNHASHABLE.values(), ids=UNHASHABLE)
def test_an_option_that_is_not_hashable_says_what_to_do(create, text):
    rule = "Weighted: the option weights must be hashable, and no array, "
    with pytest.raises(TypeError, match=f"^{re.escape(rule + text)}"):
        jax.jit(lambda x: Weighted(weights=create(x)) and x)(X)


def test_a_traced_option_names_the_function_that_takes_it():
    text = r"class_weights float32\[2\]\. Pass it to the function: cross_entropy\(\.\.\., class_weights=\.\.\.\)\."
    with pytest.raises(TypeError, match=text):
        jax.jit(lambda w: CrossEntropyLoss(class_weights=w)(X, jnp.array([0])))(jnp.ones(2))
    with pytest.raises(TypeError, match=text):
        jax.jit(lambda w: CrossEntropyLoss(class_weights=[*w])(X, jnp.array([0])))(jnp.ones((2, 2)))
    text = r"beta float32\[\]\. Pass it to the function: smooth_l1_loss\(\.\.\., beta=\.\.\.\)\."
    with pytest.raises(TypeError, match=text):
        jax.jit(lambda beta: SmoothL1Loss(beta=beta)(X, X))(1.0)


def test_a_reducer_of_arrays_belongs_in_the_call():
    text = r"got reducer SumWeightedLoss\. Pass it in the call: IoULoss\(\)\(pred, target, reducer=\.\.\.\)\."
    with pytest.raises(TypeError, match=text):
        IoULoss(SumWeightedLoss(jnp.ones(2), 2.0))


def test_the_hook_for_options_runs_for_every_module():
    class Checked(Loss):
        scale: Any = 1.0

        def __post_init__(self):
            pass

        def _check_options(self):
            assert isinstance(self.scale, int | float | tuple)
            check_positive("Checked", scale=self.scale)

    assert Checked(scale=np.float32(2)).scale == 2
    with pytest.raises(ValueError, match="Checked: scale must be positive, got scale -1"):
        Checked(scale=-1)


def test_a_required_option_says_how_to_write_the_class():
    class Required(Loss):
        scale: float

    text = "Required: an option without a default must be keyword-only, because reducer has a default, got scale. "
    text += "Write class Required(Loss, kw_only=True)."
    with pytest.raises(TypeError, match=re.escape(text)):
        Required(scale=1.0)
