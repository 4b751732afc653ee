"""Each loss over 8 devices equals the loss over one; ``test_many_devices.py`` runs this file.

The rows of ``cases.py`` are repeated, so that equal values are on several shards. The mask leaves
some shards without a valid row, and others with one, two or all.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, every_loss_with_reducer, total
from devices import (
    MASK,
    ROWS,
    SHARDS,
    assert_little_is_communicated,
    assert_same,
    every_kind,
    make_mesh,
    run,
    set_mesh,
    shard,
)
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from versions import needs_jax

import vis4d_jax_loss as vjl

PAIRS = [case for case in CASES if case.name.startswith(("multi_pos", "embedding"))]
# These take axis_name=, and the reducer of the first two sees a scalar.
REDUCED = (
    "embedding_distance_loss",
    "orthogonal_transform_regularization_loss",
    "rotation_loss",
)

# Their axis_name is that of the pixels of an image; eight_devices_dice.py tests it.
PIXELS = ("dice_loss",)


def inputs_of(case, axis=0, times=4):
    inputs = jax.tree.map(lambda x: np.concatenate([x] * times, axis), case.inputs)
    return {name: inputs[name] for name in case.wrt}, inputs


def value_and_grad(case, reducer=vjl.mean_loss):
    return jax.value_and_grad(lambda wrt, inputs, where: total(case(inputs | wrt, where, reducer)))


@functools.cache
def on_one_device(case):
    return jax.jit(value_and_grad(case))(*inputs_of(case), MASK)


def largest_message(case):
    """Rotation sends a sine and a cosine for each of 2 bins; every other loss sends scalars."""
    return 4 if case.name == "rotation_loss" else 1


EXPLICIT_NEEDS_JAX_0_10 = {
    "rotation_loss": "vmap over the axis after an explicitly sharded one",
    "embedding_distance_loss": "a where over an explicitly sharded axis",
}


def skip_explicit_in_old_jax(case, kind):
    reason = EXPLICIT_NEEDS_JAX_0_10.get(case.name)
    if reason and kind is AxisType.Explicit and jax.__version_info__ < (0, 10):
        pytest.skip(f"needs jax 0.10: {reason}")


@every_kind
@every_loss_with_reducer
def test_jit_over_sharded_rows(case, kind):
    skip_explicit_in_old_jax(case, kind)
    mesh = make_mesh(kind)
    with set_mesh(mesh):
        result, program = run(value_and_grad(case), shard((*inputs_of(case), MASK), mesh))
    assert_same(result, on_one_device(case))
    assert_little_is_communicated(program, largest_message(case))


@every_loss_with_reducer
def test_explicit_arrays_without_a_mesh_in_context(case):
    skip_explicit_in_old_jax(case, AxisType.Explicit)
    args = shard((*inputs_of(case), MASK), make_mesh(AxisType.Explicit))
    assert_same(jax.jit(value_and_grad(case))(*args), on_one_device(case))


@every_kind
@pytest.mark.parametrize("case", PAIRS, ids=repr)
def test_jit_over_sharded_columns(case, kind):
    skip_explicit_in_old_jax(case, kind)
    mesh = make_mesh(kind)
    args = (*inputs_of(case, axis=1, times=8), np.random.default_rng(0).random((6, 40)) > 0.5)
    with set_mesh(mesh):
        result, program = run(value_and_grad(case), shard(args, mesh, axis=1))
    assert_same(result, jax.jit(value_and_grad(case))(*args))
    assert_little_is_communicated(program, largest=6)  # one number per row


@every_kind
@every_loss_with_reducer
def test_a_mesh_of_two_axes(case, kind):
    """Rows over one axis and columns over the other, or rows over both."""
    skip_explicit_in_old_jax(case, kind)
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind,) * 2)
    if case in PAIRS or case.name in ("l1_loss", "l2_loss", "smooth_l1_loss"):
        spec = P("data", "model")
        wrt, inputs = inputs_of(case, axis=1)
        mask = np.random.default_rng(0).random(inputs["pred"].shape) > 0.5
    else:
        spec = P(("data", "model"))
        (wrt, inputs), mask = inputs_of(case), MASK
    args = jax.device_put((wrt, inputs, mask), NamedSharding(mesh, spec))
    with set_mesh(mesh):
        result = jax.jit(value_and_grad(case))(*args)
    assert_same(result, jax.jit(value_and_grad(case))(wrt, inputs, mask))


@every_kind
@pytest.mark.parametrize("case", PAIRS, ids=repr)
def test_pair_losses_of_many_images_by_vmap(case, kind):
    """One matrix of pairs per image, with sharded images, as in tracking."""
    mesh = make_mesh(kind)
    images = jax.tree.map(lambda x: np.stack([x, x[::-1]] * 8), case.inputs)
    wrt = {name: images[name] for name in case.wrt}

    def step(wrt, images):
        return jax.value_and_grad(
            lambda wrt: jnp.mean(jax.vmap(lambda inputs: total(case(inputs)))(images | wrt))
        )(wrt)

    with set_mesh(mesh):
        result, program = run(step, shard((wrt, images), mesh))
    assert_same(result, jax.jit(step)(wrt, images))
    assert_little_is_communicated(program)


def shard_mapped(case, mesh, reducer, **options):
    """The loss inside ``shard_map``, reducing over the mesh's axis."""
    arrays = (*inputs_of(case), MASK)
    specs = jax.tree.map(lambda x: P("data", *[None] * (x.ndim - 1)), arrays)
    takes_axis = "axis_name" in inspect.signature(case.function).parameters
    axis = {"axis_name": "data"} if takes_axis and case.name not in PIXELS else {}
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
    return step, shard(arrays, mesh)


@every_kind
@every_loss_with_reducer
def test_shard_map(case, kind):
    step, args = shard_mapped(case, make_mesh(kind), vjl.mean_loss)
    result, program = run(step, args)
    assert_same(result, on_one_device(case))
    assert_little_is_communicated(program, largest_message(case))


@every_loss_with_reducer
def test_shard_map_without_checks_has_gradients_of_the_sum_over_devices(case):
    """With ``check_vma=False`` the transpose of psum is psum; averaging the gradients corrects it."""
    step, args = shard_mapped(case, make_mesh(AxisType.Auto), vjl.mean_loss, check_vma=False)
    value, gradients = jax.jit(step)(*args)
    averaged = jax.tree.map(lambda g: g / SHARDS, gradients)
    assert_same((value, averaged), on_one_device(case))


@every_loss_with_reducer
def test_modules_reduce_over_the_axis_of_an_option(case):
    mesh = make_mesh(AxisType.Explicit)
    _, inputs = inputs_of(case)
    module, extra = case.module, {}
    options = {k: v for k, v in vars(module).items() if not k.startswith("_")}
    if "axis_name" in options and case.name not in PIXELS:
        options["axis_name"] = "data"
    if case.name not in REDUCED:
        options["reducer"] = vjl.OverAxis(vjl.mean_loss, "data")
    if case.name == "rotation_loss":
        options["reducer"] = vjl.mean_loss
    if case.name == "multi_pos_cross_entropy":
        options["reducer"] = vjl.identity_loss  # the module returns a scalar
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
    assert_same(step(*shard(arrays, mesh)), expected)


@needs_jax("0.10", "a where over an explicitly sharded axis")
@every_kind
def test_checkify_reports_values_of_sharded_arrays(kind):
    mesh = make_mesh(kind)
    pred = np.zeros((16, 4), np.float32)
    pred[9, 2] = np.nan
    with set_mesh(mesh):
        pred = shard(pred, mesh)
        for loss in (vjl.l1_loss, jax.vmap(vjl.l1_loss)):
            error, _ = checkify.checkify(jax.jit(loss))(pred, pred * 0)
            assert (
                "l1_loss: pred must be finite, got nan at (9, 2). Bad values: 1 of 64."
                in error.get()
            )


@needs_jax("0.10", "a where over an explicitly sharded axis")
def test_classes_may_be_sharded():
    mesh = make_mesh(AxisType.Explicit)
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 16)).astype(np.float32), rng.integers(0, 16, 6)
    step = jax.value_and_grad(lambda z, y: vjl.cross_entropy(z, y, reducer=vjl.mean_loss))
    with set_mesh(mesh):
        result, program = run(step, (shard(logits, mesh, axis=1), labels))
    assert_same(result, jax.jit(step)(logits, labels))
    assert_little_is_communicated(program, largest=6)
