"""Options of modules: what becomes of them, and what the errors say."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from users import WithInit, X

from vis4d_jax_loss import (
    CrossEntropyLoss,
    IoULoss,
    L1Loss,
    Loss,
    MultiLevelSegLoss,
    RotationLoss,
    SmoothL1Loss,
    SumWeightedLoss,
    cross_entropy,
    l1_loss,
    mean_loss,
    multi_level_seg_loss,
)
from vis4d_jax_loss._checks import check_positive, check_reducer


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


MISTAKES = {
    "SmoothL1Loss: beta must be positive, got beta -1": lambda: SmoothL1Loss(beta=-1),
    "SmoothL1Loss: beta must be a number, got beta 'x'": lambda: SmoothL1Loss(beta="x"),
    "IoULoss: eps must be below 1, got eps 2.0": lambda: IoULoss(eps=2.0),
    "RotationLoss: num_bins must be positive, got num_bins 0": lambda: RotationLoss(num_bins=0),
    "RotationLoss: num_bins must be an integer, got num_bins 2.0": lambda: RotationLoss(
        num_bins=2.0
    ),
    "CrossEntropyLoss: class_axis must be an integer": lambda: CrossEntropyLoss(class_axis=1.0),
    "MultiLevelSegLoss: feature_idx must not repeat": lambda: MultiLevelSegLoss(feature_idx=(0, 0)),
    "MultiLevelSegLoss: weights must be a list": lambda: MultiLevelSegLoss(weights=1.0),
    "cross_entropy: class_weights must be numbers, got class_weights mean_loss": lambda: (
        cross_entropy(X, jnp.array([0]), mean_loss)
    ),
    "cross_entropy: class_axis must be an integer": lambda: cross_entropy(
        X, jnp.array([0]), class_axis=1.0
    ),
    "multi_level_seg_loss: outputs must be a list of levels": lambda: multi_level_seg_loss(
        jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 2, 2), int)
    ),
    "reducer: reducer must be a function of the losses, got reducer 'mean'": lambda: l1_loss(
        X, X, "mean"
    ),
    "mean_loss: losses must be real numbers, got loss complex64": lambda: mean_loss(X * 1j),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_each_option_says_what_is_wrong_with_it(text):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(text)}"):
        MISTAKES[text]()
