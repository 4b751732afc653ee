"""Each loss as a good JAX user would write it in about ten lines, averaged.

This is the shortest code that is fast: closed forms, logits that are not exponentiated twice, and
no array larger than needed. It has no checks and no masks that keep NaN out, and some gradients
are NaN or differ at ties. Only its time is compared.
"""

import jax
import jax.numpy as jnp
from jax import lax


def l1_loss(pred, target):
    return jnp.mean(jnp.abs(pred - target))


def l2_loss(pred, target):
    return jnp.mean((pred - target) ** 2)


def _smooth_l1(pred, target):
    diff = jnp.abs(pred - target)
    inside = jnp.minimum(diff, 1)
    return inside * (diff - 0.5 * inside)


def smooth_l1_loss(pred, target, where=None):
    losses = _smooth_l1(pred, target)
    if where is None:
        return jnp.mean(losses)
    return _masked_mean(losses, where[:, None], losses.shape[1])


def _masked_mean(losses, where, per_row=1):
    total = jnp.sum(jnp.where(where, losses, 0))
    return total / jnp.maximum(per_row * jnp.sum(where, dtype=jnp.float32), 1)


def hard_mean_l1_loss(pred, target):
    losses, count = jnp.abs(pred - target), pred.size // 4
    least = lax.stop_gradient(jnp.sort(losses))[-count]
    return jnp.sum(jnp.where(losses >= least, losses, 0)) / count


def rotation_loss(pred, target_bin, target_res):
    logits, sine, cosine = pred[:, :2], pred[:, 2::2], pred[:, 3::2]
    entropy = jax.nn.softplus(logits) - logits * target_bin
    errors = _smooth_l1(sine, jnp.sin(target_res)) + _smooth_l1(cosine, jnp.cos(target_res))
    active = target_bin == 1
    per_bin = jnp.sum(jnp.where(active, errors, 0), 0) / jnp.maximum(jnp.sum(active, 0), 1)
    return jnp.sum(jnp.mean(entropy, 0) + per_bin)


def _overlap(pred, target):
    """Return the shared area and the area of the union."""
    low, high = (
        jnp.maximum(pred[..., :2], target[..., :2]),
        jnp.minimum(pred[..., 2:], target[..., 2:]),
    )
    width, height = (jnp.maximum(high - low, 0)[..., i] for i in range(2))
    shared = width * height
    return shared, _area(pred) + _area(target) - shared


def _area(boxes):
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou_loss(pred, target, where=None, *, mode):
    shared, union = _overlap(pred, target)
    iou = jnp.maximum(shared / union, 1e-6)
    losses = 1 - iou**2 if mode == "square" else -jnp.log(iou)
    return jnp.mean(losses) if where is None else _masked_mean(losses, where)


def paired_iou(boxes1, boxes2):
    shared, union = _overlap(boxes1, boxes2)
    return jnp.mean(shared / union)


def pairwise_iou(boxes1, boxes2):
    shared, union = _overlap(boxes1[:, None], boxes2)
    return shared / union


def giou_loss(pred, target, where=None):
    shared, union = _overlap(pred, target)
    sides = jnp.maximum(pred[:, 2:], target[:, 2:]) - jnp.minimum(pred[:, :2], target[:, :2])
    around = sides[:, 0] * sides[:, 1]
    losses = 1 - shared / union + (around - union) / around
    return jnp.mean(losses) if where is None else _masked_mean(losses, where)


def _diou(pred, target):
    shared, union = _overlap(pred, target)
    iou = shared / union
    sides = jnp.maximum(pred[:, 2:], target[:, 2:]) - jnp.minimum(pred[:, :2], target[:, :2])
    between = (pred[:, :2] + pred[:, 2:] - target[:, :2] - target[:, 2:]) / 2
    return iou, 1 - iou + jnp.sum(between**2, 1) / jnp.sum(sides**2, 1)


def diou_loss(pred, target, where=None):
    losses = _diou(pred, target)[1]
    return jnp.mean(losses) if where is None else _masked_mean(losses, where)


def _angle(boxes):
    return jnp.arctan2(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def ciou_loss(pred, target, where=None):
    iou, losses = _diou(pred, target)
    shape = 4 / jnp.pi**2 * (_angle(target) - _angle(pred)) ** 2
    alpha = lax.stop_gradient(shape / (1 - iou + shape + 1e-9))
    losses = losses + alpha * shape
    return jnp.mean(losses) if where is None else _masked_mean(losses, where)


def _log_prob_of_label(output, labels, axis):
    label_logit = jnp.take_along_axis(output, jnp.expand_dims(labels, axis), axis).squeeze(axis)
    return label_logit - jax.nn.logsumexp(output, axis)


def cross_entropy(output, target):
    return -jnp.mean(_log_prob_of_label(output, target, -1))


def smoothed_cross_entropy(output, target):
    log_prob_of_all = jnp.mean(output, -1) - jax.nn.logsumexp(output, -1)
    return -jnp.mean(0.9 * _log_prob_of_label(output, target, -1) + 0.1 * log_prob_of_all)


def soft_cross_entropy(output, target):
    return jnp.mean(jnp.sum(target * (jax.nn.logsumexp(output, -1, keepdims=True) - output), -1))


def seg_cross_entropy_loss(output, target, where=None, *, class_axis):
    valid = target != 255
    losses = -_log_prob_of_label(output, jnp.where(valid, target, 0), class_axis)
    losses = jnp.where(valid, losses, 0)
    return jnp.mean(losses) if where is None else _masked_mean(losses, where)


def _binary_cross_entropy(output, target):
    return jax.nn.softplus(output) - output * target


def binary_cross_entropy(output, target, where=None):
    losses = _binary_cross_entropy(output, target)
    if where is None:
        return jnp.mean(losses)
    return _masked_mean(losses, where[:, None], losses.shape[1])


def sigmoid_focal_loss(output, target, where=None):
    missing = jnp.abs(target - jax.nn.sigmoid(output))  # 1 - p of the true class
    balance = 0.75 - 0.5 * target
    losses = balance * missing**2 * _binary_cross_entropy(output, target)
    if where is None:
        return jnp.mean(losses)
    return _masked_mean(losses, where[:, None], losses.shape[1])


def softmax_focal_loss(output, target, where=None):
    valid = target != 255
    log_prob = _log_prob_of_label(output, jnp.where(valid, target, 0), -1)
    losses = jnp.where(valid, -((1 - jnp.exp(log_prob)) ** 2) * log_prob, 0)
    return jnp.mean(losses) if where is None else _masked_mean(losses, where)


def heatmap_focal_loss(output, target, where=None):
    prob, log_prob = jax.nn.sigmoid(output), jax.nn.log_sigmoid(output)
    peak = (1 - prob) ** 2 * -log_prob
    other = (1 - target) ** 4 * prob**2 * (output - log_prob)
    losses = jnp.where(target == 1, peak, other)
    return (
        jnp.mean(losses)
        if where is None
        else _masked_mean(losses, where[..., None], target.shape[-1])
    )


def dice_loss(output, target, where=None):
    classes = output.shape[-1]
    target = target if where is None else jnp.where(where, target, 255)
    valid = (target != 255)[..., None]
    probs = jnp.where(valid, jax.nn.softmax(output), 0)
    truth = target[..., None] == jnp.arange(classes)
    pixels = tuple(range(1, target.ndim))
    hits = jnp.sum(jnp.where(truth, probs, 0), pixels)
    total = jnp.sum(probs, pixels) + jnp.sum(truth, pixels)
    return jnp.mean(1 - (hits + 1) / (0.5 * total + 1))


def multi_pos_cross_entropy(pred, target):
    positive = target == 1
    negatives = jax.nn.logsumexp(jnp.where(positive, -jnp.inf, pred), -1)
    positives = jax.nn.logsumexp(jnp.where(positive, -pred, -jnp.inf), -1)
    return jnp.mean(jax.nn.softplus(negatives + positives))


def _hardest(cost, candidates, count):
    """Mark the ``count`` candidates of the largest cost, and all ties of the last one."""
    cost = jnp.where(candidates, cost, -1)
    least = jnp.sort(cost.ravel())[cost.size - count]
    return candidates & (cost >= least)


def embedding_distance_loss(pred, target):
    positive, negative = target == 1, target == 0
    count = jnp.minimum(negative.sum(), 3 * jnp.maximum(positive.sum(), 1))
    x = jnp.clip(jnp.where(negative, pred - 0.3, pred), 0, 1)
    hard = _hardest(lax.stop_gradient(x), negative, count)
    losses = jnp.where(positive, (x - 1) ** 2, jnp.where(hard, x**2, 0))
    return losses.sum() / jnp.maximum(positive.sum() + count, 1)


def top_k_mask(values, *, k):
    _, indices = lax.top_k(values.ravel(), k)
    return jnp.zeros(values.size, bool).at[indices].set(True).reshape(values.shape)


def traced_top_k_mask(values, k):
    return _hardest(values, jnp.ones(values.shape, bool), k)


def hard_negative_mask(cost, positive):
    negative = ~positive
    count = jnp.minimum(negative.sum(), 3 * jnp.maximum(positive.sum(), 1))
    return positive | _hardest(cost, negative, count)


def orthogonal_transform_regularization_loss(transform):
    # As exact as ours: by default a TPU multiplies in bfloat16.
    product = jnp.matmul(transform, transform.mT, precision="highest")
    excess = product - jnp.eye(transform.shape[-1])
    return jnp.mean(jnp.sqrt(jnp.sum(excess**2, (1, 2)) + 1e-12))


def _box_sum(losses, positive):
    return jnp.sum(jnp.where(positive[..., None], losses, 0))


def rpn_loss(cls_outs, reg_outs, labels, bbox_targets, label_where):
    positive = labels == 1
    losses = _binary_cross_entropy(cls_outs[..., 0], positive)
    total = jnp.sum(jnp.where(label_where, losses, 0))
    total += _box_sum(jnp.abs(reg_outs - bbox_targets), label_where & positive)
    return total / jnp.maximum(jnp.sum(label_where, dtype=jnp.float32), 1)


def retinanet_head_loss(cls_outs, reg_outs, labels, bbox_targets):
    classes = cls_outs.shape[-1]
    missing_class = sigmoid_focal_loss(cls_outs, jax.nn.one_hot(labels, classes)) * classes
    return (
        missing_class + _box_sum(jnp.abs(reg_outs - bbox_targets), labels < classes) / labels.size
    )


def dense_anchor_head_loss(cls_outs, reg_outs, labels, bbox_targets):
    classes = cls_outs.shape[-1]
    missing_class = binary_cross_entropy(cls_outs, jax.nn.one_hot(labels, classes)) * classes
    return (
        missing_class + _box_sum(_smooth_l1(reg_outs, bbox_targets), labels < classes) / labels.size
    )


def rcnn_loss(class_outs, regression_outs, labels, bbox_targets, where):
    classes = class_outs.shape[1] - 1
    total = -jnp.sum(jnp.where(where, _log_prob_of_label(class_outs, labels, 1), 0))
    deltas = regression_outs.reshape(-1, classes, 4)
    index = jnp.minimum(labels, classes - 1)[:, None, None]
    deltas = jnp.take_along_axis(deltas, index, axis=1)[:, 0]
    total += _box_sum(jnp.abs(deltas - bbox_targets), where & (labels < classes))
    return total / jnp.maximum(jnp.sum(where, dtype=jnp.float32), 1)


def yolox_head_loss(cls_outs, boxes, obj_outs, foreground, cls_targets, bbox_targets):
    shared, union = _overlap(boxes.reshape(-1, 4), bbox_targets.reshape(-1, 4))
    box = 1 - (shared / union) ** 2
    total = _box_sum(_binary_cross_entropy(cls_outs, cls_targets), foreground)
    total += 5 * jnp.sum(jnp.where(foreground.reshape(-1), box, 0))
    total += jnp.sum(_binary_cross_entropy(obj_outs, foreground))
    return total / jnp.maximum(jnp.sum(foreground, dtype=jnp.float32), 1)


def mask_rcnn_head_loss(mask_preds, target_classes, target_masks, where):
    logits = jnp.take_along_axis(mask_preds, target_classes[:, None, None, None], axis=1)[:, 0]
    losses = _binary_cross_entropy(logits, target_masks)
    return _masked_mean(losses, where[:, None, None], losses[0].size)


def qdtrack_instance_similarity_loss(keys, refs, key_ids, ref_ids, key_where, ref_where):
    products = jnp.einsum("bnd,vbmd->vbnm", keys, refs)
    key_lengths, ref_lengths = (jnp.linalg.norm(x, axis=-1) for x in (keys, refs))
    cosines = products / (key_lengths[None, :, :, None] * ref_lengths[:, :, None])
    valid = key_where[None, :, :, None] & ref_where[:, :, None]
    same = valid & (key_ids[None, :, :, None] == ref_ids[:, :, None])
    other = valid & ~same
    negatives = jax.nn.logsumexp(jnp.where(other, products, -1e9), -1)
    positives = jax.nn.logsumexp(jnp.where(same, -products, -1e9), -1)
    number = jnp.sum(jnp.any(same, -1), -1) + 1e-5
    track = jnp.mean(jnp.sum(jax.nn.softplus(negatives + positives), -1) / number)
    targets = jnp.where(same, 1, jnp.where(other, 0, -1))
    return 0.25 * track + jnp.mean(jax.vmap(jax.vmap(embedding_distance_loss))(cosines, targets))


def box3d_uncertainty_loss(pred, target, labels, where):
    pred = jnp.take_along_axis(pred, labels[:, None, None], axis=1)[:, 0]
    depth, goal = pred[:, 2], target[:, 2]

    def mean(error, where, per_row=1):  # smooth L1 with beta = 1/9
        return _masked_mean(_smooth_l1(9 * error, 0) / 9, where, per_row)

    total = mean(pred[:, :2] - target[:, :2], where[:, None], 2) + mean(
        depth - goal, where & (goal > 0)
    )
    total += mean(pred[:, 3:6] - target[:, 3:6], where[:, None] & (target[:, 3:6] != 100))
    bins, angles = target[:, 6:8], target[:, 8:]
    active = where[:, None] & (bins == 1)
    entropy = jnp.sum(jax.nn.softplus(pred[:, 6:8]) - pred[:, 6:8] * bins, 1)
    errors = _smooth_l1(pred[:, 8:12:2], jnp.sin(angles)) + _smooth_l1(
        pred[:, 9:12:2], jnp.cos(angles)
    )
    per_bin = jnp.sum(jnp.where(active, errors, 0), 0) / jnp.maximum(jnp.sum(active, 0), 1)
    total += _masked_mean(entropy, where) + jnp.sum(per_bin)
    confidence = lax.stop_gradient(jnp.exp(-5 * jnp.abs(depth - goal)))
    losses = _smooth_l1(9 * (pred[:, -1] - confidence), 0) / 9
    return total + _masked_mean(jnp.where(confidence > 0.8, 5, 0.1) * losses, where)


def velo_lstm_loss(loc_preds, loc_refines, gt_traj):
    motion = loc_preds[:, 1:-1] - loc_preds[:, :-2]
    refine = jnp.mean(_smooth_l1(loc_refines, gt_traj[:, 1:]))
    pred = jnp.mean(_smooth_l1(loc_preds[:, :-1], gt_traj[:, 2:]))
    return refine + pred + 0.001 * jnp.mean(jnp.abs(motion[:, 1:] - motion[:, :-1]))
