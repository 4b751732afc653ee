"""Focal losses of single logits: for dense classification, and for heatmaps of object centres."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import check_number, describe, fail
from vis4d_jax_loss._numerics import as_option, in_one_loop
from vis4d_jax_loss._reduce_loss import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._focal import check_exponent, focal_of_logits, power
from vis4d_jax_loss.losses._inputs import read_binary
from vis4d_jax_loss.reducer import LossReducer, identity_loss


@jax.named_scope("sigmoid_focal_loss")
def sigmoid_focal_loss(
    output: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    alpha: float | jax.Array | None = 0.25,
    gamma: float | jax.Array = 2.0,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Binary cross-entropy in which elements that are right already count little.

    .. math::
        \ell = \alpha_t\, m^\gamma\, \mathrm{BCE}(z, t), \qquad
        m = (1 - t)\, \sigma(z) + t\, (1 - \sigma(z)), \qquad
        \alpha_t = \alpha t + (1 - \alpha) (1 - t)

    with the logit :math:`z`, its sigmoid :math:`\sigma(z)`, the target :math:`t` and the
    probability :math:`m` of a mistake. BCE is the binary cross-entropy.

    Detectors divide the sum by the number of positives: pass
    ``reducer=SumWeightedLoss(1.0, num_positives)``.

    Args:
        output: Logits of any shape. Half precision is computed in float32. A logit of -inf switches
            an element off: for the target 0, its loss and gradient are 0.
        target: Targets of the same shape, from 0 to 1, of any numeric dtype or boolean. They are
            constants without a gradient. Values outside are reported under ``checkify``.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        alpha: Weight of a target of 1, from 0 to 1; a target of 0 has the weight ``1 - alpha``.
            None for no weights. May be traced.
        gamma: Exponent of the probability of a mistake, at least 0. With 0 all elements count
            fully. May be traced. A number that is 0, 1, 2 ... is faster than others.
        where: Mask of valid elements over the leading axes, e.g. ``[N]`` for ``[N, C]``. Padding
            may contain anything, NaN included.

    Returns:
        What ``reducer`` returns; by default one loss per element.

    Raises:
        ValueError: If the shapes do not match, ``alpha`` is not from 0 to 1, or ``gamma`` is
            negative.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> logits = jnp.log(jnp.array([1.0, 3.0]))  # probabilities 1 / 2 and 3 / 4
        >>> loss = sigmoid_focal_loss(logits, jnp.array([1, 1]), alpha=None)
        >>> print((loss / -jnp.log(jnp.array([0.5, 0.75]))).round(4))  # the mistake, squared
        [0.25   0.0625]

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, eq. 5. The defaults are those
        of ``torchvision.ops.sigmoid_focal_loss``.
    """
    check_exponent("sigmoid_focal_loss", gamma=gamma)
    _check_alpha("sigmoid_focal_loss", alpha)
    output, target, mask = read_binary("sigmoid_focal_loss", output, target, where)
    target = lax.stop_gradient(target)
    loss = focal_of_logits(output, target, gamma)
    if alpha is not None:
        weight = as_option(alpha, loss.dtype)
        loss *= weight * target + (1 - weight) * (1 - target)
    return reduce_loss(reducer, in_one_loop(loss, output), mask)


def _check_alpha(function: str, alpha: float | jax.Array | None) -> None:
    if alpha is None:
        return
    check_number(function, alpha=alpha)
    if not isinstance(alpha, Tracer) and not 0 <= alpha <= 1:
        rule, got = "alpha must be from 0 to 1", describe(alpha=alpha)
        fail(ValueError, function, rule, got, "For no weights pass alpha=None.")


@jax.named_scope("heatmap_focal_loss")
def heatmap_focal_loss(
    output: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = identity_loss,
    alpha: float | jax.Array = 2.0,
    beta: float | jax.Array = 4.0,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Focal loss of heatmaps, whose targets are Gaussians with the value 1 at object centres.

    .. math::
        \ell = \begin{cases} -(1 - p)^\alpha \log p & t = 1 \\
        -(1 - t)^\beta\, p^\alpha \log (1 - p) & \text{else} \end{cases}

    with the probability :math:`p`, the sigmoid of the logit, and the target :math:`t`. Near a
    centre a high probability costs less than far from it.

    CenterNet divides the sum by the number of centres: pass
    ``reducer=SumWeightedLoss(1.0, jnp.maximum(jnp.sum(target == 1), 1))``.

    Args:
        output: Logits of any shape. Half precision is computed in float32.
        target: Targets of the same shape, from 0 to 1, of any numeric dtype or boolean. They are
            constants without a gradient. Only exactly 1 is a centre. Values outside are reported
            under ``checkify``.
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        alpha: Exponent of the probability of a mistake, at least 0. May be traced.
        beta: Exponent of ``1 - target``, at least 0. May be traced.
        where: Mask of valid elements over the leading axes, e.g. ``[B]`` for ``[B, H, W, C]``.
            Padding may contain anything, NaN included.

    Returns:
        What ``reducer`` returns; by default one loss per element.

    Raises:
        ValueError: If the shapes do not match, or ``alpha`` or ``beta`` is negative.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> target = jnp.array([1.0, 0.5, 0.0])
        >>> loss = heatmap_focal_loss(jnp.zeros(3), target)  # probability 1 / 2
        >>> print(loss / jnp.log(2.0))  # 1/4, 1/2**4 / 4, 1/4
        [0.25     0.015625 0.25    ]

    References:
        Zhou et al., Objects as Points, 2019, eq. 1; Law and Deng, CornerNet, ECCV 2018, eq. 1.
    """
    check_exponent("heatmap_focal_loss", alpha=alpha, beta=beta)
    output, target, mask = read_binary("heatmap_focal_loss", output, target, where)
    target = lax.stop_gradient(target)
    centre = target == 1
    weight = power(jnp.where(centre, 1, 1 - target), beta)
    loss = weight * focal_of_logits(output, centre, alpha)
    return reduce_loss(reducer, in_one_loop(loss, output), mask)


class SigmoidFocalLoss(Loss):
    """:func:`sigmoid_focal_loss` as a module.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        alpha: Weight of a target of 1, from 0 to 1; None for no weights.
        gamma: Exponent of the probability of a mistake, at least 0.

    Example:
        >>> loss = SigmoidFocalLoss(jnp.sum, alpha=None)
        >>> print(loss(jnp.zeros(2), jnp.array([1, 0])) / jnp.log(2.0))
        0.5
    """

    alpha: float | None = 0.25
    gamma: float = 2.0

    def _check_options(self) -> None:
        check_exponent(type(self).__name__, gamma=self.gamma)
        _check_alpha(type(self).__name__, self.alpha)

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
        reducer = self._reducer_for_call(reducer)
        return sigmoid_focal_loss(output, target, reducer, self.alpha, self.gamma, where=where)


class HeatmapFocalLoss(Loss):
    """:func:`heatmap_focal_loss` as a module.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        alpha: Exponent of the probability of a mistake, at least 0.
        beta: Exponent of ``1 - target``, at least 0.

    Example:
        >>> loss = HeatmapFocalLoss(jnp.sum)
        >>> print(loss(jnp.zeros(2), jnp.array([1.0, 0.0])) / jnp.log(2.0))
        0.5
    """

    alpha: float = 2.0
    beta: float = 4.0

    def _check_options(self) -> None:
        check_exponent(type(self).__name__, alpha=self.alpha, beta=self.beta)

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
        reducer = self._reducer_for_call(reducer)
        return heatmap_focal_loss(output, target, reducer, self.alpha, self.beta, where=where)
