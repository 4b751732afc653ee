"""Binary cross-entropy: each class is present or absent, whatever the others are."""

import dataclasses
from collections.abc import Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import describe, fail, shapes_of
from vis4d_jax_loss._reduce_loss import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._inputs import read_binary
from vis4d_jax_loss.losses._sigmoid_cross_entropy import sigmoid_cross_entropy
from vis4d_jax_loss.reducer import LossReducer, identity_loss


@jax.named_scope("binary_cross_entropy")
def binary_cross_entropy(
    output: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    *,
    pos_weight: ArrayLike | Sequence[float] | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Binary cross-entropy of logits: each element is present or absent by itself.

    .. math:: \ell = -w\, t \log \sigma(z) - (1 - t) \log (1 - \sigma(z))

    with the logit :math:`z`, its sigmoid :math:`\sigma(z)`, the target :math:`t` and the weight
    :math:`w` of what is present, which is 1 without ``pos_weight``.

    Args:
        output: Logits of any shape. Half precision is computed in float32. A logit of -inf switches
            an element off: for the target 0, its loss and gradient are 0.
        target: Targets of the same shape, from 0 to 1, of any numeric dtype or boolean. Values
            between are probabilities. Floating targets have a gradient. Values outside are reported
            under ``checkify``.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        pos_weight: Weight of the part of the loss that belongs to a target of 1: a number, or one
            per class, ``[C]``, if the classes are on the last axis. May be traced.
        where: Mask of valid elements over the leading axes, e.g. ``[N]`` for ``[N, C]``. Padding
            may contain anything, NaN included.

    Returns:
        What ``reducer`` returns; by default one loss per element.

    Raises:
        ValueError: If the shapes do not match, or ``pos_weight`` is a negative number.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> logits = jnp.array([0.0, jnp.log(3.0)])  # probabilities 1 / 2 and 3 / 4
        >>> print(jnp.exp(-binary_cross_entropy(logits, jnp.array([1, 0]))))
        [0.5  0.25]
    """
    name = "binary_cross_entropy"
    check_pos_weight(name, pos_weight)
    output, target, mask = read_binary(name, output, target, where)
    more = None if pos_weight is None else _read_pos_weight(name, pos_weight, output) - 1
    return reduce_loss(reducer, sigmoid_cross_entropy(output, target, more), mask)


def check_pos_weight(function: str, pos_weight: Any) -> None:
    """Check a weight that is a number; the sign of a traced one is not known."""
    if isinstance(pos_weight, Real) and not float(pos_weight) >= 0:
        got = describe(pos_weight=pos_weight)
        fail(ValueError, function, "pos_weight must not be negative", got)


def _read_pos_weight(
    function: str, pos_weight: ArrayLike | Sequence[float], output: jax.Array
) -> jax.Array:
    """The weight in the shape of the logits."""
    weight = jnp.asarray(pos_weight, output.dtype)
    if weight.ndim and weight.shape != output.shape[-1:]:
        rule = "pos_weight must be a number, or hold one weight per class"
        got = shapes_of(pos_weight=weight, output=output)
        fail(ValueError, function, rule, got, "The classes are on the last axis of output.")
    weight = _value_checks.expect_finite(function, "pos_weight", weight)
    return jnp.broadcast_to(weight, output.shape)


class BinaryCrossEntropyLoss(Loss):
    """:func:`binary_cross_entropy` as a module.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        pos_weight: Weight of the part of the loss that belongs to a target of 1: a number, or one
            per class, ``[C]``.

    Example:
        >>> loss = BinaryCrossEntropyLoss(jnp.sum, pos_weight=3.0)
        >>> print(loss(jnp.zeros(2), jnp.array([1, 0])) / jnp.log(2.0))
        4.0
    """

    pos_weight: float | Sequence[float] | None = dataclasses.field(default=None, kw_only=True)

    def _check_options(self) -> None:
        check_pos_weight(type(self).__name__, self.pos_weight)

    def __call__(
        self,
        output: ArrayLike,
        target: ArrayLike,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        """Compute and reduce the losses.

        Args:
            output: Logits of any shape.
            target: Targets of the same shape, from 0 to 1.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid elements. Padding may contain anything, NaN included.

        Returns:
            What the reducer returns; by default one loss per element.
        """
        return binary_cross_entropy(
            output,
            target,
            self._reducer_for_call(reducer),
            pos_weight=self.pos_weight,
            where=where,
        )
