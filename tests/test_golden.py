"""Values and gradients recorded from vis4d 1.0.0 (torch 2.13, CPU), compared under jit.

Each case of ``golden/manifest.json`` names a function or class of the reference, its options, its
inputs, and the cotangents of its gradients. Arrays are stored once, as float32. The run in float64
casts them, so that both have the same ties. Images are NCHW, so ``class_axis`` is 1.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vis4d_jax_loss as vjl
from vis4d_jax_loss._numerics import enable_x64

FOLDER = Path(__file__).parent / "golden"
CASES = json.loads((FOLDER / "manifest.json").read_text())["cases"]
ARRAYS = dict(np.load(FOLDER / "arrays.npz"))
DOCS = (Path(__file__).parents[1] / "docs" / "from_vis4d.md").read_text()
TOLERANCE = {"f32": 1e-5, "f64": 1e-9}

# Intended differences: case -> the row of docs/from_vis4d.md that says why.
INTENDED_DIFFERENCES = {
    "p040": "`rotation_loss` with `identity_loss`",
    "p058": "vector `avg_factor`",
    "p103": "a level that is listed twice",
    "p138": "pair targets other than 0 and 1",
    "p139": "pair targets other than 0 and 1",
    "p140": "pair targets other than 0 and 1",
    "p168": "negative pair weight",
    "p171": "pair targets other than 0 and 1",
    "p172": "pair targets other than 0 and 1",
}
REDUCERS = {"identity": vjl.identity_loss, "mean": vjl.mean_loss, "sum": vjl.sum_loss}
CHANNELS_FIRST = {
    "cross_entropy",
    "CrossEntropyLoss",
    "SegCrossEntropyLoss",
    "MultiLevelSegLoss",
}


def load(key, tag):
    """An array (or list of arrays, or number) at the precision of the run."""
    if isinstance(key, list):
        return [load(k, tag) for k in key]
    if isinstance(key, dict):
        return key["value"]
    array = ARRAYS[key]
    if array.dtype.kind == "f":
        array = array.astype({"f32": np.float32, "f64": np.float64}[tag])
    return jnp.asarray(array)


def option(name, value, tag):
    if name == "reducer" and isinstance(value, str):
        return REDUCERS[value]
    if name == "reducer":
        parts = {k: option(k, v, tag) for k, v in value["weighted"].items()}
        return vjl.SumWeightedLoss(**parts)
    return load(value["array"], tag) if isinstance(value, dict) else value


def bind_objective(case, tag):
    """The reference names a term after its class, and a second one with two underscores before."""
    terms = []
    for term in case["ctor"]["losses"]:
        ctor = {k: option(k, v, tag) for k, v in term.get("ctor", {}).items()}
        layout = {"class_axis": 1} if term["loss"] in CHANNELS_FIRST else {}
        name = term.get("name", term["loss"])
        name = f"__{name}" if name in dict(terms) else name
        weight = term.get("weight", 1.0)
        if isinstance(weight, dict):
            weight = {k.removeprefix(f"{name}."): w for k, w in weight.items()}
        keys = {"prediction": vjl.pred_key, "data": vjl.data_key}
        inputs = {k: keys[source](path) for k, (source, path) in term["connector"].items()}
        loss = getattr(vjl, term["loss"])(**ctor, **layout)
        terms.append((name, vjl.LossTerm(loss, weight, inputs)))
    objective = vjl.LossModule(terms, case["ctor"].get("exclude_attributes", ()))

    def call(**inputs):
        parts = {"prediction": {}, "data": {}}
        for name, value in inputs.items():
            source, _, path = name.partition(".")
            parts[source][path] = value
        total, metrics = objective(parts["prediction"], parts["data"])
        return {"total": total} | {f"metrics/{name}": value for name, value in metrics.items()}

    return call


def bind(case, tag):
    """What a case calls, as a function of its inputs alone."""
    if case["kind"] == "loss_module":
        return bind_objective(case, tag)
    fn, method = [*case["fn"].split("."), None][:2]
    target = getattr(vjl, fn)
    ctor = {k: option(k, v, tag) for k, v in case["ctor"].items()}
    call = {k: option(k, v, tag) for k, v in case["call"].items()}
    unbatched = fn in CHANNELS_FIRST and "unbatched" in case["tags"]
    layout = {"class_axis": 1} if fn in CHANNELS_FIRST and not unbatched else {}
    if not ctor.get("hard_mining", True):
        call["key"] = jax.random.key(0)  # no random choice changes these cases
    if case["kind"] == "function":
        return lambda **inputs: target(**inputs, **call, **layout)
    if isinstance(ctor.get("reducer"), vjl.SumWeightedLoss):
        call["reducer"] = ctor.pop("reducer")  # arrays belong in the call
    loss = target(**ctor, **layout)
    loss = getattr(loss, method) if method else loss
    return lambda **inputs: loss(**inputs, **call)


def named_outputs(case, result):
    if isinstance(result, tuple):
        result = dict(zip(("pred", "weight", "avg_factor"), result, strict=True))
    result = result if isinstance(result, dict) else {"out": result}
    assert sorted(result) == sorted(case["outputs"])
    return result


def entries(case, inputs):
    """The inputs that have a gradient; ``outputs/1`` is element 1 of a list."""
    for name in case["grad_wrt"]:
        key, _, index = name.partition("/")
        yield name, key, int(index) if index else None


def assert_close(actual, expected, tolerance, what):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, what
    error = np.abs(actual - expected) / (1 + np.abs(expected))
    assert np.all(error <= tolerance), f"{what}: off by {error.max()}"


def prepare(case, tag):
    """Value, outputs and gradients of a case as a function of its inputs, and those inputs."""
    fn = bind(case, tag)
    inputs = {k: load(v, tag) for k, v in case["inputs"].items()}
    cotangents = {k: load(v, tag) for k, v in case["cot"].items()}
    places = list(entries(case, inputs))
    wrt = {name: inputs[k] if i is None else inputs[k][i] for name, k, i in places}

    def weighted_sum(wrt, inputs):
        inputs = {k: list(v) if isinstance(v, list) else v for k, v in inputs.items()}
        for name, k, i in places:
            if i is None:
                inputs[k] = wrt[name]
            else:
                inputs[k][i] = wrt[name]
        out = named_outputs(case, fn(**inputs))
        return sum(jnp.sum(c * out[k]) for k, c in cotangents.items()) + 0.0, out

    return jax.value_and_grad(weighted_sum, has_aux=True), (wrt, inputs)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c["id"] not in INTENDED_DIFFERENCES],
    ids=lambda c: f"{c['id']}-{c['fn']}",
)
def test_value_and_gradient_equal_those_of_the_reference(case):
    with enable_x64(True):  # float32 stays float32
        steps, arguments = zip(*(prepare(case, tag) for tag in TOLERANCE), strict=True)
        # One program for both precisions is compiled in less time than two.
        both = jax.jit(lambda arguments: [f(*a) for f, a in zip(steps, arguments, strict=True)])
        results = both(arguments)

    for tag, ((_, outputs), gradients) in zip(TOLERANCE, results, strict=True):
        for name, key in case[tag]["out"].items():
            # The reference computes its orthogonal loss in float32, also for float64 inputs.
            loose = tag == "f64" and case["fn"].startswith("Orthogonal")
            assert_close(outputs[name], ARRAYS[key], 1e-6 if loose else TOLERANCE[tag], name)
        for name, key in case[tag]["grad"].items():
            assert gradients[name].dtype == {"f32": np.float32, "f64": np.float64}[tag]
            assert_close(gradients[name], ARRAYS[key], TOLERANCE[tag], f"gradient of {name}")
        # Without inputs that have a gradient, the loss may be a float32 zero.
        floats = [x for x in outputs.values() if x.dtype.kind == "f" and case["grad_wrt"]]
        assert all(x.dtype == {"f32": np.float32, "f64": np.float64}[tag] for x in floats)


def test_every_intended_difference_is_documented():
    assert len(CASES) == 199
    assert set(INTENDED_DIFFERENCES) <= {case["id"] for case in CASES}
    for reason in INTENDED_DIFFERENCES.values():
        assert reason in DOCS
