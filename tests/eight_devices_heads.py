"""Each head over 8 devices equals the head over one; ``test_many_devices.py`` runs this file.

The rows of ``cases.py`` are repeated. The counts of valid rows differ between devices, and devices
1 and 5 have none, so no positive either.
"""

import dataclasses
import functools

import jax
import numpy as np
from cases import every_head, total
from devices import (
    MASK,
    SHARDS,
    assert_little_is_communicated,
    assert_same,
    every_kind,
    make_mesh,
    run,
    set_mesh,
    shard,
)
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P


def arguments_of(case, times=4):
    inputs = jax.tree.map(lambda x: np.concatenate([x] * times), case.inputs)
    return {name: inputs[name] for name in case.wrt}, inputs, MASK


def value_and_grad(case, **options):
    def loss(wrt, inputs, where):
        losses = case(inputs | wrt, where, **options)
        return total(losses), losses

    return jax.value_and_grad(loss, has_aux=True)


@functools.cache
def on_one_device(case):
    return jax.jit(value_and_grad(case))(*arguments_of(case))


def specs_of(arrays):
    return jax.tree.map(lambda x: P("data", *[None] * (x.ndim - 1)), arrays)


@every_kind
@every_head
def test_jit_over_sharded_rows(case, kind):
    mesh = make_mesh(kind)
    with set_mesh(mesh):
        result, program = run(value_and_grad(case), shard(arguments_of(case), mesh))
    assert_same(result, on_one_device(case))
    assert_little_is_communicated(program)


@every_head
def test_explicit_arrays_without_a_mesh_in_context(case):
    args = shard(arguments_of(case), make_mesh(AxisType.Explicit))
    assert_same(jax.jit(value_and_grad(case))(*args), on_one_device(case))


@every_kind
@every_head
def test_shard_map_adds_sums_and_counts_over_the_axis(case, kind):
    args, mesh = arguments_of(case), make_mesh(kind)
    specs = specs_of(args)
    step = jax.shard_map(
        value_and_grad(case, axis_name="data"),
        mesh=mesh,
        in_specs=specs,
        out_specs=(P(), specs[0]),
    )
    result, program = run(step, shard(args, mesh))
    assert_same(result, on_one_device(case))
    assert_little_is_communicated(program)


@every_head
def test_shard_map_without_checks_has_gradients_of_the_sum_over_devices(case):
    """With ``check_vma=False`` the transpose of psum is psum; averaging the gradients corrects it."""
    args, mesh = arguments_of(case), make_mesh(AxisType.Auto)
    specs = specs_of(args)
    step = jax.shard_map(
        value_and_grad(case, axis_name="data"),
        mesh=mesh,
        in_specs=specs,
        out_specs=(P(), specs[0]),
        check_vma=False,
    )
    value, gradients = jax.jit(step)(*shard(args, mesh))
    averaged = jax.tree.map(lambda g: g / SHARDS, gradients)
    assert_same((value, averaged), on_one_device(case))


@every_head
def test_modules_add_sums_and_counts_over_the_axis_of_an_option(case):
    mesh = make_mesh(AxisType.Explicit)
    fields = dataclasses.fields(case.module)
    options = {f.name: getattr(case.module, f.name) for f in fields} | {"axis_name": "data"}
    distributed = type(case.module)(**options)
    _, inputs, where = arguments_of(case)

    def step(inputs, where):
        return distributed(**case.arguments(inputs, where))

    args = inputs, where
    step = jax.shard_map(step, mesh=mesh, in_specs=specs_of(args), out_specs=P())
    expected = case.module(**case.arguments(inputs, where))
    assert_same(jax.jit(step)(*shard(args, mesh)), expected)


def test_the_counts_of_the_devices_differ():
    counts = MASK.reshape(SHARDS, -1).sum(axis=1)
    assert set(counts) == {0, 1, 2, 3}
