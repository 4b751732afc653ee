"""A weight of exactly 0 switches a term off, whatever its loss and its derivative are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from terms import BATCH, L1, PAIR, SEG, identity, value_term

import vis4d_jax_loss as vjl
from vis4d_jax_loss import LossModule, LossTerm, pred_key


def root(x):
    """A loss that is 0 at 0, with an infinite derivative there."""
    return jnp.sum(jnp.sqrt(x))


def undefined(x):
    """A loss that is NaN at 0, and its derivative too."""
    return jnp.sum(x / x)


def overflow(x):
    return jnp.sum(jnp.exp(1000 + x))


ZEROS = {
    "number": lambda: 0.0,
    "integer": lambda: 0,
    "numpy": lambda: np.float32(0),
    "schedule": lambda: optax.linear_schedule(0.0, 1.0, 10),
    "python schedule": lambda: lambda step: 0.0,
    "array": lambda: jnp.float32(0),
}
STARTED = {"on": value_term(3.0)}
AT_0 = {"x": jnp.zeros(2), "value": jnp.float32(2)}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("loss", [root, undefined, overflow])
@pytest.mark.parametrize("weight", ZEROS)
def test_a_weight_of_0_switches_a_term_off(weight, loss, compiled):
    term = LossTerm(loss, ZEROS[weight](), {"x": pred_key("x")})
    step = jax.value_and_grad(LossModule(STARTED | {"off": term}), has_aux=True)
    (total, metrics), gradient = (jax.jit(step) if compiled else step)(AT_0, {}, step=0)
    assert total == metrics["on"] == 6
    assert metrics["off"] == 0
    np.testing.assert_array_equal(gradient["x"], [0, 0])
    assert gradient["value"] == 3


@pytest.mark.parametrize("weight", ["number", "schedule", "array"])
def test_a_weight_of_0_switches_every_derivative_off(weight):
    term = LossTerm(root, ZEROS[weight](), {"x": pred_key()})

    def total(x):
        return LossModule({"off": term})(x, {}, step=0)[0]

    x, one = jnp.zeros(2), jnp.ones(2)
    assert jax.jvp(total, (x,), (one,)) == (0, 0)
    for derivative in (jax.jacfwd, jax.jacrev):
        np.testing.assert_array_equal(derivative(jax.grad(total))(x), np.zeros((2, 2)))


def test_weights_of_0_and_others_under_vmap():
    objective = LossModule({"t": LossTerm(root, lambda step: step, {"x": pred_key()})})
    step = jax.vmap(jax.value_and_grad(objective, has_aux=True), in_axes=(None, None, 0))
    (totals, _), gradients = step(jnp.full(1, 4.0), {}, jnp.array([0.0, 2.0]))
    assert totals.tolist() == [0, 4]
    assert gradients.tolist() == [[0], [0.5]]
    (totals, _), gradients = step(jnp.zeros(1), {}, jnp.array([0.0, 0.0]))
    assert totals.tolist() == [0, 0]
    assert gradients.tolist() == [[0], [0]]


def test_a_term_that_starts_later_trains_from_then_on():
    schedule = optax.linear_schedule(0.0, 1.0, 10)
    step = jax.jit(
        jax.value_and_grad(
            LossModule({"t": LossTerm(root, schedule, {"x": pred_key()})}), has_aux=True
        )
    )
    (total, _), gradient = step(jnp.full(2, 4.0), {}, step=5)
    assert total == 2
    np.testing.assert_allclose(gradient, [0.125, 0.125])


def test_a_nested_objective_of_weight_0_is_off():
    inner = LossModule({"bad": LossTerm(undefined, 1.0, {"x": pred_key("x")}), "on": value_term()})
    for weight in (0.0, jnp.float32(0), optax.constant_schedule(0.0)):
        step = jax.value_and_grad(LossModule({"in": LossTerm(inner, weight)}), has_aux=True)
        (total, metrics), gradient = step(AT_0, {}, step=0)
        assert {name: float(value) for name, value in metrics.items()} == {
            "in.bad": 0,
            "in.on": 0,
            "in.loss": 0,
            "loss": 0,
        }
        assert total == 0
        np.testing.assert_array_equal(gradient["x"], [0, 0])


def test_a_weight_of_0_in_a_dict_switches_one_loss_off():
    def losses(x, y):
        return {"good": jnp.sum(x), "bad": undefined(y)}

    for zero in (0.0, jnp.float32(0)):
        inputs = {"x": pred_key("value"), "y": pred_key("x")}
        objective = LossModule({"t": LossTerm(losses, {"bad": zero}, inputs)})
        (total, metrics), gradient = jax.value_and_grad(objective, has_aux=True)(AT_0, {})
        assert total == metrics["t.good"] == 2
        assert metrics["t.bad"] == 0
        assert gradient["value"] == 1
        if not isinstance(zero, jax.Array):  # a number also switches the gradient off
            np.testing.assert_array_equal(gradient["x"], [0, 0])


def test_a_learned_weight_of_0_keeps_its_gradient():
    def total(weight, value):
        return LossModule({"t": value_term(weight)})({"value": value}, {})[0]

    zero = jnp.float32(0)
    assert jax.grad(total)(zero, jnp.float32(2)) == 2
    assert jax.grad(total)(zero, jnp.float32(jnp.nan)) == 0


def test_a_nan_loss_of_another_weight_is_reported():
    for weight in (1e-30, jnp.float32(1e-30)):
        total, metrics = LossModule({"t": value_term(weight)})({"value": jnp.float32(jnp.nan)}, {})
        assert np.isnan(total)
        assert np.isnan(metrics["t"])


def test_padding_of_nan_does_not_stop_a_scheduled_term_under_debug_nans():
    inputs = PAIR | {"where": pred_key("valid")}
    term = LossTerm(L1, optax.linear_schedule(0.0, 1.0, 10), inputs)
    outputs = {"x": jnp.array([1.0, jnp.nan]), "valid": jnp.array([True, False])}
    objective = LossModule({"t": term})
    step = jax.jit(jax.value_and_grad(objective, has_aux=True, allow_int=True))
    with jax.debug_nans(True):
        assert objective(outputs, BATCH, step=5)[0] == 0.5
        (total, _), gradient = step(outputs, BATCH, step=5)
    assert total == 0.5
    np.testing.assert_array_equal(gradient["x"], [0.5, 0])


def test_a_scheduled_weight_costs_no_memory():
    x = jax.ShapeDtypeStruct((1000, 100), np.float32)

    def temporaries(weight):
        term = LossTerm(L1, weight, {"pred": pred_key(), "target": vjl.data_key()})
        step = jax.grad(LossModule({"t": term}), has_aux=True)
        compiled = jax.jit(lambda x, y, i: step(x, y, step=i)[0]).lower(x, x, 3).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(optax.linear_schedule(0.0, 1.0, 10)) <= temporaries(1.0) + 1000


def test_a_weight_of_0_inside_shard_map():
    mesh = jax.make_mesh((1,), ("data",))
    data = jax.sharding.PartitionSpec("data")
    term = LossTerm(root, optax.linear_schedule(0.0, 1.0, 10), {"x": pred_key()})
    objective = LossModule({"off": term, "never": LossTerm(root, 0.0, {"x": pred_key()})})

    def shard(x, step):
        total, gradient = jax.value_and_grad(lambda x: objective(x, {}, step=step)[0])(x)
        return jax.lax.psum(total, "data"), gradient

    everywhere = jax.sharding.PartitionSpec()
    specs = dict(in_specs=(data, everywhere), out_specs=(everywhere, data))
    mapped = jax.jit(jax.shard_map(shard, mesh=mesh, **specs))
    zeros = jax.device_put(jnp.zeros(2), jax.sharding.NamedSharding(mesh, data))
    total, gradient = mapped(zeros, 0)
    assert total == 0
    np.testing.assert_array_equal(gradient, [0, 0])
    assert mapped(zeros + 1, 5)[0] == 1


def test_a_model_may_be_an_input_of_a_scheduled_term():
    class Counter(nnx.Module):
        def __init__(self):
            self.kernel, self.calls = nnx.Param(jnp.ones(2)), nnx.Variable(jnp.zeros(()))

    def decay(model):
        model.calls[...] = model.calls[...] + 1
        return jnp.sum(model.kernel[...] ** 2)

    objective = LossModule(
        {"decay": LossTerm(decay, lambda step: jnp.float32(0.5), {"model": pred_key("model")})}
    )

    @nnx.jit
    def step(model):
        return nnx.value_and_grad(lambda model: objective({"model": model}, {}, step=0)[0])(model)

    model = Counter()
    total, gradient = step(model)
    assert total == 1
    assert jax.tree.leaves(gradient)[0].tolist() == [1, 1]
    assert model.calls[...] == 1


def test_a_float32_loss_stays_float32_whatever_the_weight_is():
    schedule = optax.linear_schedule(0.0, 1.0, 10)
    with vjl._numerics.enable_x64(True):
        outputs = {"value": jnp.float32(2)}
        for weight in (np.float64(0.5), schedule, lambda step: np.float64(0.5), jnp.float64(0.5)):
            total, metrics = LossModule({"t": value_term(weight)})(outputs, {}, step=jnp.int64(5))
            assert total.dtype == metrics["t"].dtype == jnp.float32
            assert total == 1


def test_losses_of_two_dtypes_add_up_under_strict_promotion():
    terms = {"a": value_term(), "b": LossTerm(identity, 1.0, {"x": pred_key("wide")})}
    with vjl._numerics.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        outputs = {"value": jnp.float32(2), "wide": jnp.float64(3)}
        for weight in (1.0, jnp.float32(1)):
            total, _ = LossModule(terms | {"c": value_term(weight)})(outputs, {})
            assert total.dtype == jnp.float64
            assert total == 7


@pytest.mark.parametrize("weight", [0.0, jnp.float32(0)])
def test_mistakes_are_errors_in_a_term_of_weight_0_too(weight):
    objective = LossModule({"seg": LossTerm(vjl.SegCrossEntropyLoss(), weight, SEG)})
    with pytest.raises(ValueError, match='"logits" does not'):
        objective({}, BATCH)
