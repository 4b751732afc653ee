"""The loss over 8 devices is the loss over one: run by ``test_many_devices.py`` in its own process.

Every loss of ``cases.py``, its rows repeated so that equal values straddle shards, under a mask that
leaves one shard nothing and others anything from one row to all.
"""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import vis4d_jax_loss as vjl

SHARDS, ROWS = 8, 24
MASK = np.zeros((SHARDS, ROWS // SHARDS), bool)
MASK[[0, 6]] = True
MASK[2, 1] = MASK[7, 2] = True
MASK[3:5, :2] = True  # shards 1 and 5 have nothing valid
MASK = MASK.ravel()

PAIRS = [case for case in CASES if case.name.startswith(("multi_pos", "embedding"))]
REDUCED = ("embedding_distance_loss", "orthogonal_transform_regularization_loss")
COMMUNICATION = re.compile(
    r" = (.*?) (?:all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast"
    r"|reduce-scatter|ragged-all-to-all)(?:-start)?\("
)

every_loss = pytest.mark.parametrize("case", CASES, ids=repr)
every_kind = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)


def make_mesh(kind):
    return jax.make_mesh((SHARDS,), ("data",), axis_types=(kind,))


def spread(tree, mesh, axis=0):
    """Put arrays on the mesh, sharded over one of their axes."""

    def put(x):
        spec = P(*("data" if i == axis else None for i in range(np.ndim(x))))
        return jax.device_put(x, NamedSharding(mesh, spec))

    return jax.tree.map(put, tree)


def inputs_of(case, axis=0, times=4):
    inputs = jax.tree.map(lambda x: np.concatenate([x] * times, axis), case.inputs)
    return {name: inputs[name] for name in case.wrt}, inputs


def total(losses):
    return sum(jnp.sum(loss) for loss in jax.tree.leaves(losses))


def value_and_grad(case, reducer=vjl.mean_loss):
    return jax.value_and_grad(lambda wrt, inputs, where: total(case(inputs | wrt, where, reducer)))


@functools.cache
def on_one_device(case):
    return jax.jit(value_and_grad(case))(*inputs_of(case), MASK)


def run(step, args):
    """Run a compiled step and return its results and its program."""
    compiled = jax.jit(step).lower(*args).compile()
    return compiled(*args), compiled.as_text()


def assert_same(actual, expected):
    assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(assert_close, actual, expected)


def assert_frugal(program, largest=1):
    """No sort, and nothing communicated that has more elements than ``largest``."""
    assert not re.search(r" (sort|custom-call)\(.*(?i:sort|top_?k)", program)
    assert " sort(" not in program
    shapes = [s for m in COMMUNICATION.findall(program) for s in re.findall(r"\[([\d,]*)\]", m)]
    assert shapes, "nothing communicated at all: was anything sharded?"
    sizes = [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes]
    assert max(sizes) <= largest, f"communicated {max(sizes)} elements"


def largest(case):
    """Rotation reduces a sine and a cosine for each of 2 bins; every other loss reduces scalars."""
    return 4 if case.name == "rotation_loss" else 1


def test_the_program_is_read_correctly():
    mesh = make_mesh(AxisType.Auto)
    x = spread(np.ones((16, 4), np.float32), mesh)
    gather = jax.jit(lambda x: x + 1, out_shardings=NamedSharding(mesh, P()))
    with pytest.raises(AssertionError, match="communicated 64 elements"):
        assert_frugal(gather.lower(x).compile().as_text())
    with pytest.raises(AssertionError):
        assert_frugal(jax.jit(lambda x: jnp.sum(jnp.sort(x, axis=1))).lower(x).compile().as_text())


@every_kind
@every_loss
def test_jit_over_sharded_rows(case, kind):
    mesh = make_mesh(kind)
    with jax.set_mesh(mesh):
        result, program = run(value_and_grad(case), spread((*inputs_of(case), MASK), mesh))
    assert_same(result, on_one_device(case))
    assert_frugal(program, largest(case))


@every_loss
def test_explicit_arrays_without_a_mesh_in_context(case):
    args = spread((*inputs_of(case), MASK), make_mesh(AxisType.Explicit))
    assert_same(jax.jit(value_and_grad(case))(*args), on_one_device(case))


@every_kind
@pytest.mark.parametrize("case", PAIRS, ids=repr)
def test_jit_over_sharded_columns(case, kind):
    mesh = make_mesh(kind)
    args = (*inputs_of(case, axis=1, times=8), np.random.default_rng(0).random((6, 40)) > 0.5)
    with jax.set_mesh(mesh):
        result, program = run(value_and_grad(case), spread(args, mesh, axis=1))
    assert_same(result, jax.jit(value_and_grad(case))(*args))
    assert_frugal(program, largest=6)  # one number a row


@every_kind
@pytest.mark.parametrize("case", PAIRS, ids=repr)
def test_pair_losses_of_many_images_by_vmap(case, kind):
    """One matrix of pairs an image, images sharded: how tracking losses are called."""
    mesh = make_mesh(kind)
    images = jax.tree.map(lambda x: np.stack([x, x[::-1]] * 8), case.inputs)
    wrt = {name: images[name] for name in case.wrt}

    def step(wrt, images):
        return jax.value_and_grad(
            lambda wrt: jnp.mean(jax.vmap(lambda inputs: total(case(inputs)))(images | wrt))
        )(wrt)

    with jax.set_mesh(mesh):
        result, program = run(step, spread((wrt, images), mesh))
    assert_same(result, jax.jit(step)(wrt, images))
    assert_frugal(program)


def shard_mapped(case, mesh, reducer, **options):
    """The loss inside ``shard_map``, reducing over the mesh's axis."""
    arrays = (*inputs_of(case), MASK)
    specs = jax.tree.map(lambda x: P("data", *[None] * (x.ndim - 1)), arrays)
    takes_axis = "axis_name" in inspect.signature(case.function).parameters
    axis = {"axis_name": "data"} if takes_axis else {}
    if case.name not in REDUCED:
        reducer = vjl.OverAxis(reducer, "data")

    def local(wrt, inputs, where):
        inputs = inputs | wrt
        return total(case.function(**inputs, reducer=reducer, where=where, **case.options, **axis))

    step = jax.shard_map(
        jax.value_and_grad(local),
        mesh=mesh,
        in_specs=specs,
        out_specs=(P(), specs[0]),
        **options,
    )
    return step, spread(arrays, mesh)


@every_kind
@every_loss
def test_shard_map(case, kind):
    step, args = shard_mapped(case, make_mesh(kind), vjl.mean_loss)
    result, program = run(step, args)
    assert_same(result, on_one_device(case))
    assert_frugal(program, largest(case))


@every_loss
def test_shard_map_without_checks_has_gradients_of_the_sum_over_devices(case):
    """``check_vma=False`` transposes psum to psum: averaging the gradients makes up for it."""
    step, args = shard_mapped(case, make_mesh(AxisType.Auto), vjl.mean_loss, check_vma=False)
    value, gradients = jax.jit(step)(*args)
    averaged = jax.tree.map(lambda g: g / SHARDS, gradients)
    assert_same((value, averaged), on_one_device(case))


@every_loss
def test_modules_reduce_over_an_axis_by_an_option(case):
    mesh = make_mesh(AxisType.Explicit)
    _, inputs = inputs_of(case)
    module, extra = case.module, {}
    options = {k: v for k, v in vars(module).items() if not k.startswith("_")}
    if "axis_name" in options:
        options["axis_name"] = "data"
    if case.name not in REDUCED:
        options["reducer"] = vjl.OverAxis(vjl.mean_loss, "data")
    if case.name == "multi_pos_cross_entropy":
        options["reducer"] = vjl.identity_loss  # of the one number that the module is
        extra = {"weight": np.linspace(-1, 1, ROWS, dtype=np.float32), "avg_factor": 2.0}
    distributed = type(module)(**options)
    options["reducer"] = vjl.mean_loss if case.name not in REDUCED else options["reducer"]
    local = type(module)(**{k: v for k, v in options.items() if k != "axis_name"})

    def step(inputs, weight, where):
        each = extra and {"weight": weight, "avg_factor": extra["avg_factor"] / SHARDS}
        return total(distributed(**inputs, **each, where=where))

    arrays = (inputs, extra.get("weight", np.zeros(ROWS)), MASK)
    specs = jax.tree.map(lambda x: P("data", *[None] * (x.ndim - 1)), arrays)
    step = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=P()))
    expected = total(jax.jit(local)(**inputs, **extra, where=MASK))
    assert_same(step(*spread(arrays, mesh)), expected)


def test_uneven_shards_give_the_global_mean_and_not_the_mean_of_means():
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
        return jax.jit(mapped)(*spread((loss, where), mesh))

    assert reduce(vjl.OverAxis(vjl.mean_loss, "data")) == expected
    assert reduce(vjl.OverAxis(vjl.sum_loss, "data")) == 3
    weighted = vjl.SumWeightedLoss(2.0, 0.25, axis_name="data")  # 8 shards of 0.25: divides by 2
    assert reduce(lambda loss, where: weighted(loss, where=where)) == 3


def test_weights_and_factors_that_differ_between_shards():
    mesh = make_mesh(AxisType.Explicit)
    rng = np.random.default_rng(0)
    loss, weight = rng.normal(size=(2, 16)).astype(np.float32)
    counts = np.arange(SHARDS, dtype=np.float32)

    def local(loss, weight, count):
        return vjl.SumWeightedLoss(weight, count[0], axis_name="data")(loss)

    specs = (P("data"),) * 3
    grad = jax.value_and_grad(local, argnums=(0, 1))
    step = jax.shard_map(grad, mesh=mesh, in_specs=specs, out_specs=(P(), specs[:2]))
    result = jax.jit(step)(*spread((loss, weight, counts), mesh))
    total_count = counts.sum()
    assert_same(
        result, ((loss * weight).sum() / total_count, (weight / total_count, loss / total_count))
    )


# 5 values over 24 rows of 5: ties straddle shards, and k up to 120 exceeds any shard's 15.
VALUES = np.random.default_rng(0).integers(0, 5, (ROWS, 5)).astype(np.float32)
KS = [-1, 0, 1, 14, 16, 60, 97, 119, 120, 500]


@every_kind
@pytest.mark.parametrize("where", [None, MASK], ids=["all", "masked"])
def test_top_k_mask_selects_the_global_k_with_the_same_ties(kind, where):
    mesh = make_mesh(kind)
    where = np.ones(ROWS, bool) if where is None else where
    one = jax.jit(vjl.top_k_mask)
    mapped = jax.shard_map(
        functools.partial(vjl.top_k_mask, axis_name="data"),
        mesh=mesh,
        in_specs=(P("data", None), P(), P("data")),
        out_specs=P("data", None),
    )
    values, sharded_where = spread((VALUES, where), mesh)
    for step in (jax.jit(mapped), one):
        compiled = step.lower(values, jnp.int32(1), sharded_where).compile()
        assert_frugal(compiled.as_text())
        for k in KS:
            mask = compiled(values, jnp.int32(k), sharded_where)
            np.testing.assert_array_equal(mask, one(VALUES, k, where))
            assert mask.sum() == min(max(k, 0), 5 * where.sum())


def test_top_k_mask_of_each_row_without_a_mesh_in_context():
    rows = jax.jit(jax.vmap(vjl.top_k_mask, in_axes=(0, None)))
    values = spread(VALUES, make_mesh(AxisType.Explicit))
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
    sharded = spread(where, mesh)
    for k in (0, 1, 7, 20, 500):
        mask = jax.jit(mapped)(jax.random.key(k), jnp.int32(k), sharded)
        assert mask.sum() == min(k, where.sum())
        assert not np.any(mask & ~where)
        # Under jit alone, the choice is the very one of a single device.
        with jax.set_mesh(mesh):
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
    where = spread(np.ones((SHARDS, 32), bool), mesh)
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
    weight, count = jax.jit(step)(*spread((pred, target), mesh), jax.random.key(0))
    positives = int((target == 1).sum())
    assert count == weight.sum() == positives + int(positives * 0.5)


@every_kind
def test_checkify_reports_over_sharded_arrays(kind):
    mesh = make_mesh(kind)
    pred = np.zeros((16, 4), np.float32)
    pred[9, 2] = np.nan
    with jax.set_mesh(mesh):
        pred = spread(pred, mesh)
        for loss in (vjl.l1_loss, jax.vmap(vjl.l1_loss)):
            error, _ = checkify.checkify(jax.jit(loss))(pred, pred * 0)
            assert "l1_loss: pred must be finite, got 1 other" in error.get()


def test_classes_may_be_sharded():
    mesh = make_mesh(AxisType.Explicit)
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 16)).astype(np.float32), rng.integers(0, 16, 6)
    step = jax.value_and_grad(lambda z, y: vjl.cross_entropy(z, y, reducer=vjl.mean_loss))
    with jax.set_mesh(mesh):
        result, program = run(step, (spread(logits, mesh, axis=1), labels))
    assert_same(result, jax.jit(step)(logits, labels))
    assert_frugal(program, largest=6)


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
        with jax.set_mesh(mesh):
            assert_same(jax.jit(step)(*inputs), result)
            assert_same(step(*inputs), result)


@every_kind
def test_eager_mining_of_sharded_arrays(kind):
    values = spread(VALUES, make_mesh(kind))
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
