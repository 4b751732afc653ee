"""The losses of this library, averaged as in a training step."""

import vis4d_jax_loss as vjl
from vis4d_jax_loss import mean_loss


def l1_loss(pred, target):
    return vjl.l1_loss(pred, target, mean_loss)


def l2_loss(pred, target):
    return vjl.l2_loss(pred, target, mean_loss)


def smooth_l1_loss(pred, target):
    return vjl.smooth_l1_loss(pred, target, mean_loss)


def masked_smooth_l1_loss(pred, target, where):
    return vjl.smooth_l1_loss(pred, target, mean_loss, where=where)


def iou_loss(pred, target, mode):
    return vjl.iou_loss(pred, target, mean_loss, mode)


def masked_iou_loss(pred, target, where, mode):
    return vjl.iou_loss(pred, target, mean_loss, mode, where=where)


def rotation_loss(pred, target_bin, target_res):
    return vjl.rotation_loss(pred, target_bin, target_res, 2, mean_loss)


def seg_cross_entropy_loss(output, target, class_axis):
    return vjl.seg_cross_entropy_loss(output, target, class_axis=class_axis)


def multi_pos_cross_entropy(pred, target):
    return vjl.multi_pos_cross_entropy(pred, target, mean_loss)


def embedding_distance_loss(pred, target):
    return vjl.embedding_distance_loss(pred, target)


def orthogonal_transform_regularization_loss(transform):
    return vjl.orthogonal_transform_regularization_loss([transform])


def top_k_mask(values, k):
    return vjl.top_k_mask(values, k)
