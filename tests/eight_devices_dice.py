"""The dice loss over 8 devices, with sharded pixels or images; ``test_many_devices.py`` runs this.

Each image has 16 rows of pixels, two per device. The numbers of valid pixels differ, and devices 1
and 5 have none.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import (
    SHARDS,
    assert_little_is_communicated,
    assert_same,
    every_kind,
    make_mesh,
    run,
    set_mesh,
)
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from versions import needs_jax

from vis4d_jax_loss import DiceLoss, OverAxis, dice_loss, identity_loss, mean_loss

IMAGES, ROWS, COLUMNS, CLASSES = 3, 2 * SHARDS, 3, 4
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(IMAGES, ROWS, COLUMNS, CLASSES)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES - 1, (IMAGES, ROWS, COLUMNS))  # the last class is absent
LABELS[0, 0, 0] = 255
WHERE = RNG.random((IMAGES, ROWS, COLUMNS)) > 0.3
WHERE[:, [2, 3, 10, 11]] = False  # devices 1 and 5
WHERE[2] = False  # an image without a valid pixel
LOGITS[~WHERE] = np.nan
EVERY_LAYOUT = pytest.mark.parametrize("class_axis", [1, -1])
EVERY_COUNT = pytest.mark.parametrize("classes", [1, CLASSES])
EVERY_ABSENT = pytest.mark.parametrize("absent", ["count", "skip"])


def arguments(class_axis, classes):
    labels = np.where(LABELS == 255, 255, np.minimum(LABELS, max(classes - 1, 1)))
    return np.moveaxis(LOGITS[..., :classes], -1, class_axis), labels, WHERE


def value_and_grad(class_axis, **options):
    def loss(logits, labels, where):
        return dice_loss(logits, labels, where=where, class_axis=class_axis, **options)

    return jax.value_and_grad(loss)


def specs(class_axis, images=None, rows=None):
    """How the arguments are sharded over their images and their rows of pixels."""
    logits = P(images, None, rows, None) if class_axis == 1 else P(images, rows, None, None)
    return logits, P(images, rows, None), P(images, rows, None)


def shard(arrays, mesh, spec):
    put = functools.partial(jax.tree.map, lambda x, s: jax.device_put(x, NamedSharding(mesh, s)))
    return tuple(put(x, s) for x, s in zip(arrays, spec, strict=True))


@needs_jax("0.10", "a where over an explicitly sharded axis")
@every_kind
@EVERY_LAYOUT
@EVERY_COUNT
@EVERY_ABSENT
def test_jit_over_sharded_pixels(kind, class_axis, classes, absent):
    mesh, arrays = make_mesh(kind), arguments(class_axis, classes)
    step = value_and_grad(class_axis, absent=absent)
    with set_mesh(mesh):
        result, program = run(step, shard(arrays, mesh, specs(class_axis, rows="data")))
    assert_same(result, jax.jit(step)(*arrays))
    assert_little_is_communicated(program, largest=IMAGES * classes)


@EVERY_LAYOUT
@EVERY_COUNT
@EVERY_ABSENT
def test_shard_map_over_pixels_adds_the_counts_over_the_axis(class_axis, classes, absent):
    mesh, arrays = make_mesh(AxisType.Auto), arguments(class_axis, classes)
    spec = specs(class_axis, rows="data")
    step = value_and_grad(class_axis, absent=absent, axis_name="data")
    mapped = jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=(P(), spec[0]))
    result, program = run(mapped, shard(arrays, mesh, spec))
    expected = jax.jit(value_and_grad(class_axis, absent=absent))(*arrays)
    assert_same(result, expected)
    assert_little_is_communicated(program, largest=3 * IMAGES * classes + 2 * IMAGES)
    assert 0 < expected[0] < 1


@EVERY_LAYOUT
@EVERY_ABSENT
def test_shard_map_over_images_reduces_over_the_axis(class_axis, absent):
    """Eight images, of which some have nothing valid, and others lack a class."""
    each = (x.reshape(IMAGES, SHARDS, 2 * COLUMNS, *x.shape[3:]) for x in (LOGITS, LABELS, WHERE))
    logits, labels, where = (np.moveaxis(x, 1, 0) for x in each)
    arrays = np.moveaxis(logits, -1, class_axis), labels, where
    mesh, spec = make_mesh(AxisType.Auto), specs(class_axis, images="data")
    reducer = OverAxis(mean_loss, "data")
    step = value_and_grad(class_axis, absent=absent, reducer=reducer)
    mapped = jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=(P(), spec[0]))
    result, program = run(mapped, shard(arrays, mesh, spec))
    assert_same(result, jax.jit(value_and_grad(class_axis, absent=absent))(*arrays))
    assert_little_is_communicated(program)


def test_both_axes_of_a_mesh():
    """Images over one axis, pixels over the other, with the module."""
    mesh = jax.make_mesh((2, 4), ("images", "pixels"), axis_types=(AxisType.Auto,) * 2)
    arrays = tuple(np.concatenate([x, x[::-1]])[:4] for x in arguments(-1, CLASSES))
    spec = specs(-1, images="images", rows="pixels")
    loss = DiceLoss(OverAxis(mean_loss, "images"), axis_name="pixels")

    def step(logits, labels, where):
        return jax.value_and_grad(lambda z: loss(z, labels, where=where))(logits)

    mapped = jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=(P(), spec[0]))
    result, _ = run(mapped, shard(arrays, mesh, spec))
    assert_same(result, jax.jit(value_and_grad(-1))(*arrays))


def test_an_invalid_label_on_one_device_is_seen_on_all():
    logits, labels, where = arguments(-1, CLASSES)
    labels[0, -1], where[0, -1] = CLASSES, True
    mesh, spec = make_mesh(AxisType.Auto), specs(-1, rows="data")

    def step(logits, labels, where):
        return dice_loss(
            jnp.nan_to_num(logits), labels, identity_loss, where=where, axis_name="data"
        )

    mapped = jax.shard_map(step, mesh=mesh, in_specs=spec, out_specs=P())
    losses = jax.jit(mapped)(*shard((logits, labels, where), mesh, spec))
    assert np.isnan(losses[0]).all()
    assert np.isfinite(losses[1:]).all()
