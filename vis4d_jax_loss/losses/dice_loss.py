"""Dice loss: overlap of predicted and labelled regions, with Tversky and Jaccard as options."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from vis4d_jax_loss import _value_checks
from vis4d_jax_loss._checks import check_integer, check_mask, check_number, fail, shapes_of
from vis4d_jax_loss._numerics import as_array, as_option, count_true, safe_divide, to_float
from vis4d_jax_loss._reduce_loss import reduce_loss
from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.losses._inputs import check_logits, cut_and_fill
from vis4d_jax_loss.losses._labels import (
    IgnoreIndex,
    Labels,
    ignored_labels,
    labels_as_array,
    read_labels,
)
from vis4d_jax_loss.losses._negative_log_prob import is_label
from vis4d_jax_loss.losses._soft_counts import soft_counts
from vis4d_jax_loss.reducer import AxisName, LossReducer, mean_loss

_NO_LABEL = -1  # stands for the label of a pixel that is skipped, invalid or background


@jax.named_scope("dice_loss")
def dice_loss(
    output: ArrayLike,
    target: ArrayLike,
    reducer: LossReducer = mean_loss,
    smooth: ArrayLike = 1.0,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    ignore_index: IgnoreIndex = 255,
    *,
    absent: Literal["count", "skip"] = "count",
    class_axis: int = -1,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> jax.Array:
    r"""Overlap of predicted and labelled regions: one loss per image and class.

    .. math:: \ell_{bc} = 1 - \frac{\mathrm{TP} + s}
        {\mathrm{TP} + \alpha\, \mathrm{FP} + \beta\, \mathrm{FN} + s}

    The counts of image b and class c are sums of the probabilities :math:`p`, the softmax of the
    logits: TP sums :math:`p` over the pixels labelled c, FN sums :math:`1 - p` over these, and FP
    sums :math:`p` over the other pixels. :math:`s` is ``smooth``.

    Args:
        output: Logits ``[B, ..., C]``, or with the classes on ``class_axis``. With C = 1 they are
            those of a sigmoid. Half precision is computed in float32. Logits of ignored and masked
            pixels may contain anything.
        target: Labels ``[B, ...]`` from 0 to C - 1, or ``ignore_index``, of any numeric dtype or
            boolean. With C = 1 they are 0 (background) and 1. Any other label makes the losses of
            its image NaN. Fractional and invalid labels are reported under ``checkify``.
        reducer: Maps the losses ``[B, C]`` to the result, e.g. ``mean_loss``, or ``identity_loss``
            to keep them. An image without a valid pixel is not counted.
        smooth: Added to numerator and denominator. With 0, a class that is neither labelled nor
            predicted has loss 0.
        alpha: Weight of false positives. 0.5 and 0.5 give the Dice loss, other numbers the Tversky
            loss, 1 and 1 the Jaccard loss.
        beta: Weight of false negatives.
        ignore_index: Label of pixels that do not count; a tuple of several, or None for no label.
        absent: What to do with a class without a valid pixel in the labels of an image: "count" its
            loss, in which only false positives occur, or "skip" it.
        class_axis: Axis of the classes in ``output``: -1 for ``[B, H, W, C]``, 1 for
            ``[B, C, H, W]``.
        where: Mask of valid pixels over the leading axes of ``target``, e.g. of images ``[B]``.
            Padding may contain anything, NaN included.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the pixels of each image are
            sharded. The counts are added over it. If the images are sharded, pass
            ``OverAxis(mean_loss, ...)`` as the reducer instead.

    Returns:
        What ``reducer`` returns; by default a scalar.

    Raises:
        ValueError: If the shapes of ``output`` and ``target`` do not match, ``target`` has no axis
            of images, ``class_axis`` is not an axis of ``output``, or ``absent`` is neither
            "count" nor "skip".
        TypeError: If an input is not numeric, or ``where`` is not boolean.

    Example:
        >>> logits = jnp.log(jnp.array([[[3.0, 1.0], [1.0, 1.0]]]))  # one image of two pixels
        >>> loss = dice_loss(logits, jnp.array([[0, 1]]), identity_loss, smooth=0.0)
        >>> print(loss)  # 1 - 0.75 / (0.75 + 0.5 * 0.5 + 0.5 * 0.25), 1 - 0.5 / ...
        [[0.3333333  0.42857143]]

    References:
        Milletari et al., V-Net, 3DV 2016, without the squares in its denominator; Salehi et al.,
        Tversky Loss Function for Image Segmentation Using 3D Fully Convolutional Deep Networks,
        MLMI 2017. ``smooth`` is placed as in optax.
    """
    name = "dice_loss"
    output, target = as_array(output), labels_as_array(target)
    check_logits(name, output, target, class_axis)
    check_number(name, smooth=smooth, alpha=alpha, beta=beta)
    _check_absent(name, absent)
    if not target.ndim:
        got = shapes_of(output=output, target=target)
        fail(ValueError, name, "target must be [B, ...], with an axis of images", got)
    mask = check_mask(name, where, target.shape)
    axis = class_axis % output.ndim

    # Find the pixels without a valid label. A single class is the foreground, whose label is 1.
    num_classes = output.shape[axis]
    binary = num_classes == 1
    labels = read_labels(name, target, ignore_index, 2 if binary else num_classes, mask)

    # Replace the logits of ignored and masked pixels, which may be NaN.
    logits = to_float(cut_and_fill(output, labels.skipped, axis))
    logits = _value_checks.expect_finite_or_off(name, "output", logits)

    # Count, per image and class.
    has_label = ~(labels.skipped | labels.invalid)
    classes = jnp.where(has_label, labels.value - int(binary), _NO_LABEL)
    sign = jnp.where(is_label(classes, logits.shape, axis), -1, 1).astype(logits.dtype)
    sign = jnp.where(jnp.expand_dims(labels.skipped, axis), 0, sign)
    true, false = soft_counts(logits, sign, axis)
    sizes = _sizes(classes, num_classes, true.dtype)
    counts = [true, false, sizes, *_has_pixels(labels, true.dtype)]
    if axis_name is not None:
        counts = [lax.psum(count, axis_name) for count in counts]
    true, false, sizes, valid, invalid = counts

    # The formula, in a form that cannot be negative.
    errors = as_option(alpha, true.dtype) * false
    errors += as_option(beta, true.dtype) * _at_least_0(sizes - true)
    loss = safe_divide(errors, true + errors + as_option(smooth, true.dtype))

    # An invalid label gives NaN, so that the mistake is visible.
    loss = jnp.where(invalid > 0, jnp.nan, loss)
    present = jnp.full_like(sizes, True, bool) if absent == "count" else (sizes > 0) | (invalid > 0)
    counted = present & (valid > 0)
    return reduce_loss(reducer, loss, counted, optional=mask is None and absent == "count")


def _sizes(classes: jax.Array, num_classes: int, dtype: jnp.dtype) -> jax.Array:
    """Number of pixels of each class in the labels of each image, ``[B, C]``."""
    shape = (classes.shape[0], num_classes, *classes.shape[1:])
    return count_true(is_label(classes, shape, 1), dtype, range(2, len(shape)))


def _has_pixels(labels: Labels, dtype: jnp.dtype) -> list[jax.Array]:
    """Whether an image has a valid pixel, and an invalid label: 1 or 0, ``[B, 1]``."""
    pixels = tuple(range(1, labels.value.ndim))
    masks = ~labels.skipped, labels.invalid
    return [jnp.any(mask, axis=pixels).astype(dtype)[:, None] for mask in masks]


def _at_least_0(x: jax.Array) -> jax.Array:
    """Replace a rounding error below 0, and keep the gradient, unlike ``jnp.maximum``."""
    return x + lax.stop_gradient(jnp.maximum(x, 0) - x)


def _check_absent(function: str, absent: Any) -> None:
    if absent not in ("count", "skip"):
        rule = 'absent must be "count" or "skip"'
        fail(ValueError, function, rule, f"absent {absent!r}")


class DiceLoss(Loss):
    """:func:`dice_loss` as a module.

    Args:
        reducer: Maps the losses ``[B, C]`` to the result, e.g. ``mean_loss``.
        smooth: Added to numerator and denominator.
        alpha: Weight of false positives.
        beta: Weight of false negatives.
        ignore_index: Label of pixels that do not count; a tuple of several, or None for no label.
        absent: What to do with a class without a valid pixel in the labels of an image: "count" its
            loss, or "skip" it.
        class_axis: Axis of the classes in ``output``: -1 for ``[B, H, W, C]``, 1 for
            ``[B, C, H, W]``.
        axis_name: Mesh axis (or axes) of a ``shard_map`` over which the pixels of each image are
            sharded.

    Example:
        >>> loss = DiceLoss(smooth=0.0, absent="skip")
        >>> print(loss(jnp.zeros((1, 4, 2)), jnp.array([[0, 0, 255, 255]])))  # 1 - 1 / (1 + 0.5)
        0.33333334
    """

    reducer: LossReducer = mean_loss
    smooth: float = 1.0
    alpha: float = 0.5
    beta: float = 0.5
    ignore_index: IgnoreIndex = 255
    absent: Literal["count", "skip"] = dataclasses.field(default="count", kw_only=True)
    class_axis: int = dataclasses.field(default=-1, kw_only=True)
    axis_name: AxisName | None = dataclasses.field(default=None, kw_only=True)

    def _check_options(self) -> None:
        name = type(self).__name__
        check_number(name, smooth=self.smooth, alpha=self.alpha, beta=self.beta)
        check_integer(name, class_axis=self.class_axis)
        ignored_labels(name, self.ignore_index)
        _check_absent(name, self.absent)

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
            output: Logits ``[B, ..., C]``, or with the classes on ``class_axis``.
            target: Labels ``[B, ...]`` from 0 to C - 1, or ``ignore_index``.
            reducer: Overrides the reducer of the module in this call.
            where: Mask of valid pixels over the leading axes of ``target``, e.g. of images ``[B]``.
                Padding may contain anything, NaN included.

        Returns:
            What the reducer returns; by default a scalar.
        """
        return dice_loss(
            output,
            target,
            self._reducer_for_call(reducer),
            self.smooth,
            self.alpha,
            self.beta,
            self.ignore_index,
            absent=self.absent,
            class_axis=self.class_axis,
            where=where,
            axis_name=self.axis_name,
        )
