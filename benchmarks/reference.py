"""The PyTorch original, where torch and vis4d are installed; ``available`` is False otherwise."""

import importlib.machinery
import sys
from collections.abc import Callable
from unittest import mock

import numpy as np

# What vis4d imports along the way and its losses never touch.
_UNTOUCHED = (
    *("appdirs", "cloudpickle", "cv2", "devtools", "h5py", "jsonargparse", "lightning", "nuscenes"),
    *("pandas", "PIL", "plyfile", "pycocotools", "pydantic", "scalabel", "scipy", "tensorboard"),
    *("terminaltables", "timm", "torchvision", "tqdm", "utm"),
)


class _Untouched:
    """Imports an empty stand-in for packages that the reference does not need for its losses."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in _UNTOUCHED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = mock.MagicMock(name=spec.name)
        module.__path__, module.__spec__, module.__name__ = [], spec, spec.name
        return module

    def exec_module(self, module):
        """Nothing to run."""


_finder = _Untouched()
sys.meta_path.append(_finder)  # last: what is installed is imported as it is
try:
    import torch
    import vis4d.op.loss as losses  # noqa: F401
    from vis4d.op.loss.common import l1_loss, l2_loss, rotation_loss, smooth_l1_loss  # noqa: F401
    from vis4d.op.loss.iou_loss import iou_loss  # noqa: F401
    from vis4d.op.loss.multi_pos_cross_entropy import multi_pos_cross_entropy  # noqa: F401
    from vis4d.op.loss.reducer import mean_loss  # noqa: F401
except ImportError as error:
    available, _reason = False, str(error)
else:
    available = True
finally:  # the stand-ins are the reference's alone: nothing else may import one
    sys.meta_path.remove(_finder)
    for _name in [name for name in sys.modules if name.partition(".")[0] in _UNTOUCHED]:
        if isinstance(sys.modules[_name], mock.MagicMock):
            del sys.modules[_name]


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def step(loss: Callable, arrays: list[np.ndarray]) -> Callable[[], object]:
    """Value and gradient of a loss of the reference with respect to its first input."""
    pred, *rest = (torch.from_numpy(x).to(device()) for x in arrays)
    pred.requires_grad_()

    def run():
        value = loss(pred, *rest)
        (gradient,) = torch.autograd.grad(value, pred)
        if device() == "cuda":
            torch.cuda.synchronize()
        return value.detach(), gradient

    return run


def in_place(loss: Callable) -> Callable:
    """Give copies to a loss that edits its inputs: without them the second call is another."""
    return lambda pred, *rest: loss(pred * 1, *(x.clone() for x in rest))


def describe() -> str:
    if not available:
        return f"not measured: {_reason}"
    return f"torch {torch.__version__} on {device()}, {torch.get_num_threads()} threads"
