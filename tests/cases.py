"""One row per loss: its function, its module, and inputs whose first axis is the batch.

``test_contract.py`` and ``test_contract_modules.py`` test every promise for every row. To add a
loss, add a row to ``CASES``. To add a head, add one to ``HEADS``: what is said about reducers holds
for losses alone.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vis4d_jax_loss as vjl

N = 6
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def boxes(count, size=20.0):
    low = RNG.uniform(0, 10, (count, 2))
    return np.concatenate([low, low + RNG.uniform(5, size, (count, 2))], -1).astype(np.float32)


def similarities(rows, columns):
    """Cosine similarities away from the kinks at 0, 0.3 and 1, for finite differences."""
    values = np.linspace(0.32, 0.95, rows * columns, dtype=np.float32)
    return RNG.permutation(values).reshape(rows, columns)


def pair_target(rows, columns):
    """Each row has positives, negatives and an ignored pair."""
    target = RNG.integers(0, 2, (rows, columns))
    target[:, :3] = 1, 0, -1
    return target


@dataclass(eq=False)
class Case:
    """A loss and what a test needs to call it.

    ``inputs`` are arguments of both the function and the module's call; ``wrt`` names those with a
    gradient. ``extra`` are arguments of the module's call alone.
    """

    name: str
    module: vjl.Loss
    inputs: dict[str, Any]
    wrt: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    #: Whether the gradient is that of the value; not so if a part of the loss counts as constant.
    exact: bool = True
    #: What the module's call returns, if it differs from the function's result.
    as_module: Callable[..., Any] | None = None
    #: Tells rows of the same loss apart.
    kind: str = ""

    def __repr__(self):
        return f"{self.name}_{self.kind}" if self.kind else self.name

    @property
    def function(self):
        return getattr(vjl, self.name)

    def __call__(self, inputs, where=None, reducer=vjl.mean_loss):
        return self.function(**inputs, reducer=reducer, where=where, **self.options)


def multi_pos_as_module(inputs, weight, avg_factor):
    return vjl.multi_pos_cross_entropy(**inputs, reducer=vjl.SumWeightedLoss(weight, avg_factor))


CASES = [
    Case(
        "l1_loss", vjl.L1Loss(), {"pred": normal(N, 4), "target": normal(N, 4)}, ("pred", "target")
    ),
    Case(
        "l2_loss", vjl.L2Loss(), {"pred": normal(N, 4), "target": normal(N, 4)}, ("pred", "target")
    ),
    Case(
        "smooth_l1_loss",
        vjl.SmoothL1Loss(beta=0.5),
        {"pred": normal(N, 4), "target": normal(N, 4)},
        ("pred", "target"),
        {"beta": 0.5},
    ),
    Case(
        "rotation_loss",
        vjl.RotationLoss(num_bins=2),
        {
            "pred": normal(N, 6),
            "target_bin": np.array([[1, 0], [1, 1], [0, 1]] * 2, np.float32),
            "target_res": normal(N, 2),
        },
        ("pred", "target_res"),
        {"num_bins": 2},
    ),
    Case(
        "cross_entropy",
        vjl.CrossEntropyLoss(class_weights=(0.5, 1.0, 2.0)),
        {"output": normal(N, 3), "target": np.array([0, 1, 2, 255, 1, 0])},
        ("output",),
        {"class_weights": (0.5, 1.0, 2.0)},
    ),
    Case(
        "seg_cross_entropy_loss",
        vjl.SegCrossEntropyLoss(),
        {"output": normal(N, 3, 4, 3), "target": RNG.integers(0, 3, (N, 2, 3))},
        ("output",),
        as_module=lambda inputs: {"loss_seg": vjl.seg_cross_entropy_loss(**inputs)},
    ),
    Case(
        "multi_level_seg_loss",
        vjl.MultiLevelSegLoss(feature_idx=(0, -1), weights=(1.0, 0.5), class_axis=1),
        {
            "outputs": [normal(N, 3, 2, 3), normal(N, 2, 3, 4), normal(N, 3, 3, 4)],
            "target": RNG.integers(0, 3, (N, 2, 3)),
        },
        ("outputs",),
        {"feature_idx": (0, -1), "weights": (1.0, 0.5), "class_axis": 1},
    ),
    Case(
        "iou_loss",
        vjl.IoULoss(mode="square"),
        {"pred": boxes(N), "target": boxes(N)},
        ("pred", "target"),
        {"mode": "square"},
    ),
    Case("giou_loss", vjl.GIoULoss(), {"pred": boxes(N), "target": boxes(N)}, ("pred", "target")),
    Case("diou_loss", vjl.DIoULoss(), {"pred": boxes(N), "target": boxes(N)}, ("pred", "target")),
    Case(
        "ciou_loss",
        vjl.CIoULoss(),
        {"pred": boxes(N), "target": boxes(N)},
        ("pred", "target"),
        exact=False,
    ),
    Case(
        "multi_pos_cross_entropy",
        vjl.MultiPosCrossEntropyLoss(),
        {"pred": normal(N, 5), "target": pair_target(N, 5)},
        ("pred",),
        extra={"weight": RNG.uniform(0.5, 1, N).astype(np.float32), "avg_factor": 3.5},
        as_module=multi_pos_as_module,
    ),
    Case(
        "embedding_distance_loss",
        vjl.EmbeddingDistanceLoss(neg_pos_ub=0.75),
        {
            "pred": similarities(N, 5),
            "target": pair_target(N, 5),
            "weight": RNG.uniform(0.5, 1, (N, 5)).astype(np.float32),
        },
        ("pred", "weight"),
        {"neg_pos_ub": 0.75},
    ),
    Case(
        "orthogonal_transform_regularization_loss",
        vjl.OrthogonalTransformRegularizationLoss(),
        {"transforms": [normal(N, 3, 3), normal(N, 2, 4)]},
        ("transforms",),
    ),
    Case(
        "binary_cross_entropy",
        vjl.BinaryCrossEntropyLoss(pos_weight=(0.5, 1.0, 2.0)),
        {"output": normal(N, 3), "target": RNG.uniform(0, 1, (N, 3)).astype(np.float32)},
        ("output", "target"),
        {"pos_weight": (0.5, 1.0, 2.0)},
    ),
    Case(
        "sigmoid_focal_loss",
        vjl.SigmoidFocalLoss(gamma=0.5),
        {"output": normal(N, 3), "target": RNG.choice([0.0, 0.0, 0.3, 1.0], (N, 3)).astype("f")},
        ("output",),
        {"gamma": 0.5},
    ),
    Case(
        "softmax_focal_loss",
        vjl.SoftmaxFocalLoss(class_weights=(0.5, 1.0, 2.0)),
        {"output": normal(N, 3), "target": np.array([0, 1, 2, 255, 1, 0])},
        ("output",),
        {"class_weights": (0.5, 1.0, 2.0)},
    ),
    Case(
        "heatmap_focal_loss",
        vjl.HeatmapFocalLoss(beta=1.5),
        {"output": normal(N, 3), "target": RNG.choice([0.0, 0.5, 1.0], (N, 3)).astype("f")},
        ("output",),
        {"beta": 1.5},
    ),
    Case(
        "dice_loss",
        vjl.DiceLoss(alpha=0.3, beta=0.7, absent="skip"),
        {"output": normal(N, 3, 4, 3), "target": RNG.integers(0, 3, (N, 3, 4))},
        ("output",),
        {"alpha": 0.3, "beta": 0.7, "absent": "skip"},
    ),
    Case(
        "cross_entropy",
        vjl.CrossEntropyLoss(class_weights=(0.5, 1.0, 2.0), label_smoothing=0.1),
        {"output": normal(N, 3), "target": np.array([0, 1, 2, 255, 1, 0])},
        ("output",),
        {"class_weights": (0.5, 1.0, 2.0), "label_smoothing": 0.1},
        kind="smoothed",
    ),
    Case(
        "cross_entropy",
        vjl.CrossEntropyLoss(class_weights=(0.5, 1.0, 2.0)),
        {"output": normal(N, 3), "target": RNG.dirichlet([1, 1, 1], N).astype(np.float32)},
        ("output", "target"),
        {"class_weights": (0.5, 1.0, 2.0)},
        kind="with_probabilities",
    ),
]


@dataclass(eq=False, repr=False)
class Head(Case):
    """A head, which reduces its losses itself and returns several by name."""

    #: The argument that is the mask of rows.
    mask: str = "where"
    #: Makes the arguments from the inputs, if the rows of an argument are not on its first axis.
    layout: Callable[..., dict[str, Any]] = dict

    def arguments(self, inputs, where=None):
        """The arguments of the function and of the module's call."""
        masks = {} if where is None else {self.mask: where}
        return self.layout(inputs | masks)

    def __call__(self, inputs, where=None, reducer=None, **options):
        del reducer
        return self.function(**self.arguments(inputs, where), **self.options, **options)


def one_image(inputs):
    """Keys and references of one image, whose rows have the same mask."""
    masks = {"ref_where": inputs["key_where"]} if "key_where" in inputs else {}
    axes = {"key": None, "ref": (None, None)}
    return {name: x[axes[name[:3]]] for name, x in (inputs | masks).items()}


def embeddings(count, seed):
    """Their cosines are away from 0, 0.3 and 1."""
    angles = np.random.default_rng(seed).permutation(np.linspace(0.1, 1.2, count)) + seed / 50
    lengths = np.random.default_rng(seed).uniform(0.5, 1.5, (count, 1))
    return (lengths * np.stack([np.cos(angles), np.sin(angles)], -1)).astype(np.float32)


def encoded_boxes(count):
    """With unknown depths and dimensions, and with one rotation bin."""
    target = np.random.default_rng(5).normal(size=(count, 8)).astype(np.float32)
    target[:, 2] = np.resize([1.5, -1.0, 0.5], count)
    target[::3, 4] = 100.0
    target[:, 6] = np.resize([1, 1, 0], count)
    return target


def anchors(classes, labels):
    """Two anchors per image; each image has an object and background."""
    return {
        "cls_outs": normal(N, 2, classes),
        "reg_outs": normal(N, 2, 4),
        "labels": np.array(labels * (N // 2)),
        "bbox_targets": normal(N, 2, 4),
    }


def encoded_predictions(count):
    """Their depths are far off, so that the targets of the confidence, constants, stay 0."""
    pred = np.random.default_rng(3).normal(size=(count, 3, 10)).astype(np.float32)
    pred[:, :, 2] += 8
    return pred


HEADS = [
    Head(
        "dense_anchor_head_loss",
        vjl.DenseAnchorHeadLoss(vjl.binary_cross_entropy, vjl.smooth_l1_loss),
        anchors(3, [[0, -1], [3, 2]]),
        ("cls_outs", "reg_outs"),
        {"loss_cls": vjl.binary_cross_entropy, "loss_bbox": vjl.smooth_l1_loss},
        mask="label_where",
    ),
    Head(
        "rpn_loss",
        vjl.RPNLoss(loss_bbox=vjl.l2_loss),
        anchors(1, [[1, 0], [-1, 1]]),
        ("cls_outs", "reg_outs"),
        {"loss_bbox": vjl.l2_loss},
        mask="label_where",
    ),
    Head(
        "retinanet_head_loss",
        vjl.RetinaNetHeadLoss(),
        anchors(3, [[1, 3], [-1, 2]]),
        ("cls_outs", "reg_outs"),
        mask="label_where",
    ),
    Head(
        "rcnn_loss",
        vjl.RCNNLoss(num_classes=3, loss_bbox=vjl.smooth_l1_loss),
        {
            "class_outs": normal(N, 4),
            "regression_outs": normal(N, 12),
            "labels": np.array([0, 3, 2, 3, 1, 1]),
            "bbox_targets": normal(N, 4),
        },
        ("class_outs", "regression_outs"),
        {"num_classes": 3, "loss_bbox": vjl.smooth_l1_loss},
    ),
    Head(
        "yolox_head_loss",
        vjl.YOLOXHeadLoss(3),
        {
            "cls_outs": normal(N, 2, 3),
            "boxes": boxes(2 * N).reshape(N, 2, 4),
            "obj_outs": normal(N, 2),
            "foreground": np.array([[True, False], [True, True], [False, True]] * 2),
            "cls_targets": RNG.uniform(0, 1, (N, 2, 3)).astype(np.float32),
            "bbox_targets": boxes(2 * N).reshape(N, 2, 4),
            "reg_outs": normal(N, 2, 4),
            "l1_targets": normal(N, 2, 4),
        },
        ("cls_outs", "boxes", "obj_outs", "reg_outs"),
        {"num_classes": 3},
    ),
    Head(
        "mask_rcnn_head_loss",
        vjl.MaskRCNNHeadLoss(num_classes=3),
        {
            "mask_preds": normal(N, 3, 2, 2),
            "target_classes": np.array([0, 2, 1, 1, 0, 2]),
            "target_masks": RNG.uniform(0, 1, (N, 2, 2)).astype(np.float32),
        },
        ("mask_preds",),
        {"num_classes": 3},
    ),
    Head(
        "qdtrack_instance_similarity_loss",
        vjl.QDTrackInstanceSimilarityLoss(softmax_temp=0.5),
        {
            "key_embeddings": embeddings(N, seed=1),
            "ref_embeddings": embeddings(N, seed=2),
            "key_track_ids": np.array([1, 2, 0, 2, 1, 4]),
            "ref_track_ids": np.array([2, 1, 0, 3, 2, 1]),
        },
        ("key_embeddings", "ref_embeddings"),
        {"softmax_temp": 0.5},
        mask="key_where",
        layout=one_image,
    ),
    Head(
        "box3d_uncertainty_loss",
        vjl.Box3DUncertaintyLoss(depth_loss_weight=2.0, num_rotation_bins=1),
        {
            "pred": encoded_predictions(N),
            "target": encoded_boxes(N),
            "labels": np.array([0, 2, 1, 1, 0, 2]),
        },
        ("pred",),
        {"depth_loss_weight": 2.0, "num_rotation_bins": 1},
    ),
    Head(
        "velo_lstm_loss",
        vjl.VeloLSTMLoss(loc_dim=2, smooth_weight=0.5),
        {
            name: np.random.default_rng(seed).normal(size=(N, times, 2)).astype(np.float32)
            for seed, (name, times) in enumerate(
                [("loc_preds", 4), ("loc_refines", 4), ("gt_traj", 5)]
            )
        },
        ("loc_preds", "loc_refines"),
        {"loc_dim": 2, "smooth_weight": 0.5},
    ),
]

every_loss = pytest.mark.parametrize("case", [*CASES, *HEADS], ids=repr)
every_exact_loss = pytest.mark.parametrize(
    "case", [case for case in [*CASES, *HEADS] if case.exact], ids=repr
)
every_loss_with_reducer = pytest.mark.parametrize("case", CASES, ids=repr)
every_head = pytest.mark.parametrize("case", HEADS, ids=repr)

MASK = np.array([True, False, True, True, False, True])
POISON = [np.nan, np.inf, -np.inf, 1e30, -1.0, 0.0, 1.0]
POISON_INT = [-1, 7, -100, 1, 0, 2**31 - 1]


def arrays(inputs):
    return jax.tree.map(jnp.asarray, inputs)


def total(losses):
    """The sum of all that a loss returns."""
    return sum(jnp.sum(loss) for loss in jax.tree.leaves(losses))


def poisoned(inputs, mask=MASK):
    """The inputs with a mixture of harmful values in the rows that are masked."""

    def poison(x):
        mixture = POISON if x.dtype.kind == "f" else POISON_INT
        bad = np.resize(np.array(mixture).astype(x.dtype), x.shape)
        return np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, bad)

    return jax.tree.map(poison, inputs)


def assert_trees_close(actual, expected, rtol=1e-6, atol=1e-7):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), actual, expected
    )
