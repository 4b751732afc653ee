"""The wording of every report on values: nothing is computed but under ``checkify``."""

import jax
import jax.numpy as jnp
from jax.experimental import checkify
from jax.sharding import AxisType, PartitionSpec

from vis4d_jax_loss._numerics import blank


def _expect(function: str, rule: str, bad: jax.Array) -> None:
    count = jnp.sum(bad, dtype=jnp.int32)
    message = f"{function}: {rule}, got {{count}} other of {bad.size}."

    def check(count: jax.Array) -> jax.Array:
        checkify.debug_check(count == 0, message, count=count)
        return count

    mesh = jax.typeof(count).sharding.mesh
    if AxisType.Explicit not in mesh.axis_types:
        check(count)
        return
    # Batched by vmap, a check sorts its errors: JAX refuses that over an explicitly sharded axis.
    with jax.sharding.use_abstract_mesh(mesh):
        jax.sharding.auto_axes(check, out_sharding=PartitionSpec())(count)


def expect_finite(function: str, where: jax.Array | None = None, **arrays: jax.Array) -> None:
    for name, x in arrays.items():
        _expect(function, f"{name} must be finite", ~jnp.isfinite(blank(x, where)))


def expect_labels(function: str, bad: jax.Array, num_classes: int) -> None:
    rule = f"target must hold labels from 0 to {num_classes - 1}, or ignore_index"
    _expect(function, rule, bad)


def expect_pairs(function: str, bad: jax.Array) -> None:
    _expect(function, "target must hold 1 (same), 0 (different) or -1 (ignored)", bad)


def expect_ordered_boxes(function: str, **boxes: jax.Array) -> None:
    for name, x in boxes.items():
        bad = (x[..., 2] < x[..., 0]) | (x[..., 3] < x[..., 1])
        _expect(function, f"{name} must hold boxes with x1 <= x2 and y1 <= y2", bad)
