"""What a detector needs besides losses: anchors, box deltas, matcher, sampler, suppression, AP.

The first parts are plain JAX for one image. `train_detector.py` maps them over a batch inside its
compiled step: shapes are fixed, and masks say what counts. Average precision is NumPy.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vis4d_jax_loss import pairwise_iou, random_k_mask

DELTA_SCALE = 5.0  # deltas of well-matched boxes are small: enlarge them to about 1

# --------------------------------------------------------------------------- anchors and deltas


def make_anchors(size: int, stride: int, shapes: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Anchors ``[A, 4]``: boxes (width, height) in the middle of each cell, row by row."""
    middle = np.arange(stride / 2, size, stride)
    y, x, shape = np.meshgrid(middle, middle, np.arange(len(shapes)), indexing="ij")
    centre, half = np.stack([x, y], axis=-1), np.array(shapes)[shape] / 2
    return np.concatenate([centre - half, centre + half], axis=-1).reshape(-1, 4).astype(np.float32)


def encode(boxes: jax.Array, anchors: jax.Array) -> jax.Array:
    """Deltas ``[..., 4]`` that turn anchors into boxes: shifts, and logarithms of sizes."""
    size, anchor_size = (box[..., 2:] - box[..., :2] for box in (boxes, anchors))
    shift = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]) / 2
    deltas = jnp.concatenate([shift / anchor_size, jnp.log(size / anchor_size)], axis=-1)
    return DELTA_SCALE * deltas


def decode(deltas: jax.Array, anchors: jax.Array) -> jax.Array:
    """Boxes ``[..., 4]``: anchors that are moved and resized by deltas."""
    shift, log_ratio = jnp.split(deltas / DELTA_SCALE, 2, axis=-1)
    size = anchors[..., 2:] - anchors[..., :2]
    centre = (anchors[..., :2] + anchors[..., 2:]) / 2 + shift * size
    half = size * jnp.exp(jnp.clip(log_ratio, -2, 2)) / 2  # an untrained network must not overflow
    return jnp.concatenate([centre - half, centre + half], axis=-1)


# -------------------------------------------------------------------------- matcher and sampler


class Assigned(NamedTuple):
    """What candidates should predict. Candidates are anchors or proposals, A per image.

    Args:
        label: Class of the matched box ``[A]``, or -1 for background.
        deltas: From the candidate to the matched box, ``[A, 4]``. Meaningless for background.
        sampled: Mask of the candidates that count in the losses, ``[A]``.
    """

    label: jax.Array
    deltas: jax.Array
    sampled: jax.Array


def sample(
    key: jax.Array, positive: jax.Array, negative: jax.Array, count: int, share: float
) -> jax.Array:
    """Draw `count` candidates, at most a `share` of them positive: a mask ``[A]``."""
    positive_key, negative_key = jax.random.split(key)
    positive = random_k_mask(positive_key, int(count * share), positive)
    return positive | random_k_mask(negative_key, count - positive.sum(), negative)


def assign(
    key: jax.Array,
    candidates: jax.Array,
    usable: jax.Array,
    boxes: jax.Array,
    labels: jax.Array,
    *,
    below: float,
    above: float,
    count: int,
    share: float,
) -> Assigned:
    """Match candidates ``[A, 4]`` to the boxes ``[M, 4]`` of an image, and sample some of them.

    A candidate is positive if its IoU with a box is at least `above`, or if no other candidate is
    closer to that box. It is negative if its IoU with every box is less than `below`. Those between
    are not sampled. Boxes with label -1 are padding.
    """
    # A box without area overlaps nothing.
    boxes = jnp.where(labels[:, None] >= 0, boxes, 0)
    iou = jnp.where(usable[:, None], pairwise_iou(candidates, boxes), 0)
    matched, best = iou.argmax(1), iou.max(1)
    closest = ((iou == iou.max(0, keepdims=True)) & (iou > 0)).any(1)
    positive = (best >= above) | closest
    negative = usable & (best < below) & ~positive
    return Assigned(
        label=jnp.where(positive, labels[matched], -1),
        deltas=encode(boxes[matched], candidates),
        sampled=sample(key, positive, negative, count, share),
    )


def suppress(boxes: jax.Array, overlap: float) -> jax.Array:
    """Mark the boxes ``[P, 4]``, best first, that no better marked box overlaps: a mask ``[P]``."""
    rivals = jnp.tril(pairwise_iou(boxes, boxes) > overlap, -1)

    def visit(index: jax.Array, kept: jax.Array) -> jax.Array:
        return kept.at[index].set(~(rivals[index] & kept).any())

    return jax.lax.fori_loop(0, len(boxes), visit, jnp.ones(len(boxes), bool))


# ---------------------------------------------------------------------------- average precision


def find_boxes(
    found: dict[str, np.ndarray], boxes: np.ndarray, labels: np.ndarray, overlap: float
) -> np.ndarray:
    """The true box ``[B, P]`` of each detection, or -1 for a wrong detection.

    Each detection, best first, takes the free true box ``[B, M, 4]`` of its class with the largest
    IoU, if it is at least `overlap`. Boxes with label -1 are padding, detections with score 0 too.
    """
    iou = np.array(pairwise_iou(found["boxes"], np.where(labels[..., None] >= 0, boxes, 0)))
    iou[(iou < overlap) | (found["label"][..., None] != labels[:, None])] = 0
    iou[found["score"] == 0] = 0
    matched, images = np.full(found["score"].shape, -1), np.arange(len(boxes))
    for rank in range(iou.shape[1]):
        best = iou[:, rank].argmax(-1)
        hit = iou[images, rank, best] > 0
        matched[hit, rank] = best[hit]
        iou[images[hit], :, best[hit]] = 0
    return matched


def precision_curve(score: np.ndarray, hit: np.ndarray, total: int) -> tuple[np.ndarray, ...]:
    """Recall and precision of the 1, 2, ... best detections, of `total` true boxes."""
    hits = hit[np.argsort(-score, kind="stable")].cumsum()
    precision = hits / np.arange(1, len(hits) + 1)
    # The best precision at this recall or more, as usual.
    return hits / total, np.maximum.accumulate(precision[::-1])[::-1]


def average_precision(
    found: dict[str, np.ndarray], boxes: np.ndarray, labels: np.ndarray, overlap: float
) -> float:
    """The area under the curve of precision over recall, averaged over the classes."""
    hits, areas = find_boxes(found, boxes, labels, overlap) >= 0, []
    for label in np.unique(labels[labels >= 0]):
        of_class = (found["score"] > 0) & (found["label"] == label)
        total = (labels == label).sum()
        recall, precision = precision_curve(found["score"][of_class], hits[of_class], total)
        areas.append((np.diff(recall, prepend=0) * precision).sum())
    return float(np.mean(areas))
