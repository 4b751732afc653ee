"""Segmentation cross-entropy: logits that may be larger than the labels."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _checks
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses.cross_entropy import cross_entropy
from vis4d_jax_loss.reducer import LossReducer, mean_loss


def seg_cross_entropy_loss(
    output: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = mean_loss,
    ignore_index: int = 255,
    *,
    class_axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross-entropy of each pixel, logits being cut to the size of the labels at the top left.

    .. math:: \ell_{ij} = \log \sum_c e^{z_{ijc}} - z_{ij y_{ij}}, \qquad i < H,\ j < W

    A network pads its images at the right and the bottom; what it says of that margin takes no
    part.

    Args:
        output: Logits ``[..., H', W', C]``, such as ``[N, H', W', C]``, or ``[N, C, H', W']`` with
            ``class_axis=1``, where ``H' >= H`` and ``W' >= W``.
        target: Labels ``[..., H, W]`` from 0 to C - 1, or ``ignore_index``; any other label makes
            the loss NaN.
        reducer: Maps the losses to the result. ``mean_loss`` divides by all pixels; with
            ``where=target != ignore_index`` it divides by the valid ones.
        ignore_index: Label whose loss is 0, with gradient 0.
        class_axis: Axis of the classes in ``output``.
        where: True for real images ``[N]`` or pixels ``[N, H, W]``; padding may hold anything.

    Returns:
        What ``reducer`` returns; by default a scalar.

    Raises:
        ValueError: If ``output`` is smaller than ``target``, or shapes do not fit otherwise.
        TypeError: If an input is not real, or ``where`` not boolean.

    Example:
        >>> logits = jnp.zeros((1, 4, 4, 2))  # 4 x 4 pixels, the last row and column are margin
        >>> print(seg_cross_entropy_loss(logits, jnp.ones((1, 3, 3))) / jnp.log(2.0))
        1.0
    """
    output, target = jnp.asarray(output), jnp.asarray(target)
    _checks.check_logits("seg_cross_entropy_loss", output, target, class_axis, crop=True)
    size = list(target.shape)
    size.insert(class_axis % output.ndim, output.shape[class_axis])
    output = lax.slice(output, [0] * output.ndim, size)
    return cross_entropy(
        output,
        target,
        None,
        ignore_index,
        class_axis=class_axis,
        reducer=reducer,
        where=where,
    )


class SegCrossEntropyLoss(Loss):
    """:func:`seg_cross_entropy_loss` as a module, under the key ``"loss_seg"``.

    Example:
        >>> losses = SegCrossEntropyLoss()(jnp.zeros((1, 4, 4, 2)), jnp.ones((1, 3, 3)))
        >>> print({name: float(loss) for name, loss in losses.items()})
        {'loss_seg': 0.6931471824645996}
    """

    reducer: LossReducer = mean_loss
    class_axis: int = dataclasses.field(default=-1, kw_only=True)

    def __call__(
        self,
        output: ArrayLike,
        target: ArrayLike,
        ignore_index: int = 255,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> dict[str, jax.Array]:
        loss = seg_cross_entropy_loss(
            output,
            target,
            self.choose(reducer),
            ignore_index,
            class_axis=self.class_axis,
            where=where,
        )
        return {"loss_seg": loss}
