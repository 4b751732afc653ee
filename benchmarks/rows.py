"""The rows of the tables: each loss at three sizes, and the code that it is compared with.

To add a loss, write it in ``ours.py`` and in ``plain.py``, and add a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import inputs
import jax
import jax.numpy as jnp
import numpy as np
import optax_losses
import ours
import plain
import reference
from inputs import Input

REGRESSION, BOXES = "regression", "boxes"
CLASSES = "segmentation and classification"
PAIRS, TRANSFORMS, HEADS = "pairs and mining", "transforms", "heads"


@dataclass(frozen=True)
class Row:
    """A loss at several sizes, and its implementations.

    Every implementation is a function of the inputs. It returns a scalar, whose gradient with
    respect to the first inputs is part of the measurement.
    """

    name: str
    #: The table in which the row is shown.
    family: str
    #: The function of the library.
    function: str
    #: Shapes of the first input, from small to one that does not fit in a cache.
    sizes: tuple[tuple[int, ...], ...]
    #: Maps a size to the inputs.
    inputs: Callable[..., tuple[Input, ...]]
    ours: Callable
    plain: Callable
    optax: Callable | None = None
    reference: Callable | None = None
    #: Converts the inputs for the reference, where it needs another layout.
    inputs_for_reference: Callable | None = None
    #: The most elements of the first input that the reference has enough memory for.
    reference_up_to: float = np.inf
    #: A single pass that reads every input and writes an array of the gradient's size.
    one_pass: Callable = jnp.subtract
    #: How many of the first inputs have a gradient.
    gradients: int = 1
    #: The size that ``targets.py`` compiles, if the TPU compiler takes minutes for the largest.
    compiled_size: tuple[int, ...] | None = None


def implementations(row: Row, dtype=np.float32) -> dict[str, Callable]:
    """Return what a training step computes, value and gradient, by the name of the implementation.

    Like our losses, the others compute half precision in float32.
    """
    others = {"plain": row.plain, "optax": row.optax}
    losses = {name: _in_float32(f, dtype) for name, f in others.items() if f is not None}
    losses = {"ours": row.ours} | losses
    if row.gradients:
        wrt = tuple(range(row.gradients)) if row.gradients > 1 else 0
        losses = {name: jax.value_and_grad(loss, wrt) for name, loss in losses.items()}
    return losses


def _in_float32(loss: Callable, dtype) -> Callable:
    if dtype == np.float32:
        return loss
    return lambda *arrays: loss(*(x.astype(np.float32) if x.dtype == dtype else x for x in arrays))


def double(array):
    return array * 2


def subtract_valid(pred, target, where):
    return jnp.where(jnp.expand_dims(where, tuple(range(1, pred.ndim))), pred - target, 0)


def subtract_valid_pixels(output, target, where):
    return jnp.where(where[..., None], output - target, 0)


def multiply_rotations(pred, target_bin, target_res):
    return pred * jnp.repeat(target_bin * target_res, 3, axis=1)


def double_valid(output, target, where=None, *, class_axis=-1):
    valid = target != 255 if where is None else where & (target != 255)
    return jnp.where(jnp.expand_dims(valid, class_axis), output * 2, 0)


def positive_costs(cost, positive):
    return positive & (cost > 0)


VECTORS = ((80_000,), (800_000,), (8_000_000,))
BOX_COUNTS = ((10_000, 4), (200_000, 4), (4_000_000, 4))
COMPILED_BOXES = (2_000_000, 4)
ANCHORS = ((1_000, 80), (10_000, 80), (200_000, 80))
MATRICES = ((128, 256), (1024, 1024), (4096, 4096))
IMAGES = ((2, 128, 256, 19), (2, 256, 512, 19), (2, 512, 1024, 19))
HEATMAPS = ((1, 32, 32, 80), (1, 96, 96, 80), (8, 128, 128, 80))
IMAGES_150 = ((2, 64, 64, 150), (2, 128, 128, 150), (2, 256, 256, 150))


def pair_of_vectors(count):
    return inputs.normal(count), inputs.normal(count)


def pair_of_boxes(count, _):
    return inputs.boxes(count), inputs.boxes(count)


def two_sets_of_boxes(count1, count2):
    # Several chips share the first set, and each of them has all boxes of the second.
    return inputs.boxes(count1), *inputs.with_batch_axis(None, inputs.boxes(count2))


def masked_pair_of_boxes(count, _):
    return inputs.boxes(count), inputs.boxes(count), inputs.padding(count)


def rotations(count, channels):
    """Predictions for two angle bins, the active bins, and the residual angles."""
    active, residual = inputs.flags(0.6, count, 2), inputs.uniform(-np.pi, np.pi, count, 2)
    return inputs.normal(count, channels), active, residual


def images(count, height, width, classes):
    """Logits and labels, of which 10 % are ignored."""
    labels = inputs.labels(classes, count, height, width, ignored=0.1)
    return inputs.normal(count, height, width, classes), labels


def masked_images(*size):
    return *images(*size), inputs.mask(0.7, *size[:-1])


def images_classes_first(count, classes, height, width):
    labels = inputs.labels(classes, count, height, width, ignored=0.1)
    return inputs.normal(count, classes, height, width), labels


def logits_and_labels(count, classes):
    return inputs.normal(count, classes), inputs.labels(classes, count)


def logits_and_probabilities(count, classes):
    return inputs.normal(count, classes), inputs.probabilities(count, classes)


def logits_and_flags(*shape):
    return inputs.normal(*shape), inputs.flags(0.02, *shape)


def masked_logits_and_flags(count, classes):
    return *logits_and_flags(count, classes), inputs.padding(count)


def logits_and_heatmap(*shape):
    return inputs.normal(*shape), inputs.heatmap(*shape)


def masked_logits_and_heatmap(*shape):
    return *logits_and_heatmap(*shape), inputs.mask(0.7, *shape[:-1])


def similarities(*shape, positive):
    """Similarities, and targets of which the share ``positive`` is 1 and the rest 0."""
    return inputs.uniform(-0.2, 1, *shape), inputs.flags(positive, *shape)


def costs(*shape):
    return inputs.uniform(0, 5, *shape), inputs.mask(0.02, *shape)


def anchors(images, count, classes):
    """Outputs for dense anchors, of which 1 % have an object."""
    labels = inputs.labels(classes, images, count, ignored=0.99, ignore_index=classes)
    box = images, count, 4
    return inputs.normal(images, count, classes), inputs.normal(*box), labels, inputs.normal(*box)


def sampled_anchors(images, count, classes):
    """One logit per anchor, and a sample of about 256 anchors per image."""
    *outputs, _, targets = anchors(images, count, classes)
    labels = inputs.labels(2, images, count)
    return *outputs, labels, targets, inputs.mask(256 / count, images, count)


def proposals(count, classes):
    """A quarter of the proposals has an object; 1 % is padding."""
    outputs = inputs.normal(count, classes + 1), inputs.normal(count, 4 * classes)
    labels = inputs.labels(classes, count, ignored=0.75, ignore_index=classes)
    return *outputs, labels, inputs.normal(count, 4), inputs.mask(0.99, count)


def priors(images, count, classes):
    """Outputs of YOLOX for dense priors, of which 1 % are foreground."""
    pred, target = ((inputs.boxes(count, images)) for _ in range(2))
    outputs = inputs.normal(images, count, classes), pred, inputs.normal(images, count)
    targets = inputs.mask(0.01, images, count), inputs.flags(0.02, images, count, classes), target
    return *outputs, *targets


def object_masks(count, classes, height, width):
    labels = inputs.labels(classes, count)
    outputs, targets = (
        inputs.normal(count, classes, height, width),
        inputs.flags(0.5, count, height, width),
    )
    return outputs, labels, targets, inputs.mask(0.9, count)


def _classes_first(sizes):
    return tuple((size[0], size[-1], *size[1:-1]) for size in sizes)


def iou_row(mode: str, masked: bool) -> Row:
    return Row(
        name=f"IoU {mode}{', masked' * masked}",
        family=BOXES,
        function="iou_loss",
        sizes=BOX_COUNTS,
        compiled_size=COMPILED_BOXES,
        inputs=masked_pair_of_boxes if masked else pair_of_boxes,
        ours=partial(ours.iou_loss, mode=mode),
        plain=partial(plain.iou_loss, mode=mode),
        reference=partial(reference.iou_loss, mode=mode),
        one_pass=subtract_valid if masked else jnp.subtract,
    )


def box_row(name: str, masked: bool) -> Row:
    """The row of ``giou_loss`` and its relatives, whose functions have the same arguments."""
    function = f"{name.lower()}_loss"
    return Row(
        name=f"{name}{', masked' * masked}",
        family=BOXES,
        function=function,
        sizes=BOX_COUNTS,
        compiled_size=COMPILED_BOXES,
        inputs=masked_pair_of_boxes if masked else pair_of_boxes,
        ours=getattr(ours, function),
        plain=getattr(plain, function),
        reference=getattr(reference, function),
        one_pass=subtract_valid if masked else jnp.subtract,
    )


def segmentation_row(sizes: tuple, class_axis: int, masked: bool = False) -> Row:
    first = class_axis == 1
    classes = sizes[0][-1]
    return Row(
        name=f"segmentation {'NCHW' if first else 'NHWC'}, {classes} classes{', masked' * masked}",
        family=CLASSES,
        function="seg_cross_entropy_loss",
        sizes=_classes_first(sizes) if first else sizes,
        inputs=images_classes_first if first else masked_images if masked else images,
        ours=partial(ours.seg_cross_entropy_loss, class_axis=class_axis),
        plain=partial(plain.seg_cross_entropy_loss, class_axis=class_axis),
        optax=None
        if masked
        else partial(optax_losses.seg_cross_entropy_loss, class_axis=class_axis),
        reference=None if masked else reference.seg_cross_entropy_loss,
        inputs_for_reference=None if first else inputs.classes_first,
        one_pass=partial(double_valid, class_axis=class_axis),
    )


def key_and_reference_objects(images, keys, length):
    """Embeddings and identities; half of the references are background, 10 % are padding."""
    refs = 1, images, 4 * keys
    key_ids = inputs.labels(keys, images, keys)
    ref_ids = inputs.labels(keys, *refs, ignored=0.5, ignore_index=-1)
    key_where, ref_where = inputs.mask(0.9, images, keys), inputs.mask(0.9, *refs)
    # The references have the images on their second axis.
    of_refs = inputs.with_batch_axis(1, inputs.normal(*refs, length), ref_ids, ref_where)
    ref_embeddings, ref_ids, ref_where = of_refs
    keys = inputs.normal(images, keys, length)
    return keys, ref_embeddings, key_ids, ref_ids, key_where, ref_where


def boxes_in_3d(count, classes, channels):
    labels, where = inputs.labels(classes, count), inputs.padding(count)
    return inputs.normal(count, classes, channels), inputs.encoded_boxes(count), labels, where


def trajectories(count, times, length):
    states = inputs.normal(count, times, length)
    return states, states, inputs.normal(count, times + 1, length)


def double_valid_objects(keys, refs, key_ids, ref_ids, key_where, ref_where):
    key_where, ref_where = key_where & (key_ids > 0), ref_where & (ref_ids > 0)
    return jnp.where(key_where[..., None], 2 * keys, 0), jnp.where(
        ref_where[..., None], 2 * refs, 0
    )


def add_targets(pred, target, labels, where):
    valid = (where & (labels > 0))[:, None, None]
    return jnp.where(valid, pred + jnp.sum(target, axis=1)[:, None, None], 0)


def subtract_states(loc_preds, loc_refines, gt_traj):
    return loc_preds - gt_traj[:, 1:], loc_refines - gt_traj[:, 1:]


def subtract_boxes(cls_outs, reg_outs, labels, bbox_targets, where=True):
    positive = (labels == 1) & where
    classes = jnp.where(positive[..., None], cls_outs * 2, 0)
    return classes, jnp.where(positive[..., None], reg_outs - bbox_targets, 0)


def double_outputs(class_outs, regression_outs, labels, bbox_targets, where):
    del bbox_targets
    valid = (where & (labels > 0))[:, None]
    return jnp.where(valid, class_outs * 2, 0), jnp.where(valid, regression_outs * 2, 0)


def subtract_targets(cls_outs, boxes, obj_outs, foreground, cls_targets, bbox_targets):
    on = foreground[..., None]
    classes = jnp.where(on, cls_outs - cls_targets, 0)
    return classes, jnp.where(on, boxes - bbox_targets, 0), obj_outs - foreground


def subtract_masks(mask_preds, target_classes, target_masks, where):
    valid = (where & (target_classes > 0))[:, None, None]
    return mask_preds - jnp.where(valid, target_masks, 0)[:, None]


def image_row(name: str, function: str, sizes: tuple, masked: bool = False) -> Row:
    """The row of a loss of images and labels."""
    return Row(
        name=name,
        family=CLASSES,
        function=function,
        sizes=sizes,
        inputs=masked_images if masked else images,
        ours=getattr(ours, function),
        plain=getattr(plain, function),
        one_pass=double_valid,
    )


ROWS = [
    Row(
        name="L1",
        family=REGRESSION,
        function="l1_loss",
        sizes=VECTORS,
        inputs=pair_of_vectors,
        ours=ours.l1_loss,
        plain=plain.l1_loss,
        reference=reference.l1_loss,
    ),
    Row(
        name="L2",
        family=REGRESSION,
        function="l2_loss",
        sizes=VECTORS,
        inputs=pair_of_vectors,
        ours=ours.l2_loss,
        plain=plain.l2_loss,
        optax=optax_losses.l2_loss,
        reference=reference.l2_loss,
    ),
    Row(
        name="smooth L1",
        family=REGRESSION,
        function="smooth_l1_loss",
        sizes=VECTORS,
        inputs=pair_of_vectors,
        ours=ours.smooth_l1_loss,
        plain=plain.smooth_l1_loss,
        optax=optax_losses.smooth_l1_loss,
        reference=reference.smooth_l1_loss,
    ),
    Row(
        name="L1, HardMeanLoss of 25 %",
        family=REGRESSION,
        function="HardMeanLoss",
        sizes=VECTORS,
        inputs=pair_of_vectors,
        ours=ours.hard_mean_l1_loss,
        plain=plain.hard_mean_l1_loss,
    ),
    Row(
        name="rotation, 2 bins",
        family=REGRESSION,
        function="rotation_loss",
        sizes=((2_000, 6), (50_000, 6), (2_000_000, 6)),
        compiled_size=(1_000_000, 6),
        inputs=rotations,
        ours=ours.rotation_loss,
        plain=plain.rotation_loss,
        reference=reference.rotation_loss,
        one_pass=multiply_rotations,
    ),
    Row(
        name="smooth L1 of boxes",
        family=BOXES,
        function="smooth_l1_loss",
        sizes=BOX_COUNTS,
        inputs=pair_of_boxes,
        ours=ours.smooth_l1_loss,
        plain=plain.smooth_l1_loss,
        optax=optax_losses.smooth_l1_loss,
        reference=reference.smooth_l1_loss,
    ),
    Row(
        name="smooth L1 of boxes, masked",
        family=BOXES,
        function="smooth_l1_loss",
        sizes=BOX_COUNTS,
        inputs=masked_pair_of_boxes,
        ours=ours.smooth_l1_loss,
        plain=plain.smooth_l1_loss,
        reference=reference.smooth_l1_loss,
        one_pass=subtract_valid,
    ),
    iou_row("log", masked=False),
    iou_row("log", masked=True),
    iou_row("square", masked=False),
    *(box_row(name, masked) for name in ("GIoU", "DIoU", "CIoU") for masked in (False, True)),
    Row(
        name="paired_iou",
        family=BOXES,
        function="paired_iou",
        sizes=BOX_COUNTS,
        compiled_size=COMPILED_BOXES,
        inputs=pair_of_boxes,
        ours=ours.paired_iou,
        plain=plain.paired_iou,
    ),
    Row(
        name="pairwise_iou",
        family=BOXES,
        function="pairwise_iou",
        sizes=((100, 100), (1_000, 500), (4_000, 4_000)),
        inputs=two_sets_of_boxes,
        ours=ours.pairwise_iou,
        plain=plain.pairwise_iou,
        one_pass=lambda boxes1, boxes2: boxes1[:, 0, None] * boxes2[:, 0],
        gradients=0,
    ),
    segmentation_row(IMAGES, class_axis=-1),
    segmentation_row(IMAGES, class_axis=-1, masked=True),
    segmentation_row(IMAGES, class_axis=1),
    segmentation_row(IMAGES_150, class_axis=-1),
    segmentation_row(IMAGES_150, class_axis=1),
    Row(
        name="cross-entropy",
        family=CLASSES,
        function="cross_entropy",
        sizes=((512, 1000), (4_096, 1000), (16_384, 1000)),
        inputs=logits_and_labels,
        ours=ours.cross_entropy,
        plain=plain.cross_entropy,
        optax=optax_losses.cross_entropy,
        one_pass=double_valid,
    ),
    Row(
        name="cross-entropy, smoothed",
        family=CLASSES,
        function="cross_entropy",
        sizes=((512, 1000), (4_096, 1000), (16_384, 1000)),
        inputs=logits_and_labels,
        ours=ours.smoothed_cross_entropy,
        plain=plain.smoothed_cross_entropy,
        optax=optax_losses.smoothed_cross_entropy,
        one_pass=double_valid,
    ),
    Row(
        name="cross-entropy, probabilities",
        family=CLASSES,
        function="cross_entropy",
        sizes=((512, 1000), (4_096, 1000), (16_384, 1000)),
        inputs=logits_and_probabilities,
        ours=ours.cross_entropy,
        plain=plain.soft_cross_entropy,
        optax=optax_losses.soft_cross_entropy,
    ),
    Row(
        name="binary cross-entropy",
        family=CLASSES,
        function="binary_cross_entropy",
        sizes=ANCHORS,
        inputs=logits_and_flags,
        ours=ours.binary_cross_entropy,
        plain=plain.binary_cross_entropy,
        optax=optax_losses.binary_cross_entropy,
    ),
    Row(
        name="binary cross-entropy, masked",
        family=CLASSES,
        function="binary_cross_entropy",
        sizes=ANCHORS,
        inputs=masked_logits_and_flags,
        ours=ours.binary_cross_entropy,
        plain=plain.binary_cross_entropy,
        one_pass=subtract_valid,
    ),
    Row(
        name="sigmoid focal",
        family=CLASSES,
        function="sigmoid_focal_loss",
        sizes=ANCHORS,
        inputs=logits_and_flags,
        ours=ours.sigmoid_focal_loss,
        plain=plain.sigmoid_focal_loss,
        optax=optax_losses.sigmoid_focal_loss,
    ),
    Row(
        name="sigmoid focal, masked",
        family=CLASSES,
        function="sigmoid_focal_loss",
        sizes=ANCHORS,
        inputs=masked_logits_and_flags,
        ours=ours.sigmoid_focal_loss,
        plain=plain.sigmoid_focal_loss,
        one_pass=subtract_valid,
    ),
    image_row("softmax focal", "softmax_focal_loss", IMAGES),
    image_row("softmax focal, masked", "softmax_focal_loss", IMAGES, masked=True),
    Row(
        name="heatmap focal",
        family=CLASSES,
        function="heatmap_focal_loss",
        sizes=HEATMAPS,
        inputs=logits_and_heatmap,
        ours=ours.heatmap_focal_loss,
        plain=plain.heatmap_focal_loss,
    ),
    Row(
        name="heatmap focal, masked",
        family=CLASSES,
        function="heatmap_focal_loss",
        sizes=HEATMAPS,
        inputs=masked_logits_and_heatmap,
        ours=ours.heatmap_focal_loss,
        plain=plain.heatmap_focal_loss,
        one_pass=subtract_valid_pixels,
    ),
    image_row("dice, 19 classes", "dice_loss", IMAGES),
    image_row("dice, 19 classes, masked", "dice_loss", IMAGES, masked=True),
    image_row("dice, 150 classes", "dice_loss", IMAGES_150),
    Row(
        name="multi-positive cross-entropy",
        family=PAIRS,
        function="multi_pos_cross_entropy",
        sizes=((128, 256), (512, 1024), (4096, 2048)),
        inputs=partial(similarities, positive=0.02),
        ours=ours.multi_pos_cross_entropy,
        plain=plain.multi_pos_cross_entropy,
        reference=reference.multi_pos_cross_entropy,
        reference_up_to=128 * 256,  # it expands N x M to N x M x M
    ),
    Row(
        name="embedding distance, mined",
        family=PAIRS,
        function="embedding_distance_loss",
        sizes=((128, 256), (512, 1024), (2048, 2048)),
        inputs=partial(similarities, positive=0.05),
        ours=ours.embedding_distance_loss,
        plain=plain.embedding_distance_loss,
        reference=reference.embedding_distance_loss,
    ),
    Row(
        name="top_k_mask, k = 1500",
        family=PAIRS,
        function="top_k_mask",
        sizes=MATRICES,
        inputs=lambda *shape: (inputs.normal(*shape),),
        ours=partial(ours.top_k_mask, k=1500),
        plain=partial(plain.top_k_mask, k=1500),
        one_pass=jnp.signbit,
        gradients=0,
    ),
    Row(
        name="top_k_mask, traced k",
        family=PAIRS,
        function="top_k_mask",
        sizes=MATRICES,
        inputs=lambda *shape: (inputs.normal(*shape), inputs.integer(1500)),
        ours=ours.top_k_mask,
        plain=plain.traced_top_k_mask,
        one_pass=jnp.greater,
        gradients=0,
    ),
    Row(
        name="hard_negative_mask",
        family=PAIRS,
        function="hard_negative_mask",
        sizes=((4, 8_732), (32, 8_732), (512, 16_384)),
        inputs=costs,
        ours=ours.hard_negative_mask,
        plain=plain.hard_negative_mask,
        one_pass=positive_costs,
        gradients=0,
    ),
    Row(
        name="orthogonal transform",
        family=TRANSFORMS,
        function="orthogonal_transform_regularization_loss",
        sizes=((32, 3, 3), (512, 64, 64), (2048, 64, 64)),
        inputs=lambda *shape: (inputs.near_identity(*shape),),
        ours=ours.orthogonal_transform_regularization_loss,
        plain=plain.orthogonal_transform_regularization_loss,
        reference=reference.orthogonal_transform_regularization_loss,
        one_pass=double,
    ),
    Row(
        name="RPN head",
        family=HEADS,
        function="rpn_loss",
        sizes=((1, 20_000, 1), (8, 20_000, 1), (8, 200_000, 1)),
        inputs=sampled_anchors,
        ours=ours.rpn_loss,
        plain=plain.rpn_loss,
        reference=reference.rpn_loss,
        one_pass=subtract_boxes,
        gradients=2,
    ),
    Row(
        name="RetinaNet head, 80 classes",
        family=HEADS,
        function="retinanet_head_loss",
        sizes=((1, 2_000, 80), (1, 20_000, 80), (8, 20_000, 80)),
        inputs=anchors,
        ours=ours.retinanet_head_loss,
        plain=plain.retinanet_head_loss,
        reference=reference.retinanet_head_loss,
        one_pass=subtract_boxes,
        gradients=2,
    ),
    Row(
        name="dense anchor head, smooth L1",
        family=HEADS,
        function="dense_anchor_head_loss",
        sizes=((1, 2_000, 20), (1, 20_000, 20), (8, 20_000, 20)),
        inputs=anchors,
        ours=ours.dense_anchor_head_loss,
        plain=plain.dense_anchor_head_loss,
        one_pass=subtract_boxes,
        gradients=2,
    ),
    Row(
        name="R-CNN head, 80 classes",
        family=HEADS,
        function="rcnn_loss",
        sizes=((512, 80), (4_096, 80), (32_768, 80)),
        inputs=proposals,
        ours=ours.rcnn_loss,
        plain=plain.rcnn_loss,
        reference=reference.rcnn_loss,
        one_pass=double_outputs,
        gradients=2,
    ),
    Row(
        name="YOLOX head, 80 classes",
        family=HEADS,
        function="yolox_head_loss",
        sizes=((1, 2_000, 80), (1, 20_000, 80), (8, 20_000, 80)),
        inputs=priors,
        ours=ours.yolox_head_loss,
        plain=plain.yolox_head_loss,
        reference=reference.yolox_head_loss,
        one_pass=subtract_targets,
        gradients=3,
    ),
    Row(
        name="mask head, 80 classes",
        family=HEADS,
        function="mask_rcnn_head_loss",
        sizes=((8, 80, 28, 28), (64, 80, 28, 28), (512, 80, 28, 28)),
        inputs=object_masks,
        ours=ours.mask_rcnn_head_loss,
        plain=plain.mask_rcnn_head_loss,
        reference=reference.mask_rcnn_head_loss,
        one_pass=subtract_masks,
    ),
    Row(
        name="QDTrack, x 4 references",
        family=HEADS,
        function="qdtrack_instance_similarity_loss",
        sizes=((2, 32, 256), (8, 64, 256), (64, 64, 256)),
        inputs=key_and_reference_objects,
        ours=ours.qdtrack_instance_similarity_loss,
        plain=plain.qdtrack_instance_similarity_loss,
        reference=reference.qdtrack_instance_similarity_loss,
        one_pass=double_valid_objects,
        gradients=2,
    ),
    Row(
        name="QD-3DT boxes, 10 classes",
        family=HEADS,
        function="box3d_uncertainty_loss",
        sizes=((512, 10, 13), (8_192, 10, 13), (131_072, 10, 13)),
        inputs=boxes_in_3d,
        ours=ours.box3d_uncertainty_loss,
        plain=plain.box3d_uncertainty_loss,
        reference=reference.box3d_uncertainty_loss,
        one_pass=add_targets,
    ),
    Row(
        name="VeloLSTM, 10 states",
        family=HEADS,
        function="velo_lstm_loss",
        sizes=((128, 9, 7), (4_096, 9, 7), (131_072, 9, 7)),
        inputs=trajectories,
        ours=ours.velo_lstm_loss,
        plain=plain.velo_lstm_loss,
        reference=reference.velo_lstm_loss,
        one_pass=subtract_states,
        gradients=2,
    ),
]
