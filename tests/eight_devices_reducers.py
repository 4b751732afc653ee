"""Weighted and hard means over 8 devices; ``test_many_devices.py`` runs this file."""

import functools
import inspect

import jax
import numpy as np
import pytest
from cases import every_loss_with_reducer, total
from devices import (
    MASK,
    ROWS,
    assert_little_is_communicated,
    assert_same,
    make_mesh,
    run,
    set_mesh,
    shard,
)
from eight_devices import REDUCED, inputs_of
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from searches import MOST_COUNTS, search  # noqa: F401
from versions import needs_jax

import vis4d_jax_loss as vjl

HARD_MEANS = {
    "fraction": functools.partial(vjl.HardMeanLoss, fraction=0.4),
    "threshold": functools.partial(vjl.HardMeanLoss, threshold=0.5, min_kept=3),
}
on_explicit_axes = needs_jax("0.10", "a where over an explicitly sharded axis")
every_kind = pytest.mark.parametrize(
    "kind", [AxisType.Auto, pytest.param(AxisType.Explicit, marks=on_explicit_axes)], ids=str
)
each_hard_mean = pytest.mark.parametrize("hard_mean", HARD_MEANS.values(), ids=HARD_MEANS)

# Losses of 5 values: ties are on several shards. The kept ones are not spread evenly.
LOSSES = np.random.default_rng(0).integers(0, 5, (ROWS, 5)).astype(np.float32) / 4
WEIGHT = np.random.default_rng(1).uniform(size=(ROWS, 1)).astype(np.float32)


def value_and_grad(reducer):
    return jax.value_and_grad(lambda loss, where: reducer(loss, where=where))


def in_shards(step, mesh, *in_specs):
    return jax.shard_map(step, mesh=mesh, in_specs=in_specs, out_specs=(P(), P("data")))


@every_kind
@each_hard_mean
@pytest.mark.parametrize("mask", [np.ones(ROWS, bool), MASK, MASK & False])
def test_the_hard_mean_is_global(kind, hard_mean, mask, search):  # noqa: F811
    expected = jax.jit(value_and_grad(hard_mean()))(LOSSES, mask)
    mesh = make_mesh(kind)
    mapped = in_shards(value_and_grad(hard_mean(axis_name="data")), mesh, P("data"), P("data"))
    for step in (value_and_grad(hard_mean()), mapped):
        with set_mesh(mesh):
            result, program = run(step, shard((LOSSES, mask), mesh))
        assert_same(result, expected)
        assert_little_is_communicated(program, 1 if search == "cpu" else MOST_COUNTS)


@every_kind
def test_the_weighted_mean_is_global(kind):
    def step(loss, weight, where, axis_name=None):
        reducer = vjl.WeightedMeanLoss(weight, axis_name=axis_name)
        return value_and_grad(reducer)(loss, where)

    expected = jax.jit(step)(LOSSES, WEIGHT, MASK)
    np.testing.assert_allclose(
        expected[0], (LOSSES * WEIGHT)[MASK].sum() / WEIGHT[MASK].sum() / 5, rtol=1e-6
    )
    mesh = make_mesh(kind)
    mapped = in_shards(functools.partial(step, axis_name="data"), mesh, *[P("data")] * 3)
    for sharded in (step, mapped):
        with set_mesh(mesh):
            result, program = run(sharded, shard((LOSSES, WEIGHT, MASK), mesh))
        assert_same(result, expected)
        assert_little_is_communicated(program)


@every_kind
def test_hard_negatives_equal_those_of_one_device(kind):
    positive = LOSSES == 0.5
    expected = vjl.hard_negative_mask(LOSSES, positive, 0.7, MASK)
    mesh = make_mesh(kind)

    def mine(cost, positive, where, axis_name=None):
        return vjl.hard_negative_mask(cost, positive, 0.7, where, axis_name=axis_name)

    mapped = jax.shard_map(
        functools.partial(mine, axis_name="data"),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P("data"),
    )
    arrays = shard((LOSSES, positive, MASK), mesh)
    for step in (mine, mapped):
        with set_mesh(mesh):
            mask = jax.jit(step)(*arrays)
        np.testing.assert_array_equal(mask, expected)


def loss_of(case, reducer, axis_name=None):
    """Value and gradient of a loss, which reduces over the mesh axis if it is given one."""
    # The axis of dice_loss is for images whose pixels are sharded. Here whole images are.
    takes_axis = "axis_name" in inspect.signature(case.function).parameters
    takes_axis = takes_axis and case.name != "dice_loss"
    axis = {"axis_name": axis_name} if takes_axis else {}
    own_axis = axis_name if case.name not in REDUCED else None

    def loss(wrt, inputs, where):
        return total(
            case.function(
                **inputs | wrt, reducer=reducer(own_axis), where=where, **case.options, **axis
            )
        )

    return jax.value_and_grad(loss)


REDUCERS = {
    "hard": lambda axis: vjl.HardMeanLoss(fraction=0.4, axis_name=axis),
    "weighted": lambda axis: vjl.WeightedMeanLoss(2.0, axis_name=axis),
}


@every_loss_with_reducer
@pytest.mark.parametrize("reducer", REDUCERS.values(), ids=REDUCERS)
def test_they_reduce_every_loss_over_shards(case, reducer):
    arrays = (*inputs_of(case), MASK)
    expected = jax.jit(loss_of(case, reducer))(*arrays)
    mesh = make_mesh(AxisType.Explicit)
    specs = jax.tree.map(lambda x: P("data", *[None] * (x.ndim - 1)), arrays)
    mapped = jax.shard_map(
        loss_of(case, reducer, "data"), mesh=mesh, in_specs=specs, out_specs=(P(), specs[0])
    )
    assert_same(jax.jit(mapped)(*shard(arrays, mesh)), expected)


@every_kind
@every_loss_with_reducer
def test_the_hard_mean_of_every_loss_over_sharded_rows(case, kind):
    arrays = (*inputs_of(case), MASK)
    step = loss_of(case, REDUCERS["hard"])
    mesh = make_mesh(kind)
    with set_mesh(mesh):
        result = jax.jit(step)(*shard(arrays, mesh))
    assert_same(result, jax.jit(step)(*arrays))
