"""Values and gradients recorded from torch, torchvision, segmentation-models-pytorch and vis4d 1.0.0.

These cases are in the terms of this library: its names, its options, ``class_axis=-1`` unless an
option says otherwise. ``golden_wide/manifest.json`` says for each case which program computed it
(torch 2.13.0, torchvision 0.28.0, segmentation-models-pytorch 0.6.0, vis4d 1.0.0, NumPy 2.4.6, all
on a CPU). Where no program has the loss, or its result is NaN, the formula was computed in float64
with torch; these cases have the tag ``own-oracle``. The programs have no masks: they saw the valid
rows only, and ours also sees rows of NaN, infinity, huge numbers and labels that do not exist.
Arrays are stored once, as float32. The run in float64 casts them, so that both have the same ties.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vis4d_jax_loss as vjl
from vis4d_jax_loss._numerics import enable_x64

FOLDER = Path(__file__).parent / "golden_wide"
CASES = json.loads((FOLDER / "manifest.json").read_text())["cases"]
ARRAYS = dict(np.load(FOLDER / "arrays.npz"))
DTYPES = {"f32": np.float32, "f64": np.float64}
TOLERANCES = {"f32": (3e-6, 3e-5), "f64": (1e-11, 1e-10)}  # absolute and relative

REDUCERS = {"identity": vjl.identity_loss, "mean": vjl.mean_loss, "sum": vjl.sum_loss}
REDUCERS_WITH_OPTIONS = {
    "weighted": "SumWeightedLoss",
    "weighted_mean": "WeightedMeanLoss",
    "hard_mean": "HardMeanLoss",
}


def load(key, tag):
    """An array in the precision of the run; integers and booleans stay."""
    array = ARRAYS[key]
    return jnp.asarray(array.astype(DTYPES[tag]) if array.dtype.kind == "f" else array)


def option(name, value, tag):
    if name == "reducer" and isinstance(value, str):
        return REDUCERS[value]
    if name in ("loss_cls", "loss_bbox") and "function" in value:
        return getattr(vjl, value["function"])
    if name in ("loss_cls", "loss_bbox"):
        return getattr(vjl, value["module"])(**value["ctor"])
    if name == "reducer":
        ((kind, options),) = value.items()
        return getattr(vjl, REDUCERS_WITH_OPTIONS[kind])(**options_of(options, tag))
    return load(value["array"], tag) if isinstance(value, dict) else value


def options_of(options, tag):
    return {name: option(name, value, tag) for name, value in options.items()}


def bind(case, tag):
    """What a case calls, as a function of its inputs alone."""
    target = getattr(vjl, case["fn"])
    ctor, call = options_of(case["ctor"], tag), options_of(case["call"], tag)
    if case["kind"] == "function":
        return lambda **inputs: target(**inputs, **call)
    if case["kind"] == "reducer":  # the losses have no name
        return lambda loss, **inputs: target(**ctor)(loss, **inputs)
    return lambda **inputs: target(**ctor)(**inputs, **call)


def outputs_of(case, result):
    """What a case returns, by name."""
    if case["returns"] == "array":
        return {"out": result}
    named = dict(result) if case["returns"] == "dict" else result._asdict()
    assert {name for name, x in named.items() if x is None} == set(case["none_outputs"])
    assert [name for name, x in named.items() if x is not None] == case["outputs"]
    return {name: named[name] for name in case["outputs"]}


def prepare(case, tag):
    """Value and gradients of a case as a function of its inputs, and those inputs."""
    fn = bind(case, tag)
    inputs = {name: load(key, tag) for name, key in case["inputs"].items()}
    wrt = {name: inputs.pop(name) for name in case["grad_wrt"]}

    def weighted_sum(wrt, inputs):
        outputs = outputs_of(case, fn(**wrt, **inputs))
        weighted = [jnp.sum(load(key, tag) * outputs[name]) for name, key in case["cot"].items()]
        return sum(weighted, jnp.zeros(())), outputs

    return jax.value_and_grad(weighted_sum, has_aux=True), (wrt, inputs)


def assert_close(actual, key, tag, what, times=1):
    absolute, relative = TOLERANCES[tag]
    expected = ARRAYS[key]
    assert actual.shape == expected.shape, what
    np.testing.assert_allclose(actual, expected, relative, absolute * times, err_msg=what)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['id']}-{c['fn']}")
def test_value_and_gradient_equal_the_recorded_ones(case):
    with enable_x64(True):  # float32 stays float32
        steps, arguments = zip(*(prepare(case, tag) for tag in DTYPES), strict=True)
        # One program for both precisions is compiled in less time than two.
        both = jax.jit(lambda arguments: [f(*a) for f, a in zip(steps, arguments, strict=True)])
        results = both(arguments)

    for tag, ((_, outputs), gradients) in zip(DTYPES, results, strict=True):
        for name, out in outputs.items():
            assert out.dtype == case["out_dtype"][tag][name]
            assert_close(out, case[tag]["out"][name], tag, name)
        for name, gradient in gradients.items():
            assert gradient.dtype == DTYPES[tag]
            # Some gradients are differences of much larger numbers.
            times = case.get("grad_atol", 1)
            assert_close(gradient, case[tag]["grad"][name], tag, f"gradient of {name}", times)
            if name in case["padded"]:
                np.testing.assert_array_equal(np.asarray(gradient)[ARRAYS[case["padded"][name]]], 0)


def test_the_padding_of_a_masked_case_is_poison():
    """A case whose padding is harmless would show nothing."""
    masked = [c for c in CASES if "masked" in c["tags"]]
    assert len(masked) > 20
    for case in masked:
        for name, key in case["padded"].items():
            padding = ARRAYS[case["inputs"][name]][ARRAYS[key]]
            assert not np.isfinite(padding).all(), case["id"]
