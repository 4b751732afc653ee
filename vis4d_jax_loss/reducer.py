"""Reducers: from many losses to what is optimised."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _checks
from vis4d_jax_loss._numerics import blank, count, cover, safe_divide, to_float

AxisName = Hashable | tuple[Hashable, ...]


class LossReducer(Protocol):
    """Anything that maps the losses to the result.

    Called as ``reducer(loss)``, or as ``reducer(loss, where=mask)`` when elements are masked, with
    a boolean mask of the loss's full shape. :func:`mean_loss`, ``jnp.mean`` and a user's own
    function all fit; one without ``where`` serves as long as nothing is masked.

    Example:
        >>> def worst(loss, where=None):
        ...     return jnp.max(loss, where=where, initial=0.0)
        >>> valid = jnp.array([True, True, False])
        >>> print(l1_loss(jnp.array([1.0, -3.0, 9.0]), jnp.zeros(3), worst, where=valid))
        3.0
    """

    def __call__(self, loss: jax.Array, /) -> jax.Array: ...


def identity_loss(
    loss: ArrayLike, *, where: ArrayLike | None = None, axis_name: AxisName | None = None
) -> jax.Array:
    """Keep one loss an element; masked elements are 0, so that summing them is :func:`sum_loss`.

    Args:
        loss: Losses of any shape.
        where: True for elements that count, covering the leading axes of ``loss``.
        axis_name: Accepted for symmetry; nothing is communicated.

    Returns:
        The losses, of the same shape and dtype.

    Raises:
        ValueError: If ``where`` does not cover the leading axes of ``loss``.
        TypeError: If ``where`` is not boolean.

    Example:
        >>> print(identity_loss(jnp.array([1.0, 2.0]), where=jnp.array([True, False])))
        [1. 0.]
    """
    del axis_name
    loss, where = _masked("identity_loss", loss, where)
    return blank(loss, where)


def sum_loss(
    loss: ArrayLike, *, where: ArrayLike | None = None, axis_name: AxisName | None = None
) -> jax.Array:
    r"""Sum the losses, in float32 or better.

    .. math:: \sum_i m_i \ell_i

    Args:
        loss: Losses of any shape.
        where: True for elements that count, covering the leading axes of ``loss``.
        axis_name: Mesh axis (or axes) of a ``shard_map`` to sum over as well.

    Returns:
        A scalar.

    Raises:
        ValueError: If ``where`` does not cover the leading axes of ``loss``.
        TypeError: If ``where`` is not boolean.

    Example:
        >>> print(sum_loss(jnp.array([1.0, 2.0]), where=jnp.array([True, False])))
        1.0
    """
    (loss,) = to_float(identity_loss(loss, where=where))
    return across(jnp.sum(loss), axis_name)


def mean_loss(
    loss: ArrayLike, *, where: ArrayLike | None = None, axis_name: AxisName | None = None
) -> jax.Array:
    r"""Average the losses that count, in float32 or better; 0 when there are none.

    .. math:: \frac{\sum_i m_i \ell_i}{\sum_i m_i}

    Args:
        loss: Losses of any shape.
        where: True for elements that count, covering the leading axes of ``loss``.
        axis_name: Mesh axis (or axes) of a ``shard_map``. Sum and count are added over it before
            dividing, so that uneven shards give the global mean and not the mean of means.

    Returns:
        A scalar.

    Raises:
        ValueError: If ``where`` does not cover the leading axes of ``loss``.
        TypeError: If ``where`` is not boolean.

    Example:
        >>> print(mean_loss(jnp.array([1.0, 2.0, 9.0]), where=jnp.array([True, True, False])))
        1.5
    """
    loss, where = _masked("mean_loss", loss, where)
    total = sum_loss(loss, where=where, axis_name=axis_name)
    counted = jnp.asarray(loss.size, jnp.int32) if where is None else count(where)
    return safe_divide(total, across(counted, axis_name).astype(total.dtype))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SumWeightedLoss:
    r"""Weighted sum of the losses, divided by a factor of your own.

    .. math:: \frac{\sum_i w_i \ell_i}{a}

    A pytree of arrays, made inside the step from traced values and passed to a loss function or to
    a module's call; as a static argument or an option of a module it is an error.

    Args:
        weight: Weights that broadcast to the losses. At masked elements they may hold anything.
        avg_factor: Scalar divisor; where it is 0 the result is 0, and so is its gradient.
        axis_name: Mesh axis (or axes) of a ``shard_map``. Sum and ``avg_factor`` are added over it
            before dividing: give each shard's own part of both.

    Raises:
        ValueError: When called, if ``weight`` does not broadcast to the losses, fits them in more
            than one way (``[n]`` on ``[n, n]``), or ``avg_factor`` is not a scalar.

    Example:
        >>> reducer = SumWeightedLoss(weight=jnp.array([1.0, 0.5]), avg_factor=2.0)
        >>> print(reducer(jnp.array([3.0, 4.0])))
        2.5
    """

    weight: ArrayLike
    avg_factor: ArrayLike
    axis_name: AxisName | None = dataclasses.field(
        default=None, kw_only=True, metadata=dict(static=True)
    )

    # Arrays have no hash: as a static argument this would be traced anew for every step.
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, loss: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
        loss, where = _masked("SumWeightedLoss", loss, where)
        weight, avg_factor = jnp.asarray(self.weight), jnp.asarray(self.avg_factor)
        _checks.check_weight("SumWeightedLoss", weight, avg_factor, loss)
        loss, weight, avg_factor = to_float(loss, weight, avg_factor)
        weight = blank(jnp.broadcast_to(weight, loss.shape), where)
        total = sum_loss(blank(loss, where) * weight, axis_name=self.axis_name)
        return safe_divide(total, across(avg_factor, self.axis_name))


@dataclasses.dataclass(frozen=True)
class OverAxis:
    """A reducer over the shards of a mesh axis, for losses computed inside ``shard_map``.

    Compared and hashed by value, so that it can be an option of a loss module.

    Args:
        reducer: :func:`mean_loss`, :func:`sum_loss`, :func:`identity_loss`, or your own function
            that takes ``axis_name``.
        axis_name: Mesh axis, or a tuple of them, over which the reducer adds up what it needs.

    Raises:
        TypeError: When called, if ``reducer`` takes no ``where`` or no ``axis_name``.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> step = jax.shard_map(
        ...     OverAxis(mean_loss, "data"), mesh=mesh, in_specs=P("data"), out_specs=P())
        >>> print(step(jax.device_put(jnp.array([1.0, 3.0]), NamedSharding(mesh, P("data")))))
        2.0
    """

    reducer: Callable[..., jax.Array]
    axis_name: AxisName

    def __call__(self, loss: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
        return self.reducer(loss, where=where, axis_name=self.axis_name)


def across(x: jax.Array, axis_name: AxisName | None) -> jax.Array:
    """Add over the shards of a mesh axis, or leave alone."""
    return x if axis_name is None else lax.psum(x, axis_name)


def _masked(
    function: str, loss: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array | None]:
    loss = jnp.asarray(loss)
    if where is None:
        return loss, None
    where = jnp.asarray(where)
    _checks.check_where(function, where, loss.shape)
    return loss, cover(where, loss.shape)
