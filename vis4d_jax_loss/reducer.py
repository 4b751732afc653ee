"""Reducers turn the losses of all elements into the result."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from vis4d_jax_loss import _numerics
from vis4d_jax_loss._checks import check_axes, check_mask, describe, fail
from vis4d_jax_loss._mesh_axis import AxisName, psum_over
from vis4d_jax_loss._numerics import expand_mask, fill_masked, safe_divide


@runtime_checkable
class LossReducer(Protocol):
    """A function that reduces losses.

    It is called as ``reducer(loss)`` or, when elements are masked, as ``reducer(loss, where=mask)``
    with a boolean mask of the loss's full shape. Without masks, a reducer may lack ``where``.

    Example:
        >>> def worst(loss, where=None):
        ...     return jnp.max(loss, where=where, initial=0.0)
        >>> valid = jnp.array([True, True, False])
        >>> print(l1_loss(jnp.array([1.0, -3.0, 9.0]), jnp.zeros(3), worst, where=valid))
        3.0
    """

    if TYPE_CHECKING:
        # Type checkers accept functions with and without ``where`` for this signature only.
        def __call__(self, loss: jax.Array, /, *args: Any, **kwargs: Any) -> jax.Array: ...
    else:

        def __call__(self, loss, /, *, where=None): ...


def identity_loss(
    loss: ArrayLike, *, where: ArrayLike | None = None, axis_name: AxisName | None = None
) -> jax.Array:
    """Keep one loss per element. Masked elements become 0, so summing gives :func:`sum_loss`.

    Args:
        loss: Losses of any shape.
        where: Mask of valid elements over the leading axes of ``loss``.
        axis_name: Not used. It is accepted so that ``OverAxis`` works with this reducer.

    Returns:
        The losses, with the same shape and dtype.

    Example:
        >>> print(identity_loss(jnp.array([1.0, 2.0]), where=jnp.array([True, False])))
        [1. 0.]
    """
    del axis_name
    loss, where = read_losses("identity_loss", loss, where)
    return fill_masked(loss, where)


def sum_loss(
    loss: ArrayLike,
    *,
    where: ArrayLike | None = None,
    axis: int | Sequence[int] | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""Sum the losses, in float32 or better.

    .. math:: \sum_i m_i \ell_i

    with the losses :math:`\ell_i` and a mask :math:`m_i` of 1 (valid) and 0.

    Args:
        loss: Losses of any shape.
        where: Mask of valid elements over the leading axes of ``loss``.
        axis: Axis or axes of ``loss`` to sum over; by default all.
        axis_name: Mesh axis (or axes) of a ``shard_map`` to sum over as well.

    Returns:
        A scalar, or the axes of ``loss`` that are left.

    Raises:
        ValueError: If ``axis`` is not an axis of ``loss``, or repeats one.

    Example:
        >>> print(sum_loss(jnp.array([1.0, 2.0]), where=jnp.array([True, False])))
        1.0
    """
    losses = _numerics.to_float(identity_loss(loss, where=where))
    axes = check_axes("sum_loss", axis, losses.shape)
    return psum_over(jnp.sum(losses, axes), axis_name)


def mean_loss(
    loss: ArrayLike,
    *,
    where: ArrayLike | None = None,
    axis: int | Sequence[int] | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""Average the valid losses, in float32 or better; 0 if everything is masked.

    .. math:: \frac{\sum_i m_i \ell_i}{\sum_i m_i}

    with the losses :math:`\ell_i` and a mask :math:`m_i` of 1 (valid) and 0.

    Args:
        loss: Losses of any shape.
        where: Mask of valid elements over the leading axes of ``loss``.
        axis: Axis or axes of ``loss`` to average over; by default all. With
            ``functools.partial(mean_loss, axis=1)`` as reducer there is one loss per row.
        axis_name: Mesh axis (or axes) of a ``shard_map``. Sum and count are added over it before
            dividing, so that uneven shards give the global mean and not the mean of means.

    Returns:
        A scalar, or the axes of ``loss`` that are left. It is 0 where everything is masked.

    Raises:
        ValueError: If ``axis`` is not an axis of ``loss``, or repeats one.

    Example:
        >>> loss, where = jnp.array([[1.0, 2.0], [9.0, 9.0]]), jnp.array([True, False])
        >>> print(mean_loss(loss, where=where), mean_loss(loss, where=where, axis=1))
        1.5 [1.5 0. ]
    """
    loss, mask = read_losses("mean_loss", loss, where)
    axes = check_axes("mean_loss", axis, loss.shape)
    total = sum_loss(loss, where=mask, axis=axes, axis_name=axis_name)
    # The count is a float: as int32 it would wrap at 2**31 elements, on one device or over many.
    if where is None:
        count = jnp.asarray(math.prod(loss.shape[i] for i in axes), total.dtype)
    else:
        count = _count_valid(jnp.asarray(where), loss.shape, axes, total.dtype)
    return safe_divide(total, psum_over(count, axis_name))


@dataclasses.dataclass(frozen=True)
class OverAxis:
    """Makes a reducer work across the shards of a mesh axis. Use it inside ``shard_map``.

    It is compared and hashed by value, so it can be an option of a loss module.

    Args:
        reducer: :func:`mean_loss`, :func:`sum_loss`, :func:`identity_loss`, or your own function
            that takes ``where`` and ``axis_name``.
        axis_name: Mesh axis, or a tuple of them, over which the reducer adds its sums.

    Raises:
        TypeError: If ``reducer`` has an ``axis_name`` of its own, such as :class:`HardMeanLoss`.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> step = jax.shard_map(
        ...     OverAxis(mean_loss, "data"), mesh=mesh, in_specs=P("data"), out_specs=P())
        >>> print(step(jax.device_put(jnp.array([1.0, 3.0]), NamedSharding(mesh, P("data")))))
        2.0
    """

    reducer: Callable[..., jax.Array]
    axis_name: AxisName

    def __post_init__(self) -> None:
        if hasattr(self.reducer, "axis_name"):
            rule = "reducer must have no axis_name of its own"
            kind = type(self.reducer).__name__
            remedy = f"Pass it to the reducer: {kind}(..., axis_name={self.axis_name!r})."
            fail(TypeError, "OverAxis", rule, describe(reducer=kind), remedy)
        if isinstance(self.axis_name, list):  # which has no hash
            object.__setattr__(self, "axis_name", tuple(self.axis_name))

    def __call__(self, loss: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
        """Reduce the losses of all shards; ``where`` is a mask over their leading axes."""
        return self.reducer(loss, where=where, axis_name=self.axis_name)


def _count_valid(
    where: jax.Array, shape: tuple[int, ...], axes: Sequence[int], dtype: DTypeLike
) -> jax.Array:
    """Count the elements along axes that a mask over leading axes marks.

    The mask is not expanded: a GPU would store it, and read it once more.
    """
    leading, trailing = ([i for i in axes if (i < where.ndim) == first] for first in (True, False))
    count = _numerics.count_true(where, dtype, leading)
    kept = len(shape) - where.ndim - len(trailing)
    count = lax.expand_dims(count, range(count.ndim, count.ndim + kept))
    return count * jnp.asarray(math.prod(shape[i] for i in trailing), dtype)


def read_losses(
    function: str, loss: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array | None]:
    """The losses as an array, and the mask with the same shape."""
    loss = _numerics.as_array(loss)
    if jnp.iscomplexobj(loss):
        fail(TypeError, function, "losses must be real numbers", f"loss {loss.dtype}", "Take abs.")
    where = check_mask(function, where, loss.shape)
    return loss, None if where is None else expand_mask(where, loss.shape)
