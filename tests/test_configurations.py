"""Every loss under the switches that JAX users set: strict dtypes, NaN checks, no jit, x64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import MASK, arrays, assert_trees_close, every_loss, poisoned, total
from jax.experimental import checkify

import vis4d_jax_loss as vjl
from vis4d_jax_loss._numerics import enable_x64


def nan_padding(case):
    """Inputs whose padding is NaN, and labels that are wrong there."""

    def poison(x):
        bad = np.nan if x.dtype.kind == "f" else -7
        return np.where(MASK.reshape(-1, *[1] * (x.ndim - 1)), x, np.asarray(bad, x.dtype))

    return arrays(jax.tree.map(poison, case.inputs)), jnp.asarray(MASK)


def value_and_grad(case, inputs, where):
    wrt = {name: inputs[name] for name in case.wrt}
    return jax.value_and_grad(lambda wrt: total(case(inputs | wrt, where)))(wrt)


@every_loss
@pytest.mark.parametrize("compiled", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_strict_dtype_promotion(case, compiled):
    inputs, where = nan_padding(case)
    with jax.numpy_dtype_promotion("strict"):
        step = functools.partial(value_and_grad, case)
        (jax.jit(step) if compiled else step)(inputs, where)


@every_loss
@pytest.mark.parametrize("compiled", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("switch", "dtype"),
    [
        ("jax_debug_nans", np.float32),
        ("jax_debug_infs", np.float32),
        ("jax_debug_nans", jnp.bfloat16),
    ],
)
def test_debugging_does_not_stop_in_padding(case, switch, dtype, compiled):
    if case.name == "qdtrack_instance_similarity_loss" and not compiled:
        pytest.skip("JAX would stop where the row adds axes to NaN; test_qdtrack.py tests it")
    inputs, where = nan_padding(case)
    inputs = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == np.float32 else x, inputs)
    step = functools.partial(value_and_grad, case)
    step = jax.jit(step) if compiled else step
    jax.config.update(switch, True)
    try:
        value, gradients = step(inputs, where)
    finally:
        jax.config.update(switch, False)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradients))


# checkify looks at the float64 arithmetic of mining without allowing float64, and JAX warns.
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")
@every_loss
@pytest.mark.parametrize("masked", [True, False])
def test_float_checks_of_checkify_report_nothing(case, masked):
    inputs, where = nan_padding(case) if masked else (arrays(case.inputs), None)
    step = functools.partial(value_and_grad, case)
    checks = checkify.float_checks | checkify.user_checks
    error, _ = jax.jit(checkify.checkify(step, errors=checks))(inputs, where)
    assert error.get() is None


@pytest.mark.slow
@every_loss
def test_without_jit_the_result_is_the_same(case):
    inputs, where = arrays(poisoned(case.inputs)), jnp.asarray(MASK)
    expected = jax.jit(functools.partial(value_and_grad, case))(inputs, where)
    with jax.disable_jit():
        assert_trees_close(value_and_grad(case, inputs, where), expected, rtol=1e-5, atol=1e-6)


@every_loss
def test_float32_stays_float32_if_float64_is_allowed(case):
    inputs, where = arrays(case.inputs), jnp.asarray(MASK)
    with enable_x64(True):
        value, gradients = jax.jit(functools.partial(value_and_grad, case))(inputs, where)
    assert value.dtype == jnp.float32
    assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradients))


@every_loss
def test_a_compiled_step_needs_no_transfer_and_leaks_no_tracer(case):
    inputs, where = arrays(case.inputs), jnp.asarray(MASK)
    with jax.checking_leaks():
        step = jax.jit(functools.partial(value_and_grad, case)).lower(inputs, where).compile()
    with jax.transfer_guard("disallow"):
        step(inputs, where)


@every_loss
def test_a_second_eager_call_compiles_nothing(case):
    inputs, where = arrays(case.inputs), jnp.asarray(MASK)
    case(inputs, where)
    events = []

    def listener(name, *_, **__):
        events.append(name)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        case(inputs, where)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not [name for name in events if "compile" in name]


DTYPES = [
    jnp.float8_e4m3fn,
    jnp.bfloat16,
    pytest.param(jnp.float8_e5m2, marks=pytest.mark.slow),
    pytest.param(jnp.float16, marks=pytest.mark.slow),
]


@functools.cache
def compiled_step(case):
    return jax.jit(functools.partial(value_and_grad, case))


@every_loss
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_narrow_floats_work_alone_and_mixed_with_float32(case, dtype):
    def cast(x, narrow):
        is_float = jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating)
        return jnp.asarray(x, dtype if narrow else jnp.float32) if is_float else jnp.asarray(x)

    rounded = jax.tree.map(lambda x: np.asarray(cast(x, True)), case.inputs)
    step = compiled_step(case)
    single = jax.tree.map(lambda x: cast(x, False), rounded)
    expected, _ = step(single, jnp.asarray(MASK))
    names = list(rounded)
    for single_names in ([], names[1::2]):
        inputs = {
            name: jax.tree.map(functools.partial(cast, narrow=name not in single_names), value)
            for name, value in rounded.items()
        }
        value, gradients = step(inputs, jnp.asarray(MASK))
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        for name in case.wrt:
            same = jax.tree.map(lambda g, x: g.dtype == x.dtype, gradients[name], inputs[name])
            assert all(jax.tree.leaves(same))


@every_loss
def test_the_loss_has_a_name_in_the_compiled_program(case):
    inputs = arrays(case.inputs)
    text = (
        jax.jit(functools.partial(value_and_grad, case))
        .lower(inputs, None)
        .as_text(debug_info=True)
    )
    assert case.name in text


def test_a_class_weight_is_reported_if_it_is_not_finite():
    loss = functools.partial(vjl.cross_entropy, class_weights=(1.0, np.inf))
    error, _ = checkify.checkify(loss)(jnp.zeros((1, 2)), jnp.array([0]))
    assert "cross_entropy: class_weights must be finite, got inf at (1)" in error.get()
