"""Counts and shardings over 8 devices; ``test_many_devices.py`` runs this file.

Counts beyond int32, counts of the rotation loss that differ from shard to shard, and labels that
are replicated while logits are sharded.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import SHARDS, assert_same, every_kind, make_mesh, set_mesh, shard
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from versions import needs_jax

import vis4d_jax_loss as vjl

REPLICATED, SHARDED = P(), P("data")


def over_shards(function, *arrays, out_specs=REPLICATED):
    """Call a function in each shard, with the arrays sharded over their first axis."""
    mesh = make_mesh(AxisType.Auto)
    step = jax.shard_map(function, mesh=mesh, in_specs=SHARDED, out_specs=out_specs)
    return jax.jit(step)(*shard(arrays, mesh))


@pytest.mark.parametrize("size", [2**28, 3 * 2**27])  # together 2**31 and 3 * 2**30 elements
@pytest.mark.parametrize("masked", [False, True])
def test_a_mean_of_more_elements_than_int32_counts(size, masked):
    def mean(x):
        losses = jnp.broadcast_to(x[0], (size,))
        return vjl.mean_loss(losses, where=losses > 0 if masked else None, axis_name="data")

    def value_and_gradient(x):
        return jax.value_and_grad(mean)(x)

    value, gradient = over_shards(
        value_and_gradient, jnp.full(SHARDS, 0.5), out_specs=(REPLICATED, SHARDED)
    )
    np.testing.assert_allclose(value, 0.5, rtol=1e-3)
    np.testing.assert_allclose(gradient, 1 / SHARDS, rtol=1e-3)


def test_a_reducer_over_an_axis_counts_more_elements_than_int32():
    def mean(x):
        pred = jnp.broadcast_to(x[0], (2**28,))
        return vjl.l1_loss(pred, pred - 0.5, vjl.OverAxis(vjl.mean_loss, "data"))

    np.testing.assert_allclose(over_shards(mean, jnp.ones(SHARDS)), 0.5, rtol=1e-3)


# Rows in which each of two bins is active: many in some shards, none in others.
RNG = np.random.default_rng(0)
ROWS = 3 * SHARDS
PRED = RNG.normal(size=(ROWS, 6)).astype(np.float32)
BINS = (np.arange(ROWS)[:, None] % [5, 7] == 0).astype(np.float32)
BINS[:3] = 1
BINS[3:9] = 0
ANGLES = RNG.normal(size=(ROWS, 2)).astype(np.float32)
WHERE = RNG.random(ROWS) > 0.4


@pytest.mark.parametrize("reducer", [vjl.mean_loss, vjl.sum_loss], ids=lambda f: f.__name__)
@pytest.mark.parametrize("masked", [False, True])
def test_the_rotation_loss_reduces_its_bins_and_its_residuals_over_shards(reducer, masked):
    def loss(pred, bins, angles, where, axis_name=None):
        where = where if masked else None
        return vjl.rotation_loss(pred, bins, angles, 2, reducer, where=where, axis_name=axis_name)

    step = jax.value_and_grad(functools.partial(loss, axis_name="data"))
    arrays = PRED, BINS, ANGLES, WHERE
    result = over_shards(step, *arrays, out_specs=(REPLICATED, SHARDED))
    assert_same(result, jax.jit(jax.value_and_grad(loss))(*arrays))


def test_the_rotation_loss_may_keep_its_rows_in_each_shard():
    loss = functools.partial(vjl.rotation_loss, num_bins=2, reducer=vjl.identity_loss)
    rows = over_shards(
        functools.partial(loss, axis_name="data"), PRED, BINS, ANGLES, out_specs=SHARDED
    )
    assert_same(rows, loss(PRED, BINS, ANGLES))


def test_a_reducer_over_an_axis_is_an_error_in_the_rotation_loss():
    """It would average the residuals over all shards, and the cross-entropy over one."""

    def loss(pred, bins, angles):
        return vjl.rotation_loss(pred, bins, angles, 2, vjl.OverAxis(vjl.mean_loss, "data"))

    with pytest.raises(TypeError, match=r"Pass axis_name='data' to the loss"):
        over_shards(loss, PRED, BINS, ANGLES)


LOGITS = RNG.normal(size=(SHARDS, 2, 2, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, (SHARDS, 2, 2))


@needs_jax("0.10", "a where over an explicitly sharded axis")
@every_kind
@pytest.mark.parametrize("class_axis", [1, -1])
@pytest.mark.parametrize("sharded", ["logits", "labels"])
def test_either_logits_or_labels_may_be_replicated(sharded, class_axis, kind):
    logits = np.moveaxis(LOGITS, -1, class_axis)

    def step(logits, labels):
        return jax.value_and_grad(
            lambda z: vjl.seg_cross_entropy_loss(z, labels, class_axis=class_axis)
        )(logits)

    expected = jax.jit(step)(logits, LABELS)
    mesh = make_mesh(kind)
    with set_mesh(mesh):
        if sharded == "logits":
            result = jax.jit(step)(shard(logits, mesh), jnp.asarray(LABELS))
        else:
            result = jax.jit(step)(jnp.asarray(logits), shard(LABELS, mesh))
    assert_same(result, expected)


@needs_jax("0.10", "a where over an explicitly sharded axis")
@every_kind
def test_pair_targets_may_be_replicated(kind):
    pred = RNG.normal(size=(SHARDS, 5)).astype(np.float32)
    target = RNG.integers(-1, 2, (SHARDS, 5))
    step = jax.value_and_grad(lambda p, t: vjl.multi_pos_cross_entropy(p, t, vjl.mean_loss))
    expected = jax.jit(step)(pred, target)
    mesh = make_mesh(kind)
    with set_mesh(mesh):
        assert_same(jax.jit(step)(shard(pred, mesh), jnp.asarray(target)), expected)
        assert_same(jax.jit(step)(jnp.asarray(pred), shard(target, mesh)), expected)
