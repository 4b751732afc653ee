"""What several heads share: their inner losses, assigned targets, and the outputs of a class."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vis4d_jax_loss._checks import describe, fail
from vis4d_jax_loss._mesh_axis import AxisName
from vis4d_jax_loss._numerics import fill_masked
from vis4d_jax_loss.losses._negative_log_prob import is_label
from vis4d_jax_loss.reducer import OverAxis, sum_loss

#: A loss function or module: ``loss(pred, target, reducer=..., where=...)``.
InnerLoss = Callable[..., jax.Array]


def check_inner_losses(function: str, **losses: Any) -> None:
    """Check options of a head that are losses."""
    for name, loss in losses.items():
        if not callable(loss) or isinstance(loss, type):
            rule = f"{name} must be a loss, such as l1_loss or SmoothL1Loss(beta=0.5)"
            got = f"the class {loss.__name__}" if isinstance(loss, type) else repr(loss)
            remedy = "It is called as loss(pred, target, reducer=..., where=...)."
            fail(TypeError, function, rule, describe(**{name: got}), remedy)


def check_num_classes(function: str, num_classes: int | None, outputs: int, name: str) -> None:
    """Check that the option agrees with the classes of an output."""
    if num_classes is not None and outputs != num_classes:
        rule = f"{name} must have num_classes classes"
        got = describe(**{name: f"with {outputs} classes"}, num_classes=num_classes)
        fail(ValueError, function, rule, got)


def average(
    loss: InnerLoss,
    pred: jax.Array,
    target: jax.Array,
    where: jax.Array | None,
    divisor: jax.Array,
    axis_name: AxisName | None,
) -> jax.Array:
    """The sum of an inner loss over all shards, divided by a number; 0 if that is 0.

    Targets are constants. This is no ``SumWeightedLoss``, whose weights XLA on a CPU would store.
    """
    reducer = sum_loss if axis_name is None else OverAxis(sum_loss, axis_name)
    if isinstance(target, jax.Array):  # JAX may wrap wide labels of NumPy
        target = lax.stop_gradient(target)
    total = loss(pred, target, reducer=reducer, where=where)
    # Not by safe_divide, whose derivative makes two losses slower than this on a CPU.
    empty = divisor == 0
    return jnp.where(empty, 0, total / jnp.where(empty, 1, divisor).astype(total.dtype))


_FEW = 16  # So many outputs per class are scattered on a CPU.


# The derivative is written out: JAX's own would scatter into an array of zeros, not write it once.
@jax.custom_jvp
def of_class(outputs: jax.Array, classes: jax.Array, where: jax.Array) -> jax.Array:
    """The outputs ``[N, ...]`` of one class per row of ``[N, C, ...]``; 0 where masked.

    Masked rows may have any class.
    """
    return (_masked_sum if _is_sharded(outputs) else _gather)(outputs, classes, where)


@of_class.defjvp
def _of_class_jvp(primals, tangents):
    outputs, classes, where = primals
    change = tangents[0], classes, where
    if _is_sharded(outputs) or math.prod(outputs.shape[2:]) > _FEW:
        return of_class(*primals), _masked_sum(*change)
    return of_class(*primals), lax.platform_dependent(*change, cpu=_gather, default=_masked_sum)


def _is_sharded(x: jax.Array) -> bool:
    """Whether it is sharded explicitly. JAX cannot gather from such arrays."""
    return any(axes is not None for axes in jax.typeof(x).sharding.spec)


# Called without jit, jax.debug_nans would stop at NaN in padding.
@jax.jit
def _gather(outputs: jax.Array, classes: jax.Array, where: jax.Array) -> jax.Array:
    index = lax.expand_dims(classes, range(1, outputs.ndim))
    chosen = jnp.take_along_axis(outputs, index, axis=1, mode="clip").squeeze(1)
    return fill_masked(chosen, where)


@jax.jit
def _masked_sum(outputs: jax.Array, classes: jax.Array, where: jax.Array) -> jax.Array:
    one_hot = is_label(classes, outputs.shape[:2], axis=1) & where[:, None]
    return jnp.sum(fill_masked(outputs, one_hot), axis=1)
