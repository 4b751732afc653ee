"""A reducer that averages the hardest losses only."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import check_integer, describe, fail
from vis4d_jax_loss._kept_count import fraction_to_keep
from vis4d_jax_loss._largest import largest_mask
from vis4d_jax_loss._mesh_axis import AxisName, count_elements
from vis4d_jax_loss._numerics import to_float
from vis4d_jax_loss._ranking import MAX_COUNT
from vis4d_jax_loss.reducer import mean_loss, read_losses


@dataclasses.dataclass(frozen=True)
class HardMeanLoss:
    r"""Mean of the k largest losses, known as online hard example mining (OHEM).

    .. math:: k = \max(\mathrm{min\_kept}, \lfloor \mathrm{fraction} \cdot n \rfloor)
       \quad\text{or}\quad
       k = \max(\mathrm{min\_kept}, \#\{\ell_i > \mathrm{threshold}\})

    with n valid losses :math:`\ell_i`; k is at most n. Among equal losses, those with the lowest
    flat index are kept. Only losses that are kept have a gradient. If none is kept, the result is
    0.

    It is compared and hashed by value, so it can be an option of a loss module.

    Args:
        fraction: Share of the losses that is kept, from 0 to 1. The product with n is rounded as in
            Python, and then down: 0.29 of 100 losses are 28. Give either this or ``threshold``.
        threshold: Keep the losses above this number.
        min_kept: Keep at least this many losses.
        axis_name: Mesh axis (or axes) of a ``shard_map``. The losses of all shards, stacked along
            the leading axis, are one array: k and n count over all of them.

    A loss of NaN counts as the largest, and as above the threshold, so it is never dropped.

    Raises:
        TypeError: If an option is traced or not a number, or ``min_kept`` is not an integer.
        ValueError: If both or none of ``fraction`` and ``threshold`` are given, ``fraction`` is not
            from 0 to 1, ``threshold`` is NaN, or ``min_kept`` is negative. When called: if there
            are more than ``2**32 - 1`` losses.

    Example:
        >>> loss = jnp.array([4.0, 1.0, 3.0, 2.0])
        >>> print(HardMeanLoss(fraction=0.5)(loss), HardMeanLoss(threshold=1.0)(loss))
        3.5 3.0

    References:
        Shrivastava et al., Training Region-based Object Detectors with Online Hard Example Mining,
        CVPR 2016.
    """

    fraction: float | None = None
    threshold: float | None = None
    min_kept: int = 1
    axis_name: AxisName | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        name = "HardMeanLoss"
        for option in ("fraction", "threshold"):
            object.__setattr__(self, option, _read_number(option, getattr(self, option)))
        if (self.fraction is None) == (self.threshold is None):
            rule = "exactly one of fraction and threshold must be given"
            got = describe(fraction=self.fraction, threshold=self.threshold)
            fail(ValueError, name, rule, got)
        if self.fraction is not None and not 0 <= self.fraction <= 1:
            got, remedy = describe(fraction=self.fraction), "For a number of losses use min_kept."
            fail(ValueError, name, "fraction must be from 0 to 1", got, remedy)
        if self.threshold is not None and math.isnan(self.threshold):
            fail(ValueError, name, "threshold must not be NaN", describe(threshold=self.threshold))
        check_integer(name, min_kept=self.min_kept)
        if self.min_kept < 0:
            fail(ValueError, name, "min_kept must be 0 or more", describe(min_kept=self.min_kept))
        object.__setattr__(self, "min_kept", int(self.min_kept))
        if isinstance(self.axis_name, list):  # which has no hash
            object.__setattr__(self, "axis_name", tuple(self.axis_name))

    def __call__(self, loss: ArrayLike, *, where: ArrayLike | None = None) -> jax.Array:
        """Reduce the losses; ``where`` is a mask over their leading axes."""
        loss, where = read_losses("HardMeanLoss", loss, where)
        loss = to_float(loss)
        k = self._num_kept(loss, where)
        kept = largest_mask("HardMeanLoss", loss, k, where, self.axis_name)
        return mean_loss(loss, where=kept, axis_name=self.axis_name)

    def _num_kept(self, loss: jax.Array, where: jax.Array | None) -> jax.Array:
        """How many losses are kept, if there are as many."""
        valid = jnp.full(loss.shape, True) if where is None else where
        if self.fraction is not None:
            k = fraction_to_keep(count_elements(valid, self.axis_name), self.fraction)
        else:
            # NaN is not above any number, but it must not be lost.
            with np.errstate(over="ignore"):  # a threshold beyond float32 is infinite there
                threshold = np.asarray(self.threshold, loss.dtype)
            k = count_elements(valid & ~(loss <= threshold), self.axis_name)
        return jnp.maximum(k, np.uint32(min(self.min_kept, MAX_COUNT)))


def _read_number(name: str, value: Any) -> float | None:
    """A number of Python, NumPy or JAX that is not traced, as a float."""
    if isinstance(value, jax.Array | np.ndarray) and value.ndim == 0:
        if isinstance(value, Tracer):
            remedy = "For a traced number of losses use top_k_mask and mean_loss."
            got = describe(**{name: value.aval})
            fail(TypeError, "HardMeanLoss", f"{name} must not be traced", got, remedy)
        value = value.item()
    if value is None:
        return None
    if not isinstance(value, int | float | np.number) or isinstance(value, bool):
        got = str(getattr(value, "shape", repr(value)))
        remedy = "Pass the losses in the call: HardMeanLoss(fraction=0.25)(loss)."
        fail(TypeError, "HardMeanLoss", f"{name} must be a number", f"{name} {got}", remedy)
    return float(value)
