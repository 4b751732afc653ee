"""Reducers turn the losses of all elements into the result."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss import _numerics
from vis4d_jax_loss._checks import check_axes, check_element_weight, check_mask, fail
from vis4d_jax_loss._mesh_axis import AxisName, psum_over
from vis4d_jax_loss._numerics import expand_mask, fill_masked, safe_divide
from vis4d_jax_loss._value_checks import expect_finite


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
    loss, where = _expanded("identity_loss", loss, where)
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
    loss, where = _expanded("mean_loss", loss, where)
    axes = check_axes("mean_loss", axis, loss.shape)
    total = sum_loss(loss, where=where, axis=axes, axis_name=axis_name)
    # The count is a float: as int32 it would wrap at 2**31 elements, on one device or over many.
    if where is None:
        count = jnp.asarray(math.prod(loss.shape[i] for i in axes), total.dtype)
    else:
        count = _numerics.count_true(where, total.dtype, axes)
    return safe_divide(total, psum_over(count, axis_name))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SumWeightedLoss:
    r"""Weighted sum of the losses, divided by ``avg_factor``.

    .. math:: \frac{\sum_i w_i \ell_i}{a}

    with the losses :math:`\ell_i`, ``weight`` :math:`w_i` and ``avg_factor`` :math:`a`.

    This reducer is a pytree of arrays. Create it inside the step from traced values, and pass it to
    a loss function or to the call of a module. It cannot be a static argument or an option of a
    module.

    Args:
        weight: Weights that broadcast to the losses. Weights of masked elements are ignored.
        avg_factor: Scalar divisor. If it is 0, the result and its gradient are 0.
        axis_name: Mesh axis (or axes) of a ``shard_map``. Sum and ``avg_factor`` are added over it
            before dividing. Each shard passes its own weights and its own ``avg_factor``.

    Raises:
        ValueError: When called, if ``weight`` does not broadcast to the losses or fits them in more
            than one way (``[n]`` on ``[n, n]``), or if ``avg_factor`` is not a scalar.

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

    # Not hashable on purpose: as a static argument, it would cause a new trace in every step.
    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __call__(self, loss: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
        """Reduce the losses; ``where`` is a mask over their leading axes."""
        loss, where = _expanded("SumWeightedLoss", loss, where)
        weight, avg_factor = _numerics.as_array(self.weight), _numerics.as_array(self.avg_factor)
        check_element_weight("SumWeightedLoss", weight, avg_factor, loss)
        weight = fill_masked(jnp.broadcast_to(weight, loss.shape), where)
        loss, weight, avg_factor = _numerics.to_common_float(loss, weight, avg_factor)
        weight = expect_finite("SumWeightedLoss", "weight", weight)
        avg_factor = expect_finite("SumWeightedLoss", "avg_factor", avg_factor)
        total = sum_loss(fill_masked(loss, where) * weight, axis_name=self.axis_name)
        return safe_divide(total, psum_over(avg_factor, self.axis_name))


@dataclasses.dataclass(frozen=True)
class OverAxis:
    """Makes a reducer work across the shards of a mesh axis. Use it inside ``shard_map``.

    It is compared and hashed by value, so it can be an option of a loss module.

    Args:
        reducer: :func:`mean_loss`, :func:`sum_loss`, :func:`identity_loss`, or your own function
            that takes ``where`` and ``axis_name``.
        axis_name: Mesh axis, or a tuple of them, over which the reducer adds its sums.

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
        if isinstance(self.axis_name, list):  # which has no hash
            object.__setattr__(self, "axis_name", tuple(self.axis_name))

    def __call__(self, loss: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
        """Reduce the losses of all shards; ``where`` is a mask over their leading axes."""
        return self.reducer(loss, where=where, axis_name=self.axis_name)


def _expanded(
    function: str, loss: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array | None]:
    """The losses as an array, and the mask with the same shape."""
    loss = _numerics.as_array(loss)
    if jnp.iscomplexobj(loss):
        fail(TypeError, function, "losses must be real numbers", f"loss {loss.dtype}", "Take abs.")
    where = check_mask(function, where, loss.shape)
    return loss, None if where is None else expand_mask(where, loss.shape)
