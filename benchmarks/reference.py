"""The losses of the PyTorch reference, vis4d, averaged as in a training step.

``available`` is False where torch or vis4d is not installed; the losses then cannot be called.
"""

import importlib.machinery
import sys
from collections.abc import Callable
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
    from vis4d.op.loss import common
    from vis4d.op.loss import iou_loss as iou
    from vis4d.op.loss import multi_pos_cross_entropy as multi_pos
    from vis4d.op.loss.reducer import mean_loss
except ImportError as error:
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


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def value_and_grad(loss: Callable, arrays: list[np.ndarray]) -> Callable[[], object]:
    """Return a call for value and gradient of a loss with respect to its first input."""
    pred, *rest = (torch.from_numpy(x).to(device()) for x in arrays)
    pred.requires_grad_()

    def call():
        value = loss(pred, *rest)
        (gradient,) = torch.autograd.grad(value, pred)
        if device() == "cuda":
            torch.cuda.synchronize()
        return value.detach(), gradient

    return call


def describe() -> str:
    if not available:
        return f"not measured: {_reason}"
    return f"torch {torch.__version__} on {device()}, {torch.get_num_threads()} threads"
