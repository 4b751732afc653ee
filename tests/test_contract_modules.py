"""The promises of the modules, tested for every loss of ``cases.py``."""

import copy
import dataclasses
import functools
import inspect
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    CASES,
    HEADS,
    MASK,
    arrays,
    assert_trees_close,
    every_head,
    every_loss,
    every_loss_with_reducer,
    poisoned,
)
from terms import floats

import vis4d_jax_loss as vjl
from vis4d_jax_loss.base import HeadLoss


def copy_of(module):
    """An equal module, created again from its options."""
    return type(module)(**{f.name: getattr(module, f.name) for f in dataclasses.fields(module)})


def required_options(module):
    """The options of a module that have no default."""
    fields = [f for f in dataclasses.fields(module) if f.default is dataclasses.MISSING]
    return {f.name: getattr(module, f.name) for f in fields}


def test_every_public_loss_has_a_row():
    losses = {name for name in vjl.__all__ if name.endswith(("_loss", "entropy"))}
    rows = [*CASES, *HEADS]
    assert {case.name for case in rows} == losses - {"identity_loss", "mean_loss", "sum_loss"}
    public = {name: getattr(vjl, name) for name in vjl.__all__}
    modules = {n for n, x in public.items() if inspect.isclass(x) and issubclass(x, HeadLoss)}
    assert {type(case.module).__name__ for case in rows} == modules - {"Loss"}
    with_reducer = {case.name for case in HEADS if isinstance(case.module, vjl.Loss)}
    assert with_reducer == {"box3d_uncertainty_loss"}


@every_loss_with_reducer
def test_module_equals_function(case):
    inputs, extra = arrays(case.inputs), case.extra
    if case.as_module is not None:
        expected = case.as_module(inputs, **extra)
    else:
        expected = case.function(**inputs, **case.options, reducer=case.module.reducer)
    assert_trees_close(jax.jit(case.module)(**inputs, **extra), expected, rtol=1e-5)


@every_head
def test_module_of_a_head_equals_its_function(case):
    inputs, kept = arrays(poisoned(case.inputs)), jax.tree.map(lambda x: x[MASK], case.inputs)
    losses = jax.jit(case.module)(**case.arguments(inputs, MASK))
    assert type(losses) is type(case(inputs))
    assert_trees_close(losses, case(arrays(kept)), rtol=1e-5)


@every_head
def test_a_head_is_a_term_whose_losses_have_their_names(case):
    inputs = case.arguments(arrays(case.inputs), jnp.asarray(MASK))
    term = vjl.LossTerm(case.module, 2.0, {name: vjl.data_key(name) for name in inputs})
    total, metrics = jax.jit(vjl.LossModule({"head": term}))({}, inputs)
    assert total == metrics["loss"]
    losses = case(arrays(case.inputs), MASK)
    named = losses if isinstance(losses, dict) else losses._asdict()
    expected = {f"head.{name}": 2 * x for name, x in named.items() if x is not None}
    assert floats(metrics) == floats(expected | {"loss": sum(expected.values())})


@every_loss_with_reducer
def test_modules_take_a_reducer_and_a_mask_in_the_call(case):
    inputs, kept = arrays(poisoned(case.inputs)), jax.tree.map(lambda x: x[MASK], case.inputs)
    extra_kept = {k: v[MASK] if np.ndim(v) else v for k, v in case.extra.items()}
    call = jax.jit(functools.partial(case.module, reducer=vjl.mean_loss))
    masked = call(**inputs, **case.extra, where=MASK)
    dropped = call(**arrays(kept), **extra_kept)
    assert_trees_close(masked, dropped, rtol=1e-5)


@every_loss
@pytest.mark.parametrize("static", [False, True])
def test_equal_modules_cause_one_trace(case, static):
    traces = []

    def step(module, inputs, extra):
        traces.append(module)
        return module(**inputs, **extra)

    step = jax.jit(step, static_argnums=0 if static else ())
    for _ in range(2):
        inputs = arrays(case.inputs)
        inputs = case.arguments(inputs) if case in HEADS else inputs
        step(copy_of(case.module), inputs, case.extra)
    assert len(traces) == 1


@every_loss
def test_modules_are_compared_and_hashed_by_value(case):
    for other in (pickle.loads(pickle.dumps(case.module)), copy.deepcopy(case.module)):
        assert other == case.module
        assert hash(other) == hash(case.module)
    assert jax.tree.leaves(case.module) == []
    changed = {"axis_name": "data"} if case in HEADS else {"reducer": jnp.max}
    assert case.module != type(case.module)(**required_options(case.module) | changed)
    (name,) = changed
    with pytest.raises(AttributeError, match=f"cannot assign to field '{name}'"):
        setattr(case.module, name, None)


@every_loss
def test_signatures_name_the_options(case):
    constructor = inspect.signature(type(case.module)).parameters
    call = set(inspect.signature(case.module).parameters)
    if case in HEADS:
        assert set(case.options) | {"axis_name"} <= set(constructor)
        assert constructor["axis_name"].kind is inspect.Parameter.KEYWORD_ONLY
        assert {case.mask, *case.inputs} <= call
        assert call & set(constructor) <= {"reducer"}
        assert ("reducer" in call) == isinstance(case.module, vjl.Loss)
    else:
        assert next(iter(constructor)) == "reducer"
        assert {"where", "reducer", *case.inputs} <= call


@every_loss
def test_a_module_shows_the_options_that_differ_from_their_defaults(case):
    kind, required = type(case.module), required_options(case.module)
    defaults = kind(**required)
    if not required:
        assert repr(defaults) == str(defaults) == f"{kind.__name__}()"
    shown = dict(re.findall(r"(\w+)=(\(.*?\)|[^,()]+)", repr(case.module)))
    fields = dataclasses.fields(case.module)
    options = {f.name: getattr(case.module, f.name) for f in fields}
    changed = {
        n: getattr(x, "__name__", repr(x))
        for n, x in options.items()
        if n in required or x != getattr(defaults, n)
    }
    assert shown == changed


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (vjl.L1Loss(), "L1Loss()"),
        (vjl.IoULoss(vjl.mean_loss, mode="square"), "IoULoss(reducer=mean_loss, mode='square')"),
        (vjl.IoULoss(vjl.identity_loss, "log", 1e-6), "IoULoss()"),
        (vjl.SmoothL1Loss(jnp.max, beta=0.5), "SmoothL1Loss(reducer=max, beta=0.5)"),
        (vjl.CrossEntropyLoss(vjl.sum_loss, [1, 2]), "CrossEntropyLoss(reducer=sum_loss, class_weights=(1, 2))"),
        (vjl.SegCrossEntropyLoss(class_axis=1), "SegCrossEntropyLoss(class_axis=1)"),
        (vjl.L2Loss(lambda loss: loss[0]), "L2Loss(reducer=<lambda>)"),
        (vjl.L2Loss(functools.partial(jnp.mean, axis=0)), "L2Loss(reducer=functools.partial(mean, axis=0))"),
        (
            vjl.L2Loss(vjl.OverAxis(vjl.mean_loss, "data")),
            "L2Loss(reducer=OverAxis(reducer=mean_loss, axis_name='data'))",
        ),
    ],
)  # fmt: skip
def test_a_module_is_shown_without_addresses(module, text):
    assert repr(module) == str(module) == text


CALLS = [type(case.module).__call__ for case in (*CASES, *HEADS)]
CALLS += [vjl.EmbeddingDistanceLoss.update_weight, vjl.LossModule.__call__, vjl.Loss.reduce]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__qualname__)
def test_a_call_documents_its_arguments_and_its_result(call):
    doc = inspect.getdoc(call)
    arguments = doc.partition("\nArgs:\n")[2].partition("\n\n")[0]
    documented = re.findall(r"^    (\w+): \S", arguments, re.MULTILINE)
    assert documented == [name for name in inspect.signature(call).parameters if name != "self"]
    assert re.search(r"^Returns:\n    \S", doc, re.MULTILINE)
