"""The promises of the loss functions, tested for every loss of ``cases.py``."""

import copy
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    CASES,
    HEADS,
    MASK,
    N,
    arrays,
    assert_trees_close,
    every_exact_loss,
    every_loss,
    poisoned,
    total,
)
from jax.experimental import checkify
from jax.test_util import check_grads

import vis4d_jax_loss as vjl
from vis4d_jax_loss._numerics import enable_x64


def weighted_mean(loss, *, where=None):
    """A function around it, since a pytree has no hash."""
    return vjl.WeightedMeanLoss(2.0)(loss, where=where)


HARD_MEANS = [vjl.HardMeanLoss(fraction=0.5), vjl.HardMeanLoss(threshold=0.25)]
REDUCERS = [vjl.identity_loss, vjl.mean_loss, jnp.mean, weighted_mean, *HARD_MEANS]


def name_of(reducer):
    return getattr(reducer, "__name__", repr(reducer))


# A head reduces its losses itself.
every_loss_under_every_reducer = pytest.mark.parametrize(
    ("case", "reducer"),
    [
        *(pytest.param(c, r, id=f"{c}-{name_of(r)}") for c in CASES for r in REDUCERS),
        *(pytest.param(head, None, id=repr(head)) for head in HEADS),
    ],
)


def differentiate(case, inputs, where=None, reducer=vjl.mean_loss):
    """Value and gradients of a loss, jitted once for each case, reducer and kind of call."""
    wrt = {name: inputs[name] for name in case.wrt}
    return _step(repr(case), reducer)(wrt, inputs, where)


@functools.cache
def _step(name, reducer):
    case = next(c for c in (*CASES, *HEADS) if repr(c) == name)

    def loss(wrt, inputs, where):
        return total(case(inputs | wrt, where, reducer))

    return jax.jit(jax.value_and_grad(loss))


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


@every_loss_under_every_reducer
def test_masking_equals_dropping_for_any_padding(case, reducer):
    kept = arrays(jax.tree.map(lambda x: x[MASK], case.inputs))
    value, gradients = differentiate(
        case, arrays(poisoned(case.inputs)), jnp.asarray(MASK), reducer
    )
    expected, expected_gradients = differentiate(case, kept, jnp.ones(MASK.sum(), bool), reducer)

    assert_trees_close(value, expected, rtol=1e-5)
    assert_trees_close(jax.tree.map(lambda g: g[MASK], gradients), expected_gradients, 1e-5, 1e-6)
    assert all(np.all(g[~MASK] == 0) for g in map(np.asarray, jax.tree.leaves(gradients)))


@every_loss_under_every_reducer
def test_everything_masked_gives_zero_value_and_gradient(case, reducer):
    everything = np.zeros(N, bool)
    inputs = arrays(poisoned(case.inputs, everything))
    value, gradients = differentiate(case, inputs, jnp.asarray(everything), reducer)
    assert value == 0
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(gradients))


@every_loss_under_every_reducer
def test_empty_inputs_have_zero_loss(case, reducer):
    empty = arrays(jax.tree.map(lambda x: x[:0], case.inputs))
    assert total(jax.jit(lambda inputs: case(inputs, reducer=reducer))(empty)) == 0


@every_loss
def test_a_mask_of_all_true_changes_nothing(case):
    inputs = arrays(case.inputs)
    plain, masked = differentiate(case, inputs), differentiate(case, inputs, jnp.ones(N, bool))
    assert_trees_close(masked, plain, rtol=1e-5)


# rotation_loss averages its cross-entropy unless the reducer keeps the rows.
@pytest.mark.parametrize("case", [c for c in CASES if c.name != "rotation_loss"], ids=repr)
def test_the_sum_of_identity_loss_equals_sum_loss(case):
    inputs = arrays(poisoned(case.inputs))
    kept = differentiate(case, inputs, jnp.asarray(MASK), vjl.identity_loss)
    assert_trees_close(
        kept, differentiate(case, inputs, jnp.asarray(MASK), vjl.sum_loss), rtol=1e-5
    )


@every_exact_loss
def test_gradients_agree_with_finite_differences(case):
    with enable_x64(True):
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
def test_float64_stays_float64(case):
    with enable_x64(True):
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
def test_a_mask_must_be_boolean_and_cover_leading_axes(case):
    message = (
        rf"^\w+: \w*where must cover the leading axes of the loss, got \w*where \((1, )?{N - 1},?\) "
        rf"and loss \((1, )?{N}(,.*)?\)\. A mask is never matched to trailing axes\.$"
    )
    with pytest.raises(ValueError, match=message):
        case(arrays(case.inputs), where=jnp.ones(N - 1, bool))
    message = (
        r"^\w+: \w*where must be boolean, got \w*where float32\. True means valid, False means padding; "
        r"weights belong in SumWeightedLoss\.$"
    )
    with pytest.raises(TypeError, match=message):
        case(arrays(case.inputs), where=jnp.ones(N))


@pytest.fixture
def chex_disabled():
    chex.disable_asserts()
    yield
    chex.enable_asserts()


def first_column(x):
    return x.reshape(N, -1)[:, :1]


def first_row(x):
    return x[:1]


@every_loss
@pytest.mark.parametrize("reshape", [first_column, first_row])
@pytest.mark.usefixtures("chex_disabled")
def test_losses_never_broadcast_even_if_chex_is_disabled(case, reshape):
    # The default of JAX, which would let arrays of another rank broadcast.
    with jax.numpy_rank_promotion("allow"):
        case(case.inputs)
        for name, x in case.inputs.items():
            if name == "transforms" and reshape is first_row:
                continue  # a batch of one is valid
            other = case.inputs | {name: jax.tree.map(reshape, x)}
            with pytest.raises((ValueError, TypeError)):
                case(other)


def gradient_step(case):
    """A step that uses the gradient alone, inside a ``jit`` of its own."""

    def loss(wrt, inputs, where):
        return total(case(inputs | wrt, where))

    def step(inputs, where):
        return jax.jit(jax.grad(loss))({name: inputs[name] for name in case.wrt}, inputs, where)

    return step


@every_loss
@pytest.mark.parametrize("wrap", [lambda case: case, gradient_step, jax.checkpoint])
def test_checkify_reports_predictions_that_are_not_finite(case, wrap):
    step = wrap(case)
    checked = jax.jit(checkify.checkify(lambda inputs, where: step(inputs, where)))
    fine, _ = checked(arrays(poisoned(case.inputs)), jnp.asarray(MASK))
    fine.throw()
    broken, _ = checked(arrays(poisoned(case.inputs)), jnp.ones(N, bool))
    assert "must" in broken.get()


@every_loss
def test_value_checks_are_not_effects(case):
    # JAX calls a compiled step that has an effect through Python, array by array.
    program = jax.make_jaxpr(gradient_step(case))(arrays(case.inputs), jnp.asarray(MASK))
    assert "expected" in str(program)
    assert not program.effects
