"""Mining and reducers over 8 devices; ``test_many_devices.py`` runs this file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import (
    MASK,
    ROWS,
    SHARDS,
    assert_little_is_communicated,
    assert_same,
    every_kind,
    make_mesh,
    set_mesh,
    shard,
)
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from searches import MOST_COUNTS, search  # noqa: F401

import vis4d_jax_loss as vjl


def test_communication_and_sorts_are_found_in_a_program():
    mesh = make_mesh(AxisType.Auto)
    x = shard(np.ones((16, 4), np.float32), mesh)
    gather = jax.jit(lambda x: x + 1, out_shardings=NamedSharding(mesh, P()))
    with pytest.raises(AssertionError, match="communicated 64 elements"):
        assert_little_is_communicated(gather.lower(x).compile().as_text())
    with pytest.raises(AssertionError):
        assert_little_is_communicated(
            jax.jit(lambda x: jnp.sum(jnp.sort(x, axis=1))).lower(x).compile().as_text()
        )


def test_uneven_shards_give_the_global_mean():
    mesh = make_mesh(AxisType.Explicit)
    loss, where = np.arange(16.0, dtype=np.float32), np.arange(16) < 3
    expected = (0 + 1 + 2) / 3
    mean_of_means = np.mean([(0 + 1) / 2, 2 / 1, *[0] * 6])
    assert abs(expected - mean_of_means) > 0.5

    def reduce(reducer):
        specs = (P("data"), P("data"))
        mapped = jax.shard_map(
            lambda loss, where: reducer(loss, where=where),
            mesh=mesh,
            in_specs=specs,
            out_specs=P(),
        )
        return jax.jit(mapped)(*shard((loss, where), mesh))

    assert reduce(vjl.OverAxis(vjl.mean_loss, "data")) == expected
    assert reduce(vjl.OverAxis(vjl.sum_loss, "data")) == 3
    weighted = vjl.SumWeightedLoss(2.0, 0.25, axis_name="data")  # 8 shards of 0.25: divides by 2
    assert reduce(lambda loss, where: weighted(loss, where=where)) == 3


def test_weights_and_factors_may_differ_between_shards():
    mesh = make_mesh(AxisType.Explicit)
    rng = np.random.default_rng(0)
    loss, weight = rng.normal(size=(2, 16)).astype(np.float32)
    counts = np.arange(SHARDS, dtype=np.float32)

    def local(loss, weight, count):
        return vjl.SumWeightedLoss(weight, count[0], axis_name="data")(loss)

    specs = (P("data"),) * 3
    grad = jax.value_and_grad(local, argnums=(0, 1))
    step = jax.shard_map(grad, mesh=mesh, in_specs=specs, out_specs=(P(), specs[:2]))
    result = jax.jit(step)(*shard((loss, weight, counts), mesh))
    total_count = counts.sum()
    assert_same(
        result, ((loss * weight).sum() / total_count, (weight / total_count, loss / total_count))
    )


# 5 values over 24 rows of 5: ties are on several shards, and k may exceed the 15 values of a shard.
VALUES = np.random.default_rng(0).integers(0, 5, (ROWS, 5)).astype(np.float32)
KS = [-1, 0, 1, 14, 16, 60, 97, 119, 120, 500]


@every_kind
@pytest.mark.parametrize("where", [None, MASK], ids=["all", "masked"])
def test_top_k_mask_equals_that_of_one_device(kind, where, search):  # noqa: F811
    mesh = make_mesh(kind)
    where = np.ones(ROWS, bool) if where is None else where
    one = jax.jit(vjl.top_k_mask)
    mapped = jax.shard_map(
        functools.partial(vjl.top_k_mask, axis_name="data"),
        mesh=mesh,
        in_specs=(P("data", None), P(), P("data")),
        out_specs=P("data", None),
    )
    values, sharded_where = shard((VALUES, where), mesh)
    for step in (jax.jit(mapped), one):
        compiled = step.lower(values, jnp.int32(1), sharded_where).compile()
        assert_little_is_communicated(compiled.as_text(), 1 if search == "cpu" else MOST_COUNTS)
        for k in KS:
            mask = compiled(values, jnp.int32(k), sharded_where)
            np.testing.assert_array_equal(mask, one(VALUES, k, where))
            assert mask.sum() == min(max(k, 0), 5 * where.sum())


def test_top_k_mask_of_each_row_without_a_mesh_in_context():
    rows = jax.jit(jax.vmap(vjl.top_k_mask, in_axes=(0, None)))
    values = shard(VALUES, make_mesh(AxisType.Explicit))
    np.testing.assert_array_equal(rows(values, 2), rows(VALUES, 2))


def test_top_k_mask_over_two_mesh_axes():
    mesh = jax.make_mesh((4, 2), ("hosts", "chips"))
    axes = ("hosts", "chips")
    mapped = jax.shard_map(
        functools.partial(vjl.top_k_mask, axis_name=axes),
        mesh=mesh,
        in_specs=(P(axes, None), P()),
        out_specs=P(axes, None),
    )
    values = jax.device_put(VALUES, NamedSharding(mesh, P(axes, None)))
    for k in KS:
        np.testing.assert_array_equal(
            jax.jit(mapped)(values, jnp.int32(k)), vjl.top_k_mask(VALUES, k)
        )


@every_kind
def test_random_k_mask_selects_k_over_all_shards(kind):
    mesh = make_mesh(kind)
    where = MASK[:, None] & (VALUES > 1)
    mapped = jax.shard_map(
        functools.partial(vjl.random_k_mask, axis_name="data"),
        mesh=mesh,
        in_specs=(P(), P(), P("data", None)),
        out_specs=P("data", None),
    )
    sharded = shard(where, mesh)
    for k in (0, 1, 7, 20, 500):
        mask = jax.jit(mapped)(jax.random.key(k), jnp.int32(k), sharded)
        assert mask.sum() == min(k, where.sum())
        assert not np.any(mask & ~where)
        # Under jit alone, the choice is the same as on one device.
        with set_mesh(mesh):
            mask = jax.jit(vjl.random_k_mask)(jax.random.key(k), jnp.int32(k), sharded)
        np.testing.assert_array_equal(mask, vjl.random_k_mask(jax.random.key(k), k, where))


def test_random_k_mask_draws_differently_on_each_shard():
    mesh = make_mesh(AxisType.Explicit)
    mapped = jax.shard_map(
        functools.partial(vjl.random_k_mask, axis_name="data"),
        mesh=mesh,
        in_specs=(P(), P(), P("data", None)),
        out_specs=P("data", None),
    )
    where = shard(np.ones((SHARDS, 32), bool), mesh)
    mask = np.asarray(jax.jit(mapped)(jax.random.key(0), jnp.int32(128), where))
    assert len({tuple(row) for row in mask}) == SHARDS


def test_random_mining_over_shards():
    mesh = make_mesh(AxisType.Explicit)
    pred, target = VALUES / 5, (VALUES == 4).astype(np.int32)
    loss = vjl.EmbeddingDistanceLoss(
        neg_pos_ub=0.5, neg_margin=0.0, hard_mining=False, axis_name="data"
    )

    def chosen(pred, target, key):
        _, weight, count = loss.update_weight(pred, target, jnp.ones_like(pred), key)
        return jnp.asarray(weight), jax.lax.psum(count, "data")

    spec = P("data", None)
    step = jax.shard_map(chosen, mesh=mesh, in_specs=(spec, spec, P()), out_specs=(spec, P()))
    weight, count = jax.jit(step)(*shard((pred, target), mesh), jax.random.key(0))
    positives = int((target == 1).sum())
    assert count == weight.sum() == positives + int(positives * 0.5)


def test_mining_over_sharded_columns_under_vmap():
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    values = np.random.default_rng(1).integers(0, 4, (4, 3, 8)).astype(np.float32)
    target = (values == 3).astype(np.int32)
    steps = (
        jax.vmap(lambda v, t: vjl.top_k_mask(v, 5)),
        jax.vmap(lambda v, t: vjl.top_k_mask(v, 9, t == 0)),
        jax.vmap(lambda v, t: vjl.top_k_mask(v[0], 3)),
        jax.vmap(lambda v, t: vjl.random_k_mask(jax.random.key(0), 5, t == 0)),
        jax.vmap(jax.value_and_grad(vjl.EmbeddingDistanceLoss(neg_pos_ub=1.0))),
    )
    expected = [step(values, target) for step in steps]
    sharding = NamedSharding(mesh, P("data", None, "model"))
    inputs = jax.device_put((values, target), sharding)
    for step, result in zip(steps, expected, strict=True):
        assert_same(jax.jit(step)(*inputs), result)  # no mesh in context
        with set_mesh(mesh):
            assert_same(jax.jit(step)(*inputs), result)
            assert_same(step(*inputs), result)


@every_kind
def test_eager_mining_of_sharded_arrays(kind):
    values = shard(VALUES, make_mesh(kind))
    for _ in range(2):
        np.testing.assert_array_equal(vjl.top_k_mask(values, 14), vjl.top_k_mask(VALUES, 14))


@pytest.mark.parametrize("check", [True, False])
def test_the_same_values_and_another_k_on_each_device(check):
    mesh = make_mesh(AxisType.Auto)
    mapped = functools.partial(jax.shard_map, mesh=mesh, check_vma=check)
    ks = jnp.arange(SHARDS) * 2
    expected = jax.vmap(vjl.top_k_mask, (None, 0))(VALUES, ks)

    def mine(k):
        return vjl.top_k_mask(jnp.asarray(VALUES), k[0])[None]

    step = mapped(mine, in_specs=P("data"), out_specs=P("data"))
    np.testing.assert_array_equal(jax.jit(step)(ks), expected)

    def mine_at_random(where, k):
        return vjl.random_k_mask(jax.random.key(0), k[0], where)[None]

    step = mapped(mine_at_random, in_specs=(P(), P("data")), out_specs=P("data"))
    masks = jax.jit(step)(VALUES > 1, ks)
    np.testing.assert_array_equal(masks.sum((1, 2)), ks)


def test_another_bound_of_negatives_on_each_device():
    mesh = make_mesh(AxisType.Auto)
    pred, target = jnp.asarray(VALUES / 5), jnp.asarray(VALUES == 4)
    bounds = jnp.arange(1.0, SHARDS + 1) / 4

    def loss(bound):
        return vjl.embedding_distance_loss(pred, target, neg_pos_ub=bound)

    step = jax.shard_map(
        lambda bound: loss(bound[0])[None], mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    np.testing.assert_allclose(jax.jit(step)(bounds), jax.vmap(loss)(bounds), rtol=1e-6)


def test_one_k_for_all_shards_of_an_axis():
    mesh = make_mesh(AxisType.Auto)
    step = jax.shard_map(
        lambda x, k: vjl.top_k_mask(x, k[0], axis_name="data"),
        mesh=mesh,
        in_specs=(P("data"), P("data")),
        out_specs=P("data"),
    )
    with pytest.raises(ValueError, match="top_k_mask: k must be the same on all shards of axis_"):
        jax.jit(step)(VALUES, jnp.arange(SHARDS))
