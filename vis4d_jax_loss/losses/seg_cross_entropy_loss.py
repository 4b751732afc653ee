"""Segmentation cross-entropy, for logits that may be larger than the labels."""

import dataclasses

import jax
from jax.typing import ArrayLike

from vis4d_jax_loss._checks import check_integer
from vis4d_jax_loss._numerics import as_array
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._inputs import check_logits
from vis4d_jax_loss.losses._labels import (
    FROM_MODULE,
    IgnoreIndex,
    ignored_labels,
    labels_as_array,
)
from vis4d_jax_loss.losses.cross_entropy import checked_cross_entropy
from vis4d_jax_loss.reducer import LossReducer, mean_loss


@jax.named_scope("seg_cross_entropy_loss")
def seg_cross_entropy_loss(
    output: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = mean_loss,
    ignore_index: IgnoreIndex = 255,
    *,
    class_axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross-entropy of each pixel; larger logits are cut to the size of the labels.

    .. math:: \ell_{ij} = \log \sum_c e^{z_{ijc}} - z_{ij y_{ij}}, \qquad i < H,\ j < W

    with the logits :math:`z_{ijc}` of the pixel in row i and column j, and its label
    :math:`y_{ij}`. Networks pad their images at the right and the bottom. The logits of that margin
    are ignored.

    Args:
        output: Logits ``[..., H', W', C]``, such as ``[N, H', W', C]``, or ``[N, C, H', W']`` with
            ``class_axis=1``, where ``H' >= H`` and ``W' >= W``. Half precision is computed in
            float32.
        target: Labels ``[..., H, W]`` from 0 to C - 1, or ``ignore_index``. Any other label makes
            the loss NaN, and is reported under ``checkify``.
        reducer: Maps the losses to the result. ``mean_loss`` divides by all pixels; with
            ``where=target != ignore_index`` it divides by the valid ones.
        ignore_index: Label whose loss and gradient are 0; a tuple of several, or None for no label.
        class_axis: Axis of the classes in ``output``.
        where: Mask of valid images ``[N]`` or pixels ``[N, H, W]``. Padding may contain anything,
            NaN included.

    Returns:
        What ``reducer`` returns; by default a scalar.

    Raises:
        ValueError: If ``output`` is smaller than ``target``, or the shapes do not match otherwise.
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> logits = jnp.zeros((1, 4, 4, 2))  # 4 x 4 pixels, the last row and column are margin
        >>> print(seg_cross_entropy_loss(logits, jnp.ones((1, 3, 3))) / jnp.log(2.0))
        1.0
    """
    output, target = as_array(output), labels_as_array(target)
    check_logits("seg_cross_entropy_loss", output, target, class_axis, crop=True)
    return checked_cross_entropy(output, target, None, ignore_index, class_axis, reducer, where)


class SegCrossEntropyLoss(Loss):
    """:func:`seg_cross_entropy_loss` as a module that returns ``{"loss_seg": ...}``.

    Args:
        reducer: Maps the losses to the result, e.g. ``mean_loss`` or ``jnp.mean``.
        class_axis: Axis of the classes in ``output``: -1 for ``[N, H, W, C]``, 1 for
            ``[N, C, H, W]``.
        ignore_index: Label whose loss and gradient are 0; a tuple of several, or None for no label.

    Example:
        >>> losses = SegCrossEntropyLoss()(jnp.zeros((1, 4, 4, 2)), jnp.ones((1, 3, 3)))
        >>> print({name: float(loss) for name, loss in losses.items()})
        {'loss_seg': 0.6931471824645996}
    """

    reducer: LossReducer = mean_loss
    class_axis: int = dataclasses.field(default=-1, kw_only=True)
    ignore_index: IgnoreIndex = dataclasses.field(default=255, kw_only=True)

    def _check_options(self) -> None:
        check_integer(type(self).__name__, class_axis=self.class_axis)
        ignored_labels(type(self).__name__, self.ignore_index)

    def __call__(
        self,
        output: ArrayLike,
        target: ArrayLike,
        ignore_index: IgnoreIndex = FROM_MODULE,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> dict[str, jax.Array]:
        """Compute and reduce the losses.

        Args:
            output: Logits ``[..., H', W', C]``, at least as large as ``target``.
            target: Labels ``[..., H, W]`` from 0 to C - 1, or ``ignore_index``.
            ignore_index: Overrides the option of the module in this call.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid images ``[N]`` or pixels ``[N, H, W]``. Padding may contain
                anything, NaN included.

        Returns:
            ``{"loss_seg": ...}`` with what the reducer returns; by default a scalar.
        """
        loss = seg_cross_entropy_loss(
            output,
            target,
            self._reducer_for_call(reducer),
            self.ignore_index if ignore_index is FROM_MODULE else ignore_index,
            class_axis=self.class_axis,
            where=where,
        )
        return {"loss_seg": loss}
