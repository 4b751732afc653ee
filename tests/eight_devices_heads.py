"""Each head over 8 devices equals the head over one; ``test_many_devices.py`` runs this file.

The rows of ``cases.py`` are repeated. The counts of valid rows differ between devices, and devices
1 and 5 have none, so no positive either. A row of QDTrack is a pair of images here.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import HEADS, Head, N, embeddings, total
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

import vis4d_jax_loss as vjl


def references_first(inputs):
    """References ``[B, V, ...]`` as ``[V, B, ...]``."""
    return {k: jnp.swapaxes(x, 0, 1) if k.startswith("ref") else x for k, x in inputs.items()}


# Three keys and four references in each of two views. Images 2 and 5 have no positive.
IMAGES = Head(
    "qdtrack_instance_similarity_loss",
    vjl.QDTrackInstanceSimilarityLoss(),
    {
        "key_embeddings": embeddings(3 * N, seed=1).reshape(N, 3, 2),
        "ref_embeddings": embeddings(8 * N, seed=2).reshape(N, 2, 4, 2),
        "key_track_ids": np.array([[1, 2, 3], [3, 4, 5], [6, 7, 8]] * 2),
        "ref_track_ids": np.array([[[1, 2, 2, 5], [4, 5, 1, 2]]] * N),
    },
    ("key_embeddings", "ref_embeddings"),
    mask="key_where",
    layout=references_first,
)
ROWS = [IMAGES if case.name == IMAGES.name else case for case in HEADS]
every_head = pytest.mark.parametrize("case", ROWS, ids=repr)

EXPLICIT_NEEDS_JAX_0_10 = {
    "box3d_uncertainty_loss": "vmap over the axis after an explicitly sharded one",
    "qdtrack_instance_similarity_loss": "a where over an explicitly sharded axis",
}


def skip_explicit_in_old_jax(case, kind=AxisType.Explicit):
    reason = EXPLICIT_NEEDS_JAX_0_10.get(case.name)
    if reason and kind is AxisType.Explicit and jax.__version_info__ < (0, 10):
        pytest.skip(f"needs jax 0.10: {reason}")


def largest_message(case):
    """The rotation of a box sends a sine and a cosine; all others send scalars."""
    return 2 if case.name == "box3d_uncertainty_loss" else 1


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
    skip_explicit_in_old_jax(case, kind)
    mesh = make_mesh(kind)
    with set_mesh(mesh):
        result, program = run(value_and_grad(case), shard(arguments_of(case), mesh))
    assert_same(result, on_one_device(case))
    assert_little_is_communicated(program, largest_message(case))


@every_head
def test_explicit_arrays_without_a_mesh_in_context(case):
    skip_explicit_in_old_jax(case)
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
    assert_little_is_communicated(program, largest_message(case))


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
