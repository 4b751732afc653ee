"""What is measured: each loss at three sizes, and whom it is compared with."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import literal
import numpy as np
import optax
import reference

import vis4d_jax_loss as vjl

_RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Row:
    """A loss of its first input, in each contestant's words.

    ``floors`` says, a size, how many times as fast as the reference ours must be; ``passes`` how
    many copy passes it may take where that is known to bound it.
    """

    name: str
    sizes: tuple[tuple[int, ...], ...]
    make: Callable[..., list[np.ndarray]]
    ours: Callable
    literal: Callable
    optax: Callable | None = None
    reference: Callable | None = None
    #: Reads every input once and writes what the gradient's size is.
    limit: Callable = jnp.subtract
    floors: tuple[float | None, ...] = (None, None, None)
    passes: float | None = None
    gradient: bool = True
    #: How the reference wants the inputs, if not as ours.
    for_reference: Callable | None = None


def _pair(*shape):
    return [_RNG.normal(size=shape).astype(np.float32) for _ in range(2)]


def _boxes(count):
    def boxes():
        low = _RNG.uniform(0, 40, (count, 2))
        return np.concatenate([low, low + _RNG.uniform(20, 80, (count, 2))], 1).astype(np.float32)

    return [boxes(), boxes()]


def _padded_boxes(count):
    """Images of 100 boxes, of which the last 10 to 50 are padding."""
    real = np.repeat(_RNG.integers(50, 91, count // 100), 100)
    return [*_boxes(count), np.arange(count) % 100 < real]


def _rotations(count):
    pred, bins = _RNG.normal(size=(count, 6)), _RNG.random((count, 2)) < 0.6
    residuals = _RNG.uniform(-np.pi, np.pi, (count, 2))
    return [x.astype(np.float32) for x in (pred, bins, residuals)]


def _images(n, height, width, classes):
    logits = _RNG.normal(size=(n, height, width, classes)).astype(np.float32)
    labels = _RNG.integers(0, classes, (n, height, width))
    labels[_RNG.random(labels.shape) < 0.1] = 255
    return [logits, labels.astype(np.int32)]


def _images_first(n, classes, height, width):
    return _classes_first(_images(n, height, width, classes))


def _classes_first(arrays):
    return [np.ascontiguousarray(np.moveaxis(arrays[0], -1, 1)), arrays[1]]


def _similarities(share):
    def make(rows, columns):
        pred = _RNG.uniform(-0.2, 1, (rows, columns))
        return [pred.astype(np.float32), (_RNG.random((rows, columns)) < share).astype(np.float32)]

    return make


def _optax_segmentation(class_axis):
    def loss(output, target):
        losses = optax.softmax_cross_entropy_with_integer_labels(
            output, jnp.where(target == 255, 0, target), axis=class_axis
        )
        return jnp.mean(losses, where=target != 255)

    return loss


def _of_reference(build: Callable) -> Callable | None:
    return build(reference) if reference.available else None


def _segmentation(layout, make, sizes, class_axis, floor):
    return Row(
        f"segmentation {layout}, 10% ignored",
        sizes,
        make,
        lambda z, y: vjl.seg_cross_entropy_loss(z, y, class_axis=class_axis),
        literal.segmentation(class_axis),
        _optax_segmentation(class_axis),
        _of_reference(lambda r: lambda z, y: r.losses.SegCrossEntropyLoss()(z, y)["loss_seg"]),
        lambda z, y: jnp.where(jnp.expand_dims(y == 255, class_axis), 0, z * 2),
        floors=(None, None, floor),
        for_reference=_classes_first if class_axis == -1 else None,
    )


def _regression(name, optax_loss, floor):
    return Row(
        name,
        ((80_000,), (800_000,), (8_000_000,)),
        _pair,
        lambda p, t: getattr(vjl, name)(p, t, vjl.mean_loss),
        getattr(literal, name),
        optax_loss,
        _of_reference(lambda r: lambda p, t: getattr(r, name)(p, t, r.mean_loss)),
        floors=(None, None, floor),
        passes=1.5,
    )


def _iou(mode):
    return Row(
        f"iou_loss {mode}",
        ((10_000, 4), (100_000, 4), (1_000_000, 4)),
        lambda count, _: _boxes(count),
        lambda p, t: vjl.iou_loss(p, t, vjl.mean_loss, mode),
        literal.iou_loss(mode),
        None,
        _of_reference(lambda r: lambda p, t: r.iou_loss(p, t, r.mean_loss, mode)),
        floors=(None, None, 5),
        passes=1.5,
    )


def _padded(name, ours, literal_loss, of_reference):
    return Row(
        f"{name}, 30% padding",
        ((10_000, 4), (100_000, 4), (1_000_000, 4)),
        lambda count, _: _padded_boxes(count),
        lambda p, t, where: ours(p, t, vjl.mean_loss, where=where),
        literal_loss,
        None,
        # It has no masks: the boxes that count are picked out first.
        _of_reference(lambda r: lambda p, t, w: of_reference(r)(p[w], t[w], r.mean_loss)),
        lambda p, t, where: jnp.where(where[:, None], p - t, 0),
        passes=1.5,
    )


ROWS = [
    _regression("l1_loss", None, 2.5),
    _regression("l2_loss", lambda p, t: 2 * optax.l2_loss(p, t).mean(), 2.5),
    _regression("smooth_l1_loss", lambda p, t: optax.huber_loss(p, t).mean(), 4),
    _padded(
        "smooth_l1_loss of boxes",
        vjl.smooth_l1_loss,
        literal.masked_smooth_l1_loss,
        lambda r: r.smooth_l1_loss,
    ),
    _iou("log"),
    _iou("square"),
    _padded("iou_loss log", vjl.iou_loss, literal.masked_iou_loss("log"), lambda r: r.iou_loss),
    Row(
        "rotation_loss, 2 bins",
        ((2_000, 6), (20_000, 6), (200_000, 6)),
        lambda count, _: _rotations(count),
        lambda p, b, r: vjl.rotation_loss(p, b, r, 2, vjl.mean_loss),
        literal.rotation_loss,
        None,
        _of_reference(lambda r: lambda p, b, a: r.rotation_loss(p, b, a, 2, r.mean_loss)),
        lambda p, b, r: p * jnp.repeat(b * r, 3, axis=1),
        floors=(None, None, 2.5),
        passes=1.5,
    ),
    _segmentation(
        "NHWC", _images, ((2, 128, 256, 19), (2, 256, 512, 19), (2, 512, 1024, 19)), -1, 1.3
    ),
    _segmentation(
        "NCHW", _images_first, ((2, 19, 128, 256), (2, 19, 256, 512), (2, 19, 512, 1024)), 1, 1.0
    ),
    Row(
        "multi_pos_cross_entropy",
        ((64, 128), (128, 256), (256, 512)),
        _similarities(0.02),
        lambda p, t: vjl.multi_pos_cross_entropy(p, t, vjl.mean_loss),
        literal.multi_pos_cross_entropy,
        None,
        _of_reference(lambda r: lambda p, t: r.multi_pos_cross_entropy(p, t, r.mean_loss)),
        floors=(None, 80, 800),
    ),
    Row(
        "embedding_distance_loss, mined, 5% positive",
        ((128, 256), (256, 512), (512, 1024)),
        _similarities(0.05),
        vjl.embedding_distance_loss,
        literal.embedding_distance_loss,
        None,
        _of_reference(lambda r: r.in_place(r.losses.EmbeddingDistanceLoss())),
        floors=(None, None, 4),
    ),
    Row(
        "orthogonal_transform_regularization_loss",
        ((32, 3, 3), (32, 64, 64), (512, 64, 64)),
        lambda *shape: [np.eye(shape[-1], dtype=np.float32) + 0.1 * _pair(*shape)[0]],
        lambda x: vjl.orthogonal_transform_regularization_loss([x]),
        literal.orthogonal,
        None,
        _of_reference(lambda r: lambda x: r.losses.OrthogonalTransformRegularizationLoss()([x])),
        lambda x: x * 2,
        floors=(1.0, 1.0, 1.0),
    ),
    Row(
        "top_k_mask, k = 1500",
        ((128, 256), (256, 512), (512, 1024)),
        lambda *shape: _pair(*shape)[:1],
        lambda x: vjl.top_k_mask(x, 1500),
        lambda x: literal.top_k_mask(x, 1500),
        None,
        None,
        lambda x: x * 2,
        passes=40,
        gradient=False,
    ),
]


def contestants(row: Row) -> dict[str, Callable]:
    """The losses in JAX, by the name of their column."""
    named = {"ours": row.ours, "literal": row.literal, "optax": row.optax}
    return {name: loss for name, loss in named.items() if loss is not None}


def step(row: Row, loss: Callable) -> Callable:
    """What a training step does with it: value and gradient with respect to the first input."""
    return jax.value_and_grad(loss) if row.gradient else loss
