"""Line-by-line translations of the PyTorch reference to ``jax.numpy``.

They show what a quick translation costs. They have the faults of the reference: no masks, no
checks, and gradients that may be NaN or differ at ties. Only their time is compared.
"""

import jax
import jax.numpy as jnp


def l1_loss(pred, target):
    return jnp.abs(pred - target).mean()


def l2_loss(pred, target):
    return ((pred - target) ** 2).mean()


def _smooth_l1(pred, target, beta=1.0):
    diff = jnp.abs(pred - target)
    return jnp.where(diff < beta, 0.5 * diff * diff / beta, diff - 0.5 * beta)


def smooth_l1_loss(pred, target):
    return _smooth_l1(pred, target).mean()


def masked_smooth_l1_loss(pred, target, where):
    return jnp.mean(_smooth_l1(pred, target), where=where[:, None])


def _box_area(boxes):
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return jnp.clip(width, min=0) * jnp.clip(height, min=0)


def _iou_per_box(pred, target, mode, eps=1e-6):
    sides = jnp.minimum(pred[:, 2:], target[:, 2:]) - jnp.maximum(pred[:, :2], target[:, :2])
    shared = jnp.clip(sides, min=0).prod(axis=1)
    iou = jnp.where(shared > 0, shared / (_box_area(pred) + _box_area(target) - shared), 0)
    iou = jnp.clip(iou, min=eps)
    return {"square": 1 - iou**2, "log": -jnp.log(iou)}[mode]


def iou_loss(pred, target, mode):
    return _iou_per_box(pred, target, mode).mean()


def masked_iou_loss(pred, target, where, mode):
    return jnp.mean(_iou_per_box(pred, target, mode), where=where)


def rotation_loss(pred, target_bin, target_res, num_bins=2):
    logits = pred[:, :num_bins]
    entropy = jnp.maximum(logits, 0) - logits * target_bin + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    total = entropy.mean(axis=0).sum()
    for i in range(num_bins):
        active = target_bin[:, i] == 1
        for j, target in enumerate((jnp.sin(target_res[:, i]), jnp.cos(target_res[:, i]))):
            losses = _smooth_l1(pred[:, num_bins + 2 * i + j], target)
            total += jnp.sum(losses * active) / jnp.maximum(active.sum(), 1)
    return total


def seg_cross_entropy_loss(output, target, class_axis):
    log_probs = jax.nn.log_softmax(output, axis=class_axis)
    labels = jnp.expand_dims(jnp.where(target == 255, 0, target), class_axis)
    losses = -jnp.take_along_axis(log_probs, labels, axis=class_axis).squeeze(class_axis)
    return jnp.where(target == 255, 0, losses).mean()


def multi_pos_cross_entropy(pred, target):
    positive = jnp.where(target == 0, jnp.inf, pred * (target == 1))
    negative = jnp.where(target == 1, -jnp.inf, pred * (target == 0))
    columns = pred.shape[1]
    pairs = jnp.tile(negative, (1, columns)) - jnp.repeat(positive, columns, axis=1)
    return jax.nn.logsumexp(jnp.pad(pairs, ((0, 0), (0, 1))), axis=1).mean()


def top_k_mask(values, k):
    flat = values.ravel()
    rank = jnp.argsort(jnp.argsort(-flat))
    return (rank < k).reshape(values.shape)


def embedding_distance_loss(pred, target):
    positive, negative = target == 1, target == 0
    pred = jnp.clip(jnp.where(negative, pred - 0.3, pred), 0, 1)
    num_pos = jnp.maximum(1, positive.sum())
    limit = (num_pos * 3.0).astype(int)
    k = jnp.where(negative.sum() / num_pos > 3.0, limit, negative.sum())
    costs = jax.lax.stop_gradient(jnp.where(negative, (pred - target) ** 2, -1))
    weight = jnp.where(positive | (negative & top_k_mask(costs, k)), 1.0, 0.0)
    return jnp.sum(weight * (pred - target) ** 2) / (weight > 0).sum()


def orthogonal_transform_regularization_loss(transform):
    product = transform @ transform.swapaxes(1, 2)
    return jnp.linalg.norm(product - jnp.eye(transform.shape[1])[None], axis=(1, 2)).mean()
