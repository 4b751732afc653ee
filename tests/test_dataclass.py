"""The ways in which users write dataclasses, as losses of their own."""

import copy
import dataclasses
import functools
import inspect
import pickle
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from users import (
    QuantileLoss,
    SowingModel,
    WithInit,
    X,
    snapshot,
)

from vis4d_jax_loss import (
    IoULoss,
    L1Loss,
    Loss,
    mean_loss,
)


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
