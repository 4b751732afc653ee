"""Reducers that weigh the losses: a sum divided by a factor, and a mean."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss import _numerics
from vis4d_jax_loss._checks import check_element_weight, fail, shapes_of
from vis4d_jax_loss._mesh_axis import AxisName, psum_over
from vis4d_jax_loss._numerics import fill_masked, safe_divide
from vis4d_jax_loss._value_checks import expect_finite
from vis4d_jax_loss.reducer import read_losses, sum_loss


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
        loss, where = read_losses("SumWeightedLoss", loss, where)
        avg_factor = _numerics.as_array(self.avg_factor)
        if avg_factor.ndim:
            rule = "avg_factor must be a scalar"
            remedy = "To divide each element by its own factor, divide the weight."
            got = shapes_of(avg_factor=avg_factor)
            fail(ValueError, "SumWeightedLoss", rule, got, remedy)
        weight = _element_weight("SumWeightedLoss", self.weight, loss, where)
        loss, weight, avg_factor = _numerics.to_common_float(loss, weight, avg_factor)
        weight = expect_finite("SumWeightedLoss", "weight", weight)
        avg_factor = expect_finite("SumWeightedLoss", "avg_factor", avg_factor)
        total = sum_loss(fill_masked(loss, where) * weight, axis_name=self.axis_name)
        return safe_divide(total, psum_over(avg_factor, self.axis_name))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class WeightedMeanLoss:
    r"""Weighted mean of the losses: their weighted sum, divided by the sum of the weights.

    .. math:: \frac{\sum_i w_i \ell_i}{\sum_i w_i}

    with the losses :math:`\ell_i` and ``weight`` :math:`w_i`. A weight that broadcasts counts once
    for each element: with ``[N, 1]`` on losses ``[N, M]``, the divisor is M times its sum.

    Like :class:`SumWeightedLoss`, this reducer is a pytree of arrays. Create it inside the step.

    Args:
        weight: Weights that broadcast to the losses. Weights of masked elements are ignored. If the
            weights add up to 0, the result and its gradient are 0.
        axis_name: Mesh axis (or axes) of a ``shard_map``. Both sums are added over it before
            dividing. Each shard passes its own weights.

    Raises:
        ValueError: When called, if ``weight`` does not broadcast to the losses or fits them in more
            than one way (``[n]`` on ``[n, n]``).

    Example:
        >>> reducer = WeightedMeanLoss(jnp.array([1.0, 3.0]))
        >>> print(reducer(jnp.array([2.0, 6.0])))  # (1 * 2 + 3 * 6) / 4
        5.0
    """

    weight: ArrayLike
    axis_name: AxisName | None = dataclasses.field(
        default=None, kw_only=True, metadata=dict(static=True)
    )

    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # as SumWeightedLoss

    def __call__(self, loss: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
        """Reduce the losses; ``where`` is a mask over their leading axes."""
        loss, where = read_losses("WeightedMeanLoss", loss, where)
        weight = _element_weight("WeightedMeanLoss", self.weight, loss, where)
        loss, weight = _numerics.to_common_float(loss, weight)
        weight = expect_finite("WeightedMeanLoss", "weight", weight)
        total = sum_loss(fill_masked(loss, where) * weight, axis_name=self.axis_name)
        return safe_divide(total, sum_loss(weight, axis_name=self.axis_name))


def _element_weight(
    function: str, weight: ArrayLike, loss: jax.Array, where: jax.Array | None
) -> jax.Array:
    """One weight per loss, 0 where it is masked."""
    weight = _numerics.as_array(weight)
    check_element_weight(function, weight, loss)
    return fill_masked(jnp.broadcast_to(weight, loss.shape), where)
