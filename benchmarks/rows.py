"""The rows of the table: each loss at three sizes, with the implementations that are compared."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import inputs
import jax
import jax.numpy as jnp
import literal
import numpy as np
import optax_losses
import ours
import reference


@dataclass(frozen=True)
class Row:
    """A loss at several sizes, and its implementations.

    Every implementation is a function of the inputs. It returns a scalar, whose gradient with
    respect to the first input is measured too, unless ``gradient`` is False.
    """

    name: str
    #: Shapes of the first input.
    sizes: tuple[tuple[int, ...], ...]
    #: Creates the inputs for one of the sizes.
    inputs: Callable[..., list[np.ndarray]]
    ours: Callable
    literal: Callable
    optax: Callable | None = None
    reference: Callable | None = None
    #: Converts the inputs for the reference, where it needs another layout.
    inputs_for_reference: Callable | None = None
    #: A single pass that reads every input and writes an array of the gradient's size.
    copy: Callable = jnp.subtract
    #: For each size: our loss must be at least this many times as fast as the reference.
    required_speedup: tuple[float | None, ...] = (None, None, None)
    #: Our loss should take at most as long as this many copies, where memory limits its speed.
    max_copies: float | None = None
    gradient: bool = True


def implementations(row: Row) -> dict[str, Callable]:
    """Return the implementations in JAX, by the name of their column."""
    columns = {"ours": row.ours, "literal": row.literal, "optax": row.optax}
    return {name: loss for name, loss in columns.items() if loss is not None}


def step(row: Row, loss: Callable) -> Callable:
    """Return what a training step computes: value and gradient, or only the value."""
    return jax.value_and_grad(loss) if row.gradient else loss


def double(array):
    return array * 2


def subtract_valid(pred, target, where):
    return jnp.where(where[:, None], pred - target, 0)


def multiply_rotations(pred, target_bin, target_res):
    return pred * jnp.repeat(target_bin * target_res, 3, axis=1)


def double_valid(output, target, class_axis):
    return jnp.where(jnp.expand_dims(target == 255, class_axis), 0, output * 2)


VECTORS = ((80_000,), (800_000,), (8_000_000,))
BOXES = ((10_000, 4), (100_000, 4), (1_000_000, 4))
PAIRS = ((128, 256), (256, 512), (512, 1024))

ROWS = [
    Row(
        name="l1_loss",
        sizes=VECTORS,
        inputs=inputs.normal_pair,
        ours=ours.l1_loss,
        literal=literal.l1_loss,
        reference=reference.l1_loss,
        required_speedup=(None, None, 2.5),
        max_copies=1.5,
    ),
    Row(
        name="l2_loss",
        sizes=VECTORS,
        inputs=inputs.normal_pair,
        ours=ours.l2_loss,
        literal=literal.l2_loss,
        optax=optax_losses.l2_loss,
        reference=reference.l2_loss,
        required_speedup=(None, None, 2.5),
        max_copies=1.5,
    ),
    Row(
        name="smooth_l1_loss",
        sizes=VECTORS,
        inputs=inputs.normal_pair,
        ours=ours.smooth_l1_loss,
        literal=literal.smooth_l1_loss,
        optax=optax_losses.smooth_l1_loss,
        reference=reference.smooth_l1_loss,
        required_speedup=(None, None, 4),
        max_copies=1.5,
    ),
    Row(
        name="smooth_l1_loss of boxes, 30% padding",
        sizes=BOXES,
        inputs=inputs.padded_box_pair,
        ours=ours.masked_smooth_l1_loss,
        literal=literal.masked_smooth_l1_loss,
        reference=reference.masked_smooth_l1_loss,
        copy=subtract_valid,
        max_copies=1.5,
    ),
    Row(
        name="iou_loss log",
        sizes=BOXES,
        inputs=inputs.box_pair,
        ours=partial(ours.iou_loss, mode="log"),
        literal=partial(literal.iou_loss, mode="log"),
        reference=partial(reference.iou_loss, mode="log"),
        required_speedup=(None, None, 5),
        max_copies=1.5,
    ),
    Row(
        name="iou_loss square",
        sizes=BOXES,
        inputs=inputs.box_pair,
        ours=partial(ours.iou_loss, mode="square"),
        literal=partial(literal.iou_loss, mode="square"),
        reference=partial(reference.iou_loss, mode="square"),
        required_speedup=(None, None, 5),
        max_copies=1.5,
    ),
    Row(
        name="iou_loss log, 30% padding",
        sizes=BOXES,
        inputs=inputs.padded_box_pair,
        ours=partial(ours.masked_iou_loss, mode="log"),
        literal=partial(literal.masked_iou_loss, mode="log"),
        reference=partial(reference.masked_iou_loss, mode="log"),
        copy=subtract_valid,
        max_copies=1.5,
    ),
    Row(
        name="rotation_loss, 2 bins",
        sizes=((2_000, 6), (20_000, 6), (200_000, 6)),
        inputs=inputs.rotations,
        ours=ours.rotation_loss,
        literal=literal.rotation_loss,
        reference=reference.rotation_loss,
        copy=multiply_rotations,
        required_speedup=(None, None, 2.5),
        max_copies=1.5,
    ),
    Row(
        name="segmentation NHWC, 10% ignored",
        sizes=((2, 128, 256, 19), (2, 256, 512, 19), (2, 512, 1024, 19)),
        inputs=inputs.images,
        ours=partial(ours.seg_cross_entropy_loss, class_axis=-1),
        literal=partial(literal.seg_cross_entropy_loss, class_axis=-1),
        optax=partial(optax_losses.seg_cross_entropy_loss, class_axis=-1),
        reference=reference.seg_cross_entropy_loss,
        inputs_for_reference=inputs.classes_first,
        copy=partial(double_valid, class_axis=-1),
        required_speedup=(None, None, 1.3),
    ),
    Row(
        name="segmentation NCHW, 10% ignored",
        sizes=((2, 19, 128, 256), (2, 19, 256, 512), (2, 19, 512, 1024)),
        inputs=inputs.images_classes_first,
        ours=partial(ours.seg_cross_entropy_loss, class_axis=1),
        literal=partial(literal.seg_cross_entropy_loss, class_axis=1),
        optax=partial(optax_losses.seg_cross_entropy_loss, class_axis=1),
        reference=reference.seg_cross_entropy_loss,
        copy=partial(double_valid, class_axis=1),
        required_speedup=(None, None, 1.0),
    ),
    Row(
        name="multi_pos_cross_entropy",
        sizes=((64, 128), (128, 256), (256, 512)),
        inputs=partial(inputs.similarities, positive=0.02),
        ours=ours.multi_pos_cross_entropy,
        literal=literal.multi_pos_cross_entropy,
        reference=reference.multi_pos_cross_entropy,
        required_speedup=(None, 80, 800),
    ),
    Row(
        name="embedding_distance_loss, mined, 5% positive",
        sizes=PAIRS,
        inputs=partial(inputs.similarities, positive=0.05),
        ours=ours.embedding_distance_loss,
        literal=literal.embedding_distance_loss,
        reference=reference.embedding_distance_loss,
        required_speedup=(None, None, 4),
    ),
    Row(
        name="orthogonal_transform_regularization_loss",
        sizes=((32, 3, 3), (32, 64, 64), (512, 64, 64)),
        inputs=inputs.near_identity,
        ours=ours.orthogonal_transform_regularization_loss,
        literal=literal.orthogonal_transform_regularization_loss,
        reference=reference.orthogonal_transform_regularization_loss,
        copy=double,
        required_speedup=(1.0, 1.0, 1.0),
    ),
    Row(
        name="top_k_mask, k = 1500",
        sizes=PAIRS,
        inputs=inputs.normal,
        ours=partial(ours.top_k_mask, k=1500),
        literal=partial(literal.top_k_mask, k=1500),
        copy=double,
        max_copies=40,
        gradient=False,
    ),
]
