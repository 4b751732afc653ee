"""Every promise, held to every loss of ``cases.py``."""

import copy
import functools
import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, N
from jax.experimental import checkify
from jax.test_util import check_grads

import vis4d_jax_loss as vjl

MASK = np.array([True, False, True, True, False, True])
POISON = [np.nan, np.inf, -np.inf, 1e30, -1.0, 0.0, 1.0]
POISON_INT = [-1, 7, -100, 1, 0, 2**31 - 1]
REDUCERS = [vjl.identity_loss, vjl.mean_loss, jnp.mean]

every_loss = pytest.mark.parametrize("case", CASES, ids=repr)


def arrays(inputs):
    return jax.tree.map(jnp.asarray, inputs)


def total(losses):
    """One number of whatever a loss returns."""
    return sum(jnp.sum(loss) for loss in jax.tree.leaves(losses))


def differentiate(case, inputs, where=None, reducer=vjl.mean_loss):
    """Value and gradients of a loss, jitted once for each case, reducer and kind of call."""
    wrt = {name: inputs[name] for name in case.wrt}
    return _step(case.name, reducer)(wrt, inputs, where)


@functools.cache
def _step(name, reducer):
    case = next(c for c in CASES if c.name == name)

    def loss(wrt, inputs, where):
        return total(case(inputs | wrt, where, reducer))

    return jax.jit(jax.value_and_grad(loss))


def poisoned(inputs, mask=MASK):
    """The inputs with a mixture of harmful values in the rows that the mask leaves out."""

    def poison(x):
        mixture = POISON if x.dtype.kind == "f" else POISON_INT
        bad = np.resize(np.array(mixture).astype(x.dtype), x.shape)
        return np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, bad)

    return jax.tree.map(poison, inputs)


def assert_trees_close(actual, expected, rtol=1e-6, atol=1e-7):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), actual, expected
    )


def test_every_public_loss_has_a_row():
    losses = {name for name in vjl.__all__ if name.endswith(("_loss", "entropy"))}
    assert {case.name for case in CASES} == losses - {"identity_loss", "mean_loss", "sum_loss"}
    modules = {name for name in vjl.__all__ if _is_loss_module(getattr(vjl, name))}
    assert {type(case.module).__name__ for case in CASES} == modules - {"Loss"}


def _is_loss_module(value):
    return inspect.isclass(value) and issubclass(value, vjl.Loss)


@every_loss
def test_jit_equals_eager(case):
    inputs = arrays(case.inputs)
    assert_trees_close(jax.jit(case)(inputs), case(inputs), rtol=1e-5)


@every_loss
def test_vmap_equals_a_loop(case):
    other = jax.tree.map(lambda x: x[::-1].copy(), case.inputs)
    pair = jax.tree.map(lambda a, b: jnp.stack([a, b]), case.inputs, other)
    one = jax.jit(lambda inputs: case(inputs, reducer=vjl.identity_loss))
    batched = jax.jit(jax.vmap(one))(pair)
    loop = [one(arrays(inputs)) for inputs in (case.inputs, other)]
    assert_trees_close(batched, jax.tree.map(lambda *x: jnp.stack(x), *loop), rtol=1e-5, atol=1e-6)


@every_loss
def test_module_equals_function(case):
    inputs, extra = arrays(case.inputs), case.extra
    if case.as_module is not None:
        expected = case.as_module(inputs, **extra)
    else:
        expected = case.function(**inputs, **case.options, reducer=case.module.reducer)
    assert_trees_close(jax.jit(case.module)(**inputs, **extra), expected, rtol=1e-5)


@every_loss
def test_modules_take_a_reducer_and_a_mask_in_the_call(case):
    inputs, kept = arrays(poisoned(case.inputs)), jax.tree.map(lambda x: x[MASK], case.inputs)
    extra_kept = {k: v[MASK] if np.ndim(v) else v for k, v in case.extra.items()}
    call = jax.jit(functools.partial(case.module, reducer=vjl.mean_loss))
    masked = call(**inputs, **case.extra, where=MASK)
    dropped = call(**arrays(kept), **extra_kept)
    assert_trees_close(masked, dropped, rtol=1e-5)


@every_loss
@pytest.mark.parametrize("reducer", REDUCERS, ids=lambda r: r.__name__)
def test_masking_equals_dropping_whatever_the_padding_holds(case, reducer):
    kept = arrays(jax.tree.map(lambda x: x[MASK], case.inputs))
    value, gradients = differentiate(
        case, arrays(poisoned(case.inputs)), jnp.asarray(MASK), reducer
    )
    expected, expected_gradients = differentiate(case, kept, jnp.ones(MASK.sum(), bool), reducer)

    assert_trees_close(value, expected, rtol=1e-5)
    assert_trees_close(jax.tree.map(lambda g: g[MASK], gradients), expected_gradients, 1e-5, 1e-6)
    assert all(np.all(g[~MASK] == 0) for g in map(np.asarray, jax.tree.leaves(gradients)))


@every_loss
@pytest.mark.parametrize("reducer", REDUCERS, ids=lambda r: r.__name__)
def test_nothing_valid_gives_0_and_0(case, reducer):
    nothing = np.zeros(N, bool)
    inputs = arrays(poisoned(case.inputs, nothing))
    value, gradients = differentiate(case, inputs, jnp.asarray(nothing), reducer)
    assert value == 0
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(gradients))


@every_loss
@pytest.mark.parametrize("reducer", [vjl.identity_loss, vjl.mean_loss, jnp.mean])
def test_empty_inputs_give_0(case, reducer):
    empty = arrays(jax.tree.map(lambda x: x[:0], case.inputs))
    assert total(jax.jit(lambda inputs: case(inputs, reducer=reducer))(empty)) == 0


@every_loss
def test_a_mask_of_all_true_changes_nothing(case):
    inputs = arrays(case.inputs)
    plain, masked = differentiate(case, inputs), differentiate(case, inputs, jnp.ones(N, bool))
    assert_trees_close(masked, plain, rtol=1e-5)


# rotation_loss averages its cross-entropy unless the reducer keeps the rows.
@pytest.mark.parametrize("case", [c for c in CASES if c.name != "rotation_loss"], ids=repr)
def test_identity_keeps_what_sum_adds_up(case):
    inputs = arrays(poisoned(case.inputs))
    kept = differentiate(case, inputs, jnp.asarray(MASK), vjl.identity_loss)
    assert_trees_close(
        kept, differentiate(case, inputs, jnp.asarray(MASK), vjl.sum_loss), rtol=1e-5
    )


@every_loss
def test_gradients_agree_with_finite_differences(case):
    with jax.enable_x64(True):
        double = jax.tree.map(
            lambda x: x.astype(float) if x.dtype == np.float32 else x, case.inputs
        )
        inputs = arrays(double)
        wrt = {name: inputs[name] for name in case.wrt}

        def loss(wrt):
            return total(case(inputs | wrt))

        check_grads(jax.jit(loss), (wrt,), order=1, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6)


@every_loss
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(case, dtype):
    def cast(dtype):
        return lambda x: jnp.asarray(x, dtype) if np.asarray(x).dtype.kind in "fV" else x

    half = jax.tree.map(lambda x: cast(dtype)(x), case.inputs)
    single = jax.tree.map(
        lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x, half
    )
    value, gradients = differentiate(case, half)
    expected, expected_gradients = differentiate(case, single)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert all(g.dtype == dtype for g in jax.tree.leaves(gradients))
    rounded = jax.tree.map(lambda g: g.astype(dtype), expected_gradients)
    as_single = functools.partial(jax.tree.map, lambda g: np.asarray(g, np.float32))
    assert_trees_close(as_single(gradients), as_single(rounded), rtol=1e-2, atol=1e-4)


@every_loss
def test_double_precision_stays(case):
    with jax.enable_x64(True):
        double = jax.tree.map(
            lambda x: x.astype(float) if x.dtype == np.float32 else x, case.inputs
        )
        losses = jax.eval_shape(case, arrays(double))
        assert all(loss.dtype == float for loss in jax.tree.leaves(losses))


@every_loss
def test_inputs_are_not_changed(case):
    before = copy.deepcopy(case.inputs)
    call = jax.jit(case)
    first, second = call(case.inputs), call(case.inputs)
    jax.tree.map(np.testing.assert_array_equal, case.inputs, before)
    jax.tree.map(np.testing.assert_array_equal, first, second)


@every_loss
@pytest.mark.parametrize("static", [False, True])
def test_equal_modules_cause_one_trace(case, static):
    traces = []

    def step(module, inputs, extra):
        traces.append(module)
        return module(**inputs, **extra)

    step = jax.jit(step, static_argnums=0 if static else ())
    for _ in range(2):
        options = {k: v for k, v in vars(case.module).items() if not k.startswith("_")}
        step(type(case.module)(**options), arrays(case.inputs), case.extra)
    assert len(traces) == 1


@every_loss
def test_modules_are_values(case):
    for other in (pickle.loads(pickle.dumps(case.module)), copy.deepcopy(case.module)):
        assert other == case.module
        assert hash(other) == hash(case.module)
    assert jax.tree.leaves(case.module) == []
    assert case.module != type(case.module)(reducer=jnp.max)
    with pytest.raises(AttributeError, match="cannot assign to field 'reducer'"):
        case.module.reducer = vjl.sum_loss


@every_loss
def test_signatures_name_the_options(case):
    assert next(iter(inspect.signature(type(case.module)).parameters)) == "reducer"
    assert set(case.inputs) <= set(inspect.signature(case.module).parameters)
    assert {"where", "reducer"} <= set(inspect.signature(case.module).parameters)


@every_loss
def test_a_mask_must_cover_leading_axes(case):
    with pytest.raises(
        ValueError, match=rf"where must cover the leading axes .* where \({N - 1},\)"
    ):
        case(arrays(case.inputs), where=jnp.ones(N - 1, bool))
    with pytest.raises(TypeError, match=r"where must be boolean, got where float32\. True is real"):
        case(arrays(case.inputs), where=jnp.ones(N))


def gradients_alone(case):
    """Of the values nothing is needed, and in a ``jit`` of its own nothing is kept."""

    def loss(wrt, inputs, where):
        return total(case(inputs | wrt, where))

    def step(inputs, where):
        return jax.jit(jax.grad(loss))({name: inputs[name] for name in case.wrt}, inputs, where)

    return step


@every_loss
@pytest.mark.parametrize("wrap", [lambda case: case, gradients_alone, jax.checkpoint])
def test_checkify_reports_predictions_that_are_not_finite(case, wrap):
    step = wrap(case)
    checked = jax.jit(checkify.checkify(lambda inputs, where: step(inputs, where)))
    fine, _ = checked(arrays(poisoned(case.inputs)), jnp.asarray(MASK))
    fine.throw()
    broken, _ = checked(arrays(poisoned(case.inputs)), jnp.ones(N, bool))
    assert "must" in broken.get()


@every_loss
def test_value_checks_are_no_effects(case):
    # JAX calls a compiled step that has an effect through Python, array by array.
    program = jax.make_jaxpr(gradients_alone(case))(arrays(case.inputs), jnp.asarray(MASK))
    assert "expected" in str(program)
    assert not program.effects
