"""Losses for detection, segmentation, point clouds and tracking in JAX and Flax.

A port of ``vis4d.op.loss`` with masks for padded batches and gradients that are always finite.
"""

from vis4d_jax_loss.base import Loss
from vis4d_jax_loss.box import paired_iou, pairwise_iou
from vis4d_jax_loss.composition.objective import LossModule
from vis4d_jax_loss.composition.paths import InputPath, data_key, pred_key
from vis4d_jax_loss.composition.term import LossTerm
from vis4d_jax_loss.composition.weights import Schedule, TermWeight
from vis4d_jax_loss.hard_mean import HardMeanLoss
from vis4d_jax_loss.heads.box3d import Box3DUncertaintyLoss, box3d_uncertainty_loss
from vis4d_jax_loss.heads.dense_anchor import (
    DenseAnchorHeadLoss,
    DenseAnchorHeadLosses,
    dense_anchor_head_loss,
)
from vis4d_jax_loss.heads.mask_rcnn import (
    MaskRCNNHeadLoss,
    MaskRCNNHeadLosses,
    mask_rcnn_head_loss,
)
from vis4d_jax_loss.heads.qdtrack import (
    QDTrackInstanceSimilarityLoss,
    QDTrackInstanceSimilarityLosses,
    qdtrack_instance_similarity_loss,
)
from vis4d_jax_loss.heads.rcnn import RCNNLoss, RCNNLosses, rcnn_loss
from vis4d_jax_loss.heads.retinanet import RetinaNetHeadLoss, retinanet_head_loss
from vis4d_jax_loss.heads.rpn import RPNLoss, RPNLosses, rpn_loss
from vis4d_jax_loss.heads.velo_lstm import VeloLSTMLoss, velo_lstm_loss
from vis4d_jax_loss.heads.yolox import YOLOXHeadLoss, YOLOXHeadLosses, yolox_head_loss
from vis4d_jax_loss.losses._labels import IgnoreIndex
from vis4d_jax_loss.losses.binary_cross_entropy import (
    BinaryCrossEntropyLoss,
    binary_cross_entropy,
)
from vis4d_jax_loss.losses.common import L1Loss, L2Loss, l1_loss, l2_loss
from vis4d_jax_loss.losses.cross_entropy import CrossEntropyLoss, cross_entropy
from vis4d_jax_loss.losses.dice_loss import DiceLoss, dice_loss
from vis4d_jax_loss.losses.embedding_distance import (
    EmbeddingDistanceLoss,
    embedding_distance_loss,
)
from vis4d_jax_loss.losses.focal_loss import (
    HeatmapFocalLoss,
    SigmoidFocalLoss,
    heatmap_focal_loss,
    sigmoid_focal_loss,
)
from vis4d_jax_loss.losses.giou_loss import (
    CIoULoss,
    DIoULoss,
    GIoULoss,
    ciou_loss,
    diou_loss,
    giou_loss,
)
from vis4d_jax_loss.losses.iou_loss import IoULoss, IoUMode, iou_loss
from vis4d_jax_loss.losses.multi_level_seg_loss import MultiLevelSegLoss, multi_level_seg_loss
from vis4d_jax_loss.losses.multi_pos_cross_entropy import (
    MultiPosCrossEntropyLoss,
    multi_pos_cross_entropy,
)
from vis4d_jax_loss.losses.orthogonal_transform_loss import (
    OrthogonalTransformRegularizationLoss,
    orthogonal_transform_regularization_loss,
)
from vis4d_jax_loss.losses.rotation_loss import RotationLoss, rotation_loss
from vis4d_jax_loss.losses.seg_cross_entropy_loss import (
    SegCrossEntropyLoss,
    seg_cross_entropy_loss,
)
from vis4d_jax_loss.losses.smooth_l1_loss import SmoothL1Loss, smooth_l1_loss
from vis4d_jax_loss.losses.softmax_focal_loss import SoftmaxFocalLoss, softmax_focal_loss
from vis4d_jax_loss.mining import hard_negative_mask, random_k_mask, top_k_mask
from vis4d_jax_loss.reducer import (
    AxisName,
    LossReducer,
    OverAxis,
    identity_loss,
    mean_loss,
    sum_loss,
)
from vis4d_jax_loss.weighted_reducer import SumWeightedLoss, WeightedMeanLoss

__version__ = "0.1.0"

__all__ = [
    "AxisName",
    "BinaryCrossEntropyLoss",
    "Box3DUncertaintyLoss",
    "CIoULoss",
    "CrossEntropyLoss",
    "DIoULoss",
    "DenseAnchorHeadLoss",
    "DenseAnchorHeadLosses",
    "DiceLoss",
    "EmbeddingDistanceLoss",
    "GIoULoss",
    "HardMeanLoss",
    "HeatmapFocalLoss",
    "IgnoreIndex",
    "InputPath",
    "IoULoss",
    "IoUMode",
    "L1Loss",
    "L2Loss",
    "Loss",
    "LossModule",
    "LossReducer",
    "LossTerm",
    "MaskRCNNHeadLoss",
    "MaskRCNNHeadLosses",
    "MultiLevelSegLoss",
    "MultiPosCrossEntropyLoss",
    "OrthogonalTransformRegularizationLoss",
    "OverAxis",
    "QDTrackInstanceSimilarityLoss",
    "QDTrackInstanceSimilarityLosses",
    "RCNNLoss",
    "RCNNLosses",
    "RPNLoss",
    "RPNLosses",
    "RetinaNetHeadLoss",
    "RotationLoss",
    "Schedule",
    "SegCrossEntropyLoss",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
    "SoftmaxFocalLoss",
    "SumWeightedLoss",
    "TermWeight",
    "VeloLSTMLoss",
    "WeightedMeanLoss",
    "YOLOXHeadLoss",
    "YOLOXHeadLosses",
    "binary_cross_entropy",
    "box3d_uncertainty_loss",
    "ciou_loss",
    "cross_entropy",
    "data_key",
    "dense_anchor_head_loss",
    "dice_loss",
    "diou_loss",
    "embedding_distance_loss",
    "giou_loss",
    "hard_negative_mask",
    "heatmap_focal_loss",
    "identity_loss",
    "iou_loss",
    "l1_loss",
    "l2_loss",
    "mask_rcnn_head_loss",
    "mean_loss",
    "multi_level_seg_loss",
    "multi_pos_cross_entropy",
    "orthogonal_transform_regularization_loss",
    "paired_iou",
    "pairwise_iou",
    "pred_key",
    "qdtrack_instance_similarity_loss",
    "random_k_mask",
    "rcnn_loss",
    "retinanet_head_loss",
    "rotation_loss",
    "rpn_loss",
    "seg_cross_entropy_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "softmax_focal_loss",
    "sum_loss",
    "top_k_mask",
    "velo_lstm_loss",
    "yolox_head_loss",
]
