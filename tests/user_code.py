"""Typed code as a user writes it. Pyright and mypy must accept it, and it must run."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

import vis4d_jax_loss as vjl
from vis4d_jax_loss import IoULoss, L1Loss, Loss, LossModule, LossReducer, LossTerm, mean_loss


class HingeLoss(Loss):
    margin: float = 1.0
    names: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    def __call__(
        self,
        pred: ArrayLike,
        target: ArrayLike,
        *,
        reducer: LossReducer | None = None,
        where: ArrayLike | None = None,
    ) -> jax.Array:
        error = jnp.asarray(pred) * jnp.asarray(target)
        return self.reduce(jax.nn.relu(self.margin - error), where, reducer)


class ByHand(Loss, kw_only=True):
    scale: float

    def __call__(self, pred: jax.Array, where: jax.Array) -> jax.Array:
        return self.reducer(self.scale * pred, where=where) + self.reducer(pred)


class WeightedIoULoss(IoULoss):
    weight: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()


class Net(nnx.Module):
    def __init__(self, loss: Loss, rngs: nnx.Rngs) -> None:
        self.layer = nnx.Linear(2, 2, rngs=rngs)
        self.loss, self.l1 = loss, L1Loss(mean_loss)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.l1(self.layer(x), x) + self.loss(self.layer(x), x)


class LinenNet(nn.Module):
    loss: Loss = L1Loss(mean_loss)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.loss(nn.Dense(2)(x), x)


def worst(loss: jax.Array, where: jax.Array | None = None) -> jax.Array:
    return jnp.max(loss, where=where, initial=0.0)


def clipped(loss: jax.Array) -> jax.Array:
    return jnp.sum(jnp.minimum(loss, 1.0))


def reducers() -> list[LossReducer]:
    weighted = vjl.SumWeightedLoss(jnp.ones(2), 2.0)
    partial = [functools.partial(jnp.mean, axis=-1), functools.partial(mean_loss, axis=1)]
    over_axis = vjl.OverAxis(mean_loss, "data")
    ours: list[LossReducer] = [vjl.identity_loss, mean_loss, vjl.sum_loss, weighted, over_axis]
    means: list[LossReducer] = [vjl.WeightedMeanLoss(jnp.ones(2)), vjl.HardMeanLoss(0.25)]
    return [
        *ours,
        *means,
        *partial,
        jnp.mean,
        jnp.sum,
        jnp.max,
        worst,
        clipped,
        lambda x: jnp.sum(x),
    ]


def functions(x: jax.Array, labels: jax.Array, key: jax.Array) -> list[jax.Array]:
    box, rows, valid = jnp.ones((2, 4)), jnp.ones((2, 2)), jnp.array([True, False])
    mode: vjl.IoUMode = "square"
    levels = vjl.multi_level_seg_loss([jnp.ones((1, 2, 2, 3))], labels[None], feature_idx=[0])
    return [
        vjl.l1_loss(x, x, jnp.mean, where=valid),
        vjl.l1_loss(x, x, clipped),
        vjl.l2_loss(x, x, worst, where=valid),
        vjl.smooth_l1_loss(x, x, vjl.sum_loss, beta=0.5),
        vjl.iou_loss(box, box, mean_loss, mode=mode, eps=1e-3),
        vjl.giou_loss(box, box, mean_loss, where=valid),
        vjl.diou_loss(box, box),
        vjl.ciou_loss(box, box, jnp.sum),
        vjl.paired_iou(box, box),
        vjl.pairwise_iou(box, box),
        vjl.rotation_loss(jnp.ones((2, 4)), jnp.ones((2, 1)), rows[:, :1], 1, mean_loss),
        vjl.cross_entropy(jnp.ones((2, 2, 3)), labels, [1.0, 2.0, 3.0], reducer=mean_loss),
        vjl.binary_cross_entropy(x, x > 0, mean_loss, pos_weight=[2.0, 3.0], where=valid),
        vjl.sigmoid_focal_loss(x, x, mean_loss, None, gamma=jnp.array(1.5)),
        vjl.softmax_focal_loss(jnp.ones((2, 2, 3)), labels, mean_loss, 1, [1.0, 2.0, 3.0], None),
        vjl.heatmap_focal_loss(x, x, beta=2),
        vjl.dice_loss(jnp.ones((1, 2, 2, 3)), labels[None], smooth=0.5, absent="skip"),
        vjl.seg_cross_entropy_loss(jnp.ones((1, 2, 2, 3)), labels[None], class_axis=-1),
        levels["loss_seg_level0"],
        vjl.multi_pos_cross_entropy(rows, rows, mean_loss),
        vjl.embedding_distance_loss(rows, labels, neg_pos_ub=1.0, hard_mining=False, key=key),
        vjl.orthogonal_transform_regularization_loss([rows[None]], mean_loss),
        vjl.top_k_mask(x, 1, where=valid),
        vjl.random_k_mask(key, 1, valid),
        vjl.hard_negative_mask(x, x > 0, 1.0, where=valid),
    ]


def heads(labels: jax.Array) -> list[Any]:
    outputs, boxes, flags = jnp.ones((2, 2, 3)), jnp.ones((2, 2, 4)), labels > 0
    one, masks, valid = jnp.ones((2, 2, 1)), jnp.ones((2, 3, 4, 4)), jnp.array([True, False])
    anchors = outputs, boxes, labels, boxes
    retinanet = vjl.RetinaNetHeadLoss(vjl.SigmoidFocalLoss(gamma=1.0), vjl.smooth_l1_loss)
    dense = vjl.DenseAnchorHeadLoss(vjl.binary_cross_entropy, vjl.L2Loss(), axis_name=None)
    rcnn = vjl.RCNNLoss(2, loss_cls=vjl.CrossEntropyLoss(label_smoothing=0.1))
    yolox = vjl.YOLOXHeadLoss(3, loss_bbox=IoULoss(mode="linear"))
    priors = outputs, boxes, outputs[..., 0], flags, outputs, boxes
    of_rpn: vjl.RPNLosses = vjl.RPNLoss()(one, boxes, labels, boxes, label_where=flags)
    of_anchors: vjl.DenseAnchorHeadLosses = retinanet(*anchors, avg_factor=2)
    of_rcnn: vjl.RCNNLosses = rcnn(outputs[0], jnp.ones((2, 8)), labels[0], boxes[0])
    of_yolox: vjl.YOLOXHeadLosses = yolox(*priors, reg_outs=boxes, l1_targets=boxes)
    of_masks: vjl.MaskRCNNHeadLosses = vjl.MaskRCNNHeadLoss(3)(masks, labels[0], masks[:, 0] > 0)
    losses = vjl.dense_anchor_head_loss(*anchors, loss_cls=vjl.l1_loss, loss_bbox=vjl.L1Loss())
    return [
        of_rpn.rpn_loss_cls + of_rpn.rpn_loss_bbox,
        of_anchors.loss_cls + dense(*anchors, bbox_where=flags).loss_bbox + losses.loss_bbox,
        of_rcnn.rcnn_loss_cls + of_rcnn.rcnn_loss_bbox,
        of_yolox.loss_bbox if of_yolox.loss_l1 is None else of_yolox.loss_l1,
        of_masks.rcnn_loss_mask,
        vjl.rpn_loss(one, boxes, labels, boxes, bbox_where=valid),
        vjl.retinanet_head_loss(*anchors, loss_bbox=vjl.SmoothL1Loss()),
        vjl.rcnn_loss(outputs[0], boxes[0], labels[0], boxes[0], num_classes=2, where=valid),
        vjl.yolox_head_loss(*priors, where=valid).loss_obj,
        vjl.mask_rcnn_head_loss(masks, labels[0], masks[:, 0], where=valid),
    ]


def ignored_labels(labels: jax.Array) -> list[jax.Array | dict[str, jax.Array]]:
    logits, picture = jnp.ones((2, 2, 3)), jnp.ones((1, 2, 2, 3))
    several: vjl.IgnoreIndex = (0, 255)
    all_of_them = vjl.CrossEntropyLoss(ignore_index=None)
    return [
        vjl.cross_entropy(logits, labels, ignore_index=several),
        all_of_them(logits, labels),
        all_of_them(logits, labels, ignore_index=-1),
        vjl.SegCrossEntropyLoss(ignore_index=several)(picture, labels[None]),
        vjl.MultiLevelSegLoss(feature_idx=(0,), ignore_index=1)([picture], labels[None]),
    ]


def traced_options(x: jax.Array) -> jax.Array:
    @jax.jit
    def loss(beta: jax.Array) -> jax.Array:
        return vjl.smooth_l1_loss(x, 2 * x, mean_loss, beta)

    return jax.grad(loss)(jnp.array(0.5))


def modules(x: jax.Array, labels: jax.Array) -> list[jax.Array | dict[str, jax.Array]]:
    rows, valid, logits = jnp.ones((2, 2)), jnp.array([True, False]), jnp.ones((1, 2, 2, 3))
    distance = vjl.EmbeddingDistanceLoss(jnp.mean, 1.0, hard_mining=True)
    pred, weight, avg_factor = distance.update_weight(rows, labels, rows)
    return [
        vjl.L2Loss(jnp.sum)(x, x, where=valid),
        L1Loss(functools.partial(mean_loss, axis=1))(x, x, where=valid),
        vjl.SmoothL1Loss(mean_loss, beta=0.5)(x, x, reducer=vjl.SumWeightedLoss(x, 2.0)),
        IoULoss(mean_loss, mode="square", eps=1e-3)(jnp.ones((2, 4)), jnp.ones((2, 4))),
        vjl.GIoULoss(mean_loss)(jnp.ones((2, 4)), jnp.ones((2, 4))),
        vjl.DIoULoss()(jnp.ones((2, 4)), jnp.ones((2, 4)), reducer=jnp.mean),
        vjl.CIoULoss()(jnp.ones((2, 4)), jnp.ones((2, 4)), where=jnp.array([True, False])),
        WeightedIoULoss(mean_loss, "log", weight=3.0)(jnp.ones((2, 4)), jnp.ones((2, 4))),
        vjl.RotationLoss(mean_loss, num_bins=1)(jnp.ones((2, 4)), jnp.ones((2, 1)), rows[:, :1]),
        vjl.CrossEntropyLoss(clipped, [1.0, 2.0, 3.0], class_axis=-1)(logits, labels[None]),
        vjl.CrossEntropyLoss(label_smoothing=0.1)(logits, jax.nn.softmax(logits)),
        vjl.BinaryCrossEntropyLoss(mean_loss, pos_weight=2.0)(x, x > 0, where=valid),
        vjl.SigmoidFocalLoss(mean_loss, alpha=None)(x, x),
        vjl.SoftmaxFocalLoss(mean_loss, gamma=1.0)(logits, labels[None]),
        vjl.HeatmapFocalLoss(mean_loss, beta=2.0)(x, x),
        vjl.DiceLoss(absent="skip")(logits, labels[None]),
        vjl.SegCrossEntropyLoss()(logits, labels[None], ignore_index=254),
        vjl.MultiLevelSegLoss(feature_idx=[0], weights=[0.5])([logits], labels[None]),
        vjl.MultiPosCrossEntropyLoss()(rows, rows, jnp.ones(2), 2.0),
        distance(rows, labels) + jnp.sum(pred * weight) / avg_factor,
        vjl.OrthogonalTransformRegularizationLoss()([rows[None]], where=jnp.array([True])),
        HingeLoss(jnp.mean, margin=0.5, names=("a",))(x, x, where=valid),
        ByHand(reducer=worst, scale=2.0)(x, valid[:, None]),
    ]


def tracker_heads(x: jax.Array, labels: jax.Array) -> list[jax.Array]:
    states, valid = jnp.ones((2, 5, 7)), jnp.array([True, False])
    losses: vjl.QDTrackInstanceSimilarityLosses = vjl.QDTrackInstanceSimilarityLoss(0.5)(
        x[None], x[None, None], labels[:1], labels[None, :1], key_where=valid[None]
    )
    same = vjl.qdtrack_instance_similarity_loss(
        x[None], x[None, None], labels[:1], labels[None, :1], softmax_temp=jnp.array(0.5)
    )
    boxes: dict[str, jax.Array] = vjl.Box3DUncertaintyLoss(worst, 2.0, num_rotation_bins=1)(
        jnp.ones((2, 3, 10)), jnp.ones((2, 8)), labels[0], where=valid
    )
    rows = vjl.box3d_uncertainty_loss(
        jnp.ones((2, 3, 13)), jnp.ones((2, 10)), labels[0], vjl.identity_loss
    )
    motion = vjl.VeloLSTMLoss(smooth_weight=0.1)(states[:, 1:], states[:, 1:], states)
    also = vjl.velo_lstm_loss(states[:, 1:], states[:, 1:], states, where=valid)
    named = [boxes["loss_ctr3d"], rows["loss_unc3d"], motion["pred_loss"], also["linear_loss"]]
    return [losses.track_loss, losses.track_loss_aux, *same, *named]


def objective(x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    inputs: dict[str, vjl.InputPath] = {"pred": vjl.pred_key("a.b"), "target": vjl.data_key("a")}
    schedule: vjl.Schedule = optax.linear_schedule(0.0, 1.0, 10)
    weight: vjl.TermWeight = 2.0
    terms = {
        "box": LossTerm(IoULoss(mean_loss, mode="square"), weight=weight, inputs=inputs),
        "l1": LossTerm(L1Loss(mean_loss), schedule, inputs),
    }
    inner = LossModule(terms, exclude=("l1",))
    outer = LossModule([("inner", inner), ("box", inner.terms["box"])], exclude="box")
    assert outer.terms["box"].weight == weight
    assert outer.exclude == ("box",)
    step = jax.value_and_grad(outer, has_aux=True)
    (total, metrics), _ = step({"a": {"b": x}}, {"a": x}, step=jnp.array(5))
    return total, metrics


def regularizer(kernels: list[jax.Array]) -> jax.Array:
    return sum((jnp.sum(kernel**2) for kernel in kernels), jnp.zeros(()))


def structured_inputs(x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    weighted = vjl.SumWeightedLoss(vjl.data_key("weight"), vjl.data_key("count"))
    terms = {
        "a": LossTerm(
            L1Loss(),
            inputs={"pred": vjl.pred_key("x"), "target": vjl.data_key("y"), "reducer": weighted},
        ),
        "b": LossTerm(
            regularizer,
            weight=0.1,
            inputs={"kernels": [vjl.pred_key("x"), vjl.pred_key("x")], "where": None},
        ),
    }
    objective = LossModule(terms, unweighted=True)
    term: LossTerm = objective.terms["a"]
    assert term.weight == 1.0
    batch = {"y": x, "weight": jnp.ones_like(x), "count": x.size}
    return objective({"x": 2 * x}, batch, where=jnp.ones(len(x), bool))


def over_devices(x: jax.Array) -> jax.Array:
    axis_name: vjl.AxisName = "data"
    mesh = jax.make_mesh((1,), ("data",))
    step: Callable[[jax.Array], jax.Array] = vjl.OverAxis(mean_loss, axis_name)
    mean = jax.shard_map(step, mesh=mesh, in_specs=P("data"), out_specs=P())
    return mean(jax.device_put(x, NamedSharding(mesh, P("data"))))


def run() -> None:
    x, labels, key = jnp.ones((2, 2)), jnp.array([[0, 1], [1, 0]]), jax.random.key(0)
    model = Net(HingeLoss(jnp.mean), nnx.Rngs(0))
    linen = LinenNet()
    losses = functions(x, labels, key), modules(x, labels), objective(jnp.ones((2, 4)))
    options = ignored_labels(labels), traced_options(x), structured_inputs(x), heads(labels)
    outputs = model(x), linen.apply(linen.init(key, x), x), over_devices(jnp.ones(2))
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((losses, options, outputs)))
    assert all(isinstance(reducer, LossReducer) for reducer in reducers())
