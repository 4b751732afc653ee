"""The losses of this library, averaged as in a training step."""

import jax.numpy as jnp

import vis4d_jax_loss as vjl
from vis4d_jax_loss import mean_loss


def l1_loss(pred, target):
    return vjl.l1_loss(pred, target, mean_loss)


def l2_loss(pred, target):
    return vjl.l2_loss(pred, target, mean_loss)


def smooth_l1_loss(pred, target, where=None):
    return vjl.smooth_l1_loss(pred, target, mean_loss, where=where)


def hard_mean_l1_loss(pred, target):
    return vjl.l1_loss(pred, target, vjl.HardMeanLoss(fraction=0.25))


def rotation_loss(pred, target_bin, target_res):
    return vjl.rotation_loss(pred, target_bin, target_res, 2, mean_loss)


def iou_loss(pred, target, where=None, *, mode):
    return vjl.iou_loss(pred, target, mean_loss, mode, where=where)


def giou_loss(pred, target, where=None):
    return vjl.giou_loss(pred, target, mean_loss, where=where)


def diou_loss(pred, target, where=None):
    return vjl.diou_loss(pred, target, mean_loss, where=where)


def ciou_loss(pred, target, where=None):
    return vjl.ciou_loss(pred, target, mean_loss, where=where)


def paired_iou(boxes1, boxes2):
    return jnp.mean(vjl.paired_iou(boxes1, boxes2))


def pairwise_iou(boxes1, boxes2):
    return vjl.pairwise_iou(boxes1, boxes2)


def seg_cross_entropy_loss(output, target, where=None, *, class_axis):
    return vjl.seg_cross_entropy_loss(output, target, class_axis=class_axis, where=where)


def cross_entropy(output, target):
    return vjl.cross_entropy(output, target, ignore_index=None, reducer=mean_loss)


def smoothed_cross_entropy(output, target):
    return vjl.cross_entropy(
        output, target, ignore_index=None, label_smoothing=0.1, reducer=mean_loss
    )


def binary_cross_entropy(output, target, where=None):
    return vjl.binary_cross_entropy(output, target, mean_loss, where=where)


def sigmoid_focal_loss(output, target, where=None):
    return vjl.sigmoid_focal_loss(output, target, mean_loss, where=where)


def softmax_focal_loss(output, target, where=None):
    return vjl.softmax_focal_loss(output, target, mean_loss, where=where)


def heatmap_focal_loss(output, target, where=None):
    return vjl.heatmap_focal_loss(output, target, mean_loss, where=where)


def dice_loss(output, target, where=None):
    return vjl.dice_loss(output, target, mean_loss, where=where)


def multi_pos_cross_entropy(pred, target):
    return vjl.multi_pos_cross_entropy(pred, target, mean_loss)


def embedding_distance_loss(pred, target):
    return vjl.embedding_distance_loss(pred, target)


def top_k_mask(values, k):
    return vjl.top_k_mask(values, k)


def hard_negative_mask(cost, positive):
    return vjl.hard_negative_mask(cost, positive)


def orthogonal_transform_regularization_loss(transform):
    return vjl.orthogonal_transform_regularization_loss([transform])


def rpn_loss(cls_outs, reg_outs, labels, bbox_targets, label_where):
    return sum(vjl.rpn_loss(cls_outs, reg_outs, labels, bbox_targets, label_where=label_where))


def retinanet_head_loss(cls_outs, reg_outs, labels, bbox_targets):
    return sum(vjl.retinanet_head_loss(cls_outs, reg_outs, labels, bbox_targets))


def dense_anchor_head_loss(cls_outs, reg_outs, labels, bbox_targets):
    losses = dict(loss_cls=vjl.binary_cross_entropy, loss_bbox=vjl.smooth_l1_loss)
    return sum(vjl.dense_anchor_head_loss(cls_outs, reg_outs, labels, bbox_targets, **losses))


def rcnn_loss(class_outs, regression_outs, labels, bbox_targets, where):
    return sum(vjl.rcnn_loss(class_outs, regression_outs, labels, bbox_targets, where=where))


def yolox_head_loss(cls_outs, boxes, obj_outs, foreground, cls_targets, bbox_targets):
    inputs = cls_outs, boxes, obj_outs, foreground, cls_targets, bbox_targets
    return sum(vjl.yolox_head_loss(*inputs)[:3])


def mask_rcnn_head_loss(mask_preds, target_classes, target_masks, where):
    losses = vjl.mask_rcnn_head_loss(mask_preds, target_classes, target_masks, where=where)
    return losses.rcnn_loss_mask


def qdtrack_instance_similarity_loss(keys, refs, key_ids, ref_ids, key_where, ref_where):
    masks = dict(key_where=key_where, ref_where=ref_where)
    return sum(vjl.qdtrack_instance_similarity_loss(keys, refs, key_ids, ref_ids, **masks))


def box3d_uncertainty_loss(pred, target, labels, where):
    return sum(vjl.box3d_uncertainty_loss(pred, target, labels, where=where).values())


def velo_lstm_loss(loc_preds, loc_refines, gt_traj):
    return sum(vjl.velo_lstm_loss(loc_preds, loc_refines, gt_traj).values())
