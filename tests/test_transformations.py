"""What JAX's transformations make of every loss, with padding that contains NaN and infinity."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    CASES,
    MASK,
    N,
    arrays,
    assert_trees_close,
    every_exact_loss,
    every_loss,
    poisoned,
    total,
)
from jax.experimental.jet import jet
from jax.test_util import check_grads
from versions import needs_jax

import vis4d_jax_loss as vjl
from vis4d_jax_loss._numerics import enable_x64


def masked_loss(case):
    """A loss of the inputs that have gradients, where everything else is fixed and padded."""
    inputs, where = arrays(poisoned(case.inputs)), jnp.asarray(MASK)
    wrt = {name: inputs[name] for name in case.wrt}
    return (lambda wrt: total(case(inputs | wrt, where))), wrt


def ones_like(wrt):
    return jax.tree.map(jnp.ones_like, wrt)


def squared_norm(gradients):
    return sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradients))


SECOND_DERIVATIVES = {
    "grad of grad": lambda f, x: jax.grad(lambda x: squared_norm(jax.grad(f)(x)))(x),
    "jvp of grad": lambda f, x: jax.jvp(jax.grad(f), (x,), (ones_like(x),))[1],
    "grad of jvp": lambda f, x: jax.grad(lambda x: jax.jvp(f, (x,), (ones_like(x),))[1])(x),
}


@every_loss
@pytest.mark.parametrize("order", SECOND_DERIVATIVES)
def test_second_derivatives_are_finite_and_zero_in_padding(case, order):
    loss, wrt = masked_loss(case)
    result = jax.jit(functools.partial(SECOND_DERIVATIVES[order], loss))(wrt)
    for leaf in map(np.asarray, jax.tree.leaves(result)):
        assert np.all(np.isfinite(leaf))
        np.testing.assert_array_equal(leaf[~MASK], 0)


@pytest.mark.slow
@every_loss
def test_third_derivatives_are_finite(case):
    loss, wrt = masked_loss(case)

    def hessian_product(x):
        return jax.jvp(jax.grad(loss), (x,), (ones_like(x),))[1]

    third = jax.jit(jax.grad(lambda x: squared_norm(hessian_product(x))))(wrt)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(third))


@every_exact_loss
def test_second_derivatives_agree_with_finite_differences(case):
    with enable_x64(True):
        inputs = jax.tree.map(
            lambda x: jnp.asarray(x, float) if x.dtype == np.float32 else jnp.asarray(x),
            case.inputs,
        )
        wrt = {name: inputs[name] for name in case.wrt}
        loss = jax.jit(lambda wrt: total(case(inputs | wrt)))
        check_grads(loss, (wrt,), order=2, modes=("rev",), atol=1e-5, rtol=1e-5)


@every_loss
def test_a_shared_parameter_gets_a_finite_gradient(case):
    loss, wrt = masked_loss(case)

    def of_scale(scale):
        return loss(jax.tree.map(lambda x: x * scale, wrt))

    # NaN padding times a parameter: the loss must not send NaN back, but 0 * NaN is the user's.
    clean = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0), wrt)
    gradient = jax.jit(jax.grad(lambda s: loss(jax.tree.map(lambda x: x + s, clean))))(0.1)
    assert np.isfinite(gradient)
    assert np.isfinite(jax.jit(of_scale)(1.0))


@every_loss
def test_each_input_may_be_the_batched_one(case):
    inputs = arrays(case.inputs)
    call = jax.jit(case)
    for name in inputs:
        axes = ({key: 0 if key == name else None for key in inputs},)
        pair = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), inputs[name])
        batched = jax.jit(jax.vmap(case, axes))(inputs | {name: pair})
        loop = [call(inputs | {name: jax.tree.map(lambda x, i=i: x[i], pair)}) for i in range(2)]
        assert_trees_close(batched, jax.tree.map(lambda *x: jnp.stack(x), *loop), rtol=1e-5)


@every_loss
def test_a_batched_mask_equals_a_loop(case):
    inputs = arrays(case.inputs)
    masks = jnp.asarray([MASK, ~MASK])
    batched = jax.jit(jax.vmap(lambda where: case(inputs, where)))(masks)
    loop = [jax.jit(case)(inputs, where) for where in masks]
    assert_trees_close(batched, jax.tree.map(lambda *x: jnp.stack(x), *loop), rtol=1e-5)


@every_loss
@pytest.mark.parametrize("wrap", ["scan", "remat", "while"])
def test_gradients_are_the_same_inside_control_flow(case, wrap):
    loss, wrt = masked_loss(case)

    def scanned(wrt):
        return jax.lax.scan(lambda carry, _: (carry + loss(wrt), None), 0.0, None, length=2)[0] / 2

    def looped(wrt):
        def body(i, carry):
            return jax.tree.map(jnp.add, carry, jax.grad(loss)(wrt))

        return jax.lax.fori_loop(0, 1, body, jax.tree.map(jnp.zeros_like, wrt))

    expected = jax.jit(jax.grad(loss))(wrt)
    if wrap == "while":
        actual = jax.jit(looped)(wrt)
    else:
        actual = jax.jit(jax.grad(scanned if wrap == "scan" else jax.checkpoint(loss)))(wrt)
    assert_trees_close(actual, expected, rtol=1e-5)


@every_loss
def test_a_symbolic_batch_size_can_be_exported(case):
    (n,) = jax.export.symbolic_shape("n")

    def symbolic(x):
        return jax.ShapeDtypeStruct((n, *x.shape[1:]), jnp.asarray(x).dtype)

    shapes = jax.tree.map(symbolic, case.inputs)
    where = jax.ShapeDtypeStruct((n,), bool)
    wrt = {name: shapes.pop(name) for name in case.wrt}
    step = jax.jit(jax.value_and_grad(lambda wrt, rest, where: total(case(rest | wrt, where))))
    exported = jax.export.export(step)(wrt, shapes, where)

    inputs = arrays(case.inputs)
    wrt = {name: inputs.pop(name) for name in case.wrt}
    arguments = (wrt, inputs, jnp.ones(N, bool))
    assert_trees_close(exported.call(*arguments), step(*arguments), rtol=1e-5)


@pytest.mark.parametrize("axis", [-1, 1])
def test_a_symbolic_number_of_classes_can_be_exported(axis):
    (c,) = jax.export.symbolic_shape("c")
    shape = (2, c, 3) if axis == 1 else (2, 3, c)
    logits = jax.ShapeDtypeStruct(shape, jnp.float32)
    labels = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    loss = functools.partial(vjl.cross_entropy, class_axis=axis, reducer=vjl.mean_loss)
    exported = jax.export.export(jax.jit(jax.value_and_grad(loss)))(logits, labels)
    size = (2, 4, 3) if axis == 1 else (2, 3, 4)
    value, _ = exported.call(jnp.zeros(size), jnp.zeros((2, 3), int))
    np.testing.assert_allclose(value, np.log(4), rtol=1e-6)


@every_loss
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_value_and_gradient_lower_for_accelerators(case, platform):
    loss, wrt = masked_loss(case)
    jax.export.export(jax.jit(jax.value_and_grad(loss)), platforms=[platform])(wrt)


@pytest.mark.parametrize("loss", [vjl.l1_loss, vjl.l2_loss, vjl.smooth_l1_loss])
def test_taylor_series_of_regression_losses(loss):
    pred, target = jnp.array([1.0, -3.0]), jnp.array([0.25, 0.0])
    series = ((jnp.ones(2), jnp.zeros(2)),)
    value, terms = jet(lambda x: loss(x, target, vjl.sum_loss), (pred,), series)

    def scaled(t):
        return loss(pred + t, target, vjl.sum_loss)

    np.testing.assert_allclose(value, scaled(0.0), rtol=1e-5)
    np.testing.assert_allclose(terms[0], jax.grad(scaled)(0.0), rtol=1e-5)
    np.testing.assert_allclose(terms[1], jax.grad(jax.grad(scaled))(0.0), rtol=1e-5)


@needs_jax("0.7", "explicit meshes")
@every_loss
@pytest.mark.parametrize("explicit", [False, True])
def test_sharded_batches_on_one_device_mesh(case, explicit):
    if explicit and case.name == "qdtrack_instance_similarity_loss":
        pytest.skip("its images are sharded: JAX multiplies no two arrays whose rows are")
    kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((1,), ("data",), axis_types=(kind,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    inputs = arrays(case.inputs)
    sharded = jax.tree.map(lambda x: jax.device_put(x, sharding), inputs)
    with jax.set_mesh(mesh):
        assert_trees_close(jax.jit(case)(sharded), jax.jit(case)(inputs), rtol=1e-5)


def test_every_case_has_a_gradient():
    assert all(case.wrt for case in CASES)
