"""The losses of the PyTorch reference, vis4d, averaged as in a training step.

``available`` is False where torch or vis4d is not installed; the losses then cannot be called.
"""

import importlib.machinery
import sys
from collections.abc import Callable
from types import SimpleNamespace
from unittest import mock

import numpy as np

# Packages that vis4d imports but does not need for its losses.
_UNNEEDED = (
    *("appdirs", "cloudpickle", "cv2", "devtools", "h5py", "jsonargparse", "lightning", "nuscenes"),
    *("pandas", "PIL", "plyfile", "pycocotools", "pydantic", "scalabel", "scipy", "tensorboard"),
    *("terminaltables", "timm", "torchvision", "tqdm", "utm"),
)


class _StandIns:
    """Imports an empty stand-in for each unneeded package that is not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in _UNNEEDED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = mock.MagicMock(name=spec.name)
        module.__path__, module.__spec__, module.__name__ = [], spec, spec.name
        return module

    def exec_module(self, module):
        """A stand-in has no code to run."""


_stand_ins = _StandIns()
sys.meta_path.append(_stand_ins)  # at the end, so that installed packages are found first
try:
    import torch
    from vis4d.op import loss as vis4d
    from vis4d.op.detect import dense_anchor, mask_rcnn, rcnn, yolox
    from vis4d.op.detect3d import qd_3dt
    from vis4d.op.loss import common
    from vis4d.op.loss import iou_loss as iou
    from vis4d.op.loss import multi_pos_cross_entropy as multi_pos
    from vis4d.op.loss.reducer import mean_loss
    from vis4d.op.motion import velo_lstm
    from vis4d.op.track import qdtrack
except (ImportError, RuntimeError) as error:  # the latter from a torchvision for another torch
    available, _reason = False, str(error)
else:
    available = True
    _embedding_distance_loss = vis4d.EmbeddingDistanceLoss()
finally:  # no other module may import a stand-in
    sys.meta_path.remove(_stand_ins)
    for _name in [name for name in sys.modules if name.partition(".")[0] in _UNNEEDED]:
        if isinstance(sys.modules[_name], mock.MagicMock):
            del sys.modules[_name]


def l1_loss(pred, target):
    return common.l1_loss(pred, target, mean_loss)


def l2_loss(pred, target):
    return common.l2_loss(pred, target, mean_loss)


def smooth_l1_loss(pred, target, where=None):
    if where is not None:  # the reference has no masks: select the valid boxes first
        pred, target = pred[where], target[where]
    return common.smooth_l1_loss(pred, target, mean_loss)


def iou_loss(pred, target, where=None, *, mode):
    if where is not None:
        pred, target = pred[where], target[where]
    return iou.iou_loss(pred, target, mean_loss, mode)


def _of_torchvision(name):
    """A loss of torchvision, whose names are longer than ours."""

    def loss(pred, target, where=None):
        from torchvision import ops

        if where is not None:
            pred, target = pred[where], target[where]
        return getattr(ops, name)(pred, target, reduction="mean")

    return loss


giou_loss = _of_torchvision("generalized_box_iou_loss")
diou_loss = _of_torchvision("distance_box_iou_loss")
ciou_loss = _of_torchvision("complete_box_iou_loss")


def rotation_loss(pred, target_bin, target_res):
    return common.rotation_loss(pred, target_bin, target_res, 2, mean_loss)


def seg_cross_entropy_loss(output, target):
    return vis4d.SegCrossEntropyLoss()(output, target)["loss_seg"]


def multi_pos_cross_entropy(pred, target):
    return multi_pos.multi_pos_cross_entropy(pred, target, mean_loss)


def embedding_distance_loss(pred, target):
    # The reference edits its inputs. Without copies the second call would compute another loss.
    return _embedding_distance_loss(pred * 1, target.clone())


def orthogonal_transform_regularization_loss(transform):
    return vis4d.OrthogonalTransformRegularizationLoss()([transform])


# The heads of vis4d assign targets themselves. Each is called with a function in the place of its
# assignment that returns the targets of the row, so that the time is that of the loss.


def _dense_anchor_head_loss(loss_cls, cls_outs, reg_outs, labels, bbox_targets, sampled):
    images, anchors, classes = cls_outs.shape
    positive = labels == 1 if classes == 1 else labels < classes
    positive = (positive & sampled)[..., None].to(reg_outs.dtype).expand(-1, -1, 4)
    weights = sampled.to(cls_outs.dtype)
    targets = [[bbox_targets, positive, labels.to(cls_outs.dtype), weights]], int(sampled.sum())
    level = SimpleNamespace(num_levels=1)
    head = dense_anchor.DenseAnchorHeadLoss(level, None, None, None, loss_cls, common.l1_loss)
    # Its layout is images x channels x height x width.
    maps = (x.reshape(images, anchors, 1, -1).permute(0, 3, 1, 2) for x in (cls_outs, reg_outs))
    with mock.patch.object(dense_anchor, "get_targets_per_batch", return_value=targets):
        each = [None] * images
        return sum(head(*([x] for x in maps), each, [(anchors, 1)] * images, each))


def rpn_loss(cls_outs, reg_outs, labels, bbox_targets, label_where):
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    return _dense_anchor_head_loss(entropy, cls_outs, reg_outs, labels, bbox_targets, label_where)


def _sigmoid_focal_loss(inputs, targets, reduction):
    """As torchvision, which is not installed here, computes it."""
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        inputs, targets, reduction=reduction
    )
    probs = torch.sigmoid(inputs)
    missing = 1 - (probs * targets + (1 - probs) * (1 - targets))
    return (0.25 * targets + 0.75 * (1 - targets)) * entropy * missing**2


def retinanet_head_loss(cls_outs, reg_outs, labels, bbox_targets):
    inputs = cls_outs, reg_outs, labels, bbox_targets
    return _dense_anchor_head_loss(_sigmoid_focal_loss, *inputs, torch.ones_like(labels) == 1)


def rcnn_loss(class_outs, regression_outs, labels, bbox_targets, where):
    inputs = class_outs, regression_outs, labels.long(), bbox_targets
    class_outs, regression_outs, labels, bbox_targets = (x[where] for x in inputs)
    positive = (labels < class_outs.shape[1] - 1).to(class_outs.dtype)
    weights = torch.ones_like(positive), positive[:, None].expand(-1, 4)
    targets = rcnn.RCNNTargets(labels, weights[0], bbox_targets, weights[1])
    head = rcnn.RCNNLoss(None, num_classes=class_outs.shape[1] - 1)
    with mock.patch.object(rcnn.RCNNLoss, "_get_targets_per_image", return_value=targets):
        return sum(head(class_outs, regression_outs, *([None] for _ in range(4))))


def yolox_head_loss(cls_outs, boxes, obj_outs, foreground, cls_targets, bbox_targets):
    inputs = cls_outs, boxes, obj_outs, foreground, cls_targets, bbox_targets
    classes, boxes, scores, on, class_targets, targets = (x.flatten(0, 1) for x in inputs)
    outputs = classes[None], torch.zeros_like(boxes)[None], scores[None], boxes, boxes[None]
    target = (
        on,
        class_targets[on],
        on.to(classes.dtype)[:, None],
        targets[on],
        targets[on],
        int(on.sum()),
    )
    head = yolox.YOLOXHeadLoss(num_classes=classes.shape[1])
    with (
        mock.patch.object(yolox, "preprocess_outputs", return_value=outputs),
        mock.patch.object(yolox.YOLOXHeadLoss, "_get_target_single", return_value=target),
    ):
        return sum(head([], [], [], [None], [None], [None])[:3])


def mask_rcnn_head_loss(mask_preds, target_classes, target_masks, where):
    inputs = mask_preds, target_classes.long(), target_masks
    preds, classes, targets = (x[where] for x in inputs)
    head = mask_rcnn.MaskRCNNHeadLoss(preds.shape[1])
    assign = staticmethod(lambda boxes, masks, size: masks)
    with mock.patch.object(mask_rcnn.MaskRCNNHeadLoss, "_get_targets_per_image", assign):
        return sum(head([preds], [None], [classes], [targets]))


def qdtrack_instance_similarity_loss(keys, refs, key_ids, ref_ids, key_where, ref_where):
    keys, key_ids = ([x[b][key_where[b]] for b in range(len(x))] for x in (keys, key_ids))
    refs, ref_ids = (
        [
            [image[where] for image, where in zip(*view, strict=True)]
            for view in zip(x, ref_where, strict=True)
        ]
        for x in (refs, ref_ids)
    )
    return sum(qdtrack.QDTrackInstanceSimilarityLoss()(keys, refs, key_ids, ref_ids))


def box3d_uncertainty_loss(pred, target, labels, where):
    inputs = pred[where], target[where], labels[where].long()
    return sum(qd_3dt.Box3DUncertaintyLoss()(*inputs).values())


def velo_lstm_loss(loc_preds, loc_refines, gt_traj):
    losses = velo_lstm.VeloLSTMLoss()(loc_preds, loc_refines, gt_traj)
    return sum(loss.sum() for loss in losses.values())  # the shape of one of them is [1]


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def value_and_grad(
    loss: Callable, arrays: list[np.ndarray], gradients: int = 1
) -> Callable[[], object]:
    """Return a call for value and gradient of a loss with respect to its first inputs."""
    tensors = [torch.from_numpy(x).to(device()) for x in arrays]
    for pred in tensors[:gradients]:
        pred.requires_grad_()

    def call():
        value = loss(*tensors)
        computed = torch.autograd.grad(value, tensors[:gradients])
        if device() == "cuda":
            torch.cuda.synchronize()
        return value.detach(), computed

    return call


def describe() -> str:
    if not available:
        return f"not measured: {_reason}"
    return f"torch {torch.__version__} on {device()}, {torch.get_num_threads()} threads"
